"""DeepMedic's variables as our weights.

DeepMedic names a variable by its role and a counter: the first kernel is ``W``, the next ``W_1``,
and so on, in the order in which the layers were created: normal pathway, subsampled pathways, final
pathway, softmax. The architecture itself is not in its checkpoint; it is that of the model file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseg.errors import DeepsegError, Problem
from deepseg.model.layout import LayerPlan, Layout

SCOPE = "net/"

REMEDY = (
    "give the model file that the checkpoint was trained with (-layers all makes a .save of it, "
    "from which any other model can be filled)"
)

MEANS, VARIANCES = "muBnsForRollingAverage", "varBnsForRollingAverage"


@dataclass(frozen=True)
class Variable:
    """One of DeepMedic's variables.

    Attributes:
        name: With its counter: ``gBn_3``.
        weight: Our name of the same numbers: ``normal.5.norm.weight``.
        role: Without the counter.
    """

    name: str
    weight: str
    role: str


def variables(layout: Layout) -> Iterator[Variable]:
    """Every variable of a network in DeepMedic's order of creation."""
    counts: Counter[str] = Counter()
    for layer in layout:
        for role, weight in _roles(layer):
            number = counts[role]
            counts[role] += 1
            yield Variable(f"{role}_{number}" if number else role, weight, role)


def _roles(layer: LayerPlan) -> Iterator[tuple[str, str]]:
    """Role and our name of each variable of a layer, the class bias last."""
    address = layer.address
    if layer.normalises:
        yield "gBn", f"{address}.norm.weight"
        yield "bBn", f"{address}.norm.bias"
        yield MEANS, f"{address}.norm.running_mean"
        yield VARIANCES, f"{address}.norm.running_var"
    else:
        yield "b", f"{address}.input_bias"
    if layer.activation == "prelu":
        yield "aPrelu", f"{address}.activation.weight"
    if layer.is_low_rank:
        # DeepMedic's three flat kernels, in the order in which their outputs are joined.
        yield "w_x", f"{address}.conv.xy.weight"
        yield "w_y", f"{address}.conv.yz.weight"
        yield "w_z", f"{address}.conv.xz.weight"
    else:
        yield "W", f"{address}.conv.weight"
    if layer.is_head:
        yield "b", f"{address}.bias"


def has_names(names: Iterable[str]) -> bool:
    """True if these are DeepMedic's variables: its first kernel and first bias are among them.

    >>> has_names(["W", "W_1", "b"]), has_names(["normal.1.conv.weight"])
    (True, False)
    """
    return {"W", "b"} <= {_plain(name) for name in names}


def weights(arrays: Mapping[str, NDArray[np.number[Any]]], layout: Layout) -> dict[str, Tensor]:
    """Our weights by name, from the arrays of a checkpoint.

    The statistics of batch normalisation are rings of the last steps; their mean is what
    DeepMedic uses for inference. The rings come along for networks that go on with a window.

    Args:
        arrays: By DeepMedic's name, with or without its scope ``net/`` and TensorFlow's ``:0``.
        layout: Of the network that the checkpoint was written for.

    Raises:
        DeepsegError: ``checkpoint-does-not-fit``: variables that are missing, that have another
            shape, or that the network has no place for.
    """
    network = {_plain(name): array for name, array in arrays.items() if _is_of_network(name)}
    expected = list(variables(layout))
    tensors: dict[str, Tensor] = {}
    problems = []
    expected_shapes = shapes(layout)
    for variable in expected:
        array = network.get(variable.name)
        shape = None if array is None else _shape_of_weight(array, variable)
        if array is None or shape != expected_shapes[variable.weight]:
            problems.append(_misfit(variable, shape, expected_shapes[variable.weight]))
            continue
        tensors.update(_tensors(array, variable))
    surplus = network.keys() - {variable.name for variable in expected}
    problems += [_surplus(name, network[name]) for name in sorted(surplus)]
    if problems:
        raise DeepsegError(_together(problems))
    return tensors


def _together(problems: Sequence[Problem]) -> Problem:
    """The first misfit, and how many there are: one wrong layer shifts all names after it."""
    first, *further = problems
    if not further:
        return first
    return replace(first, got=f"{first.got}, and {len(further)} more misfits")


def _plain(name: str) -> str:
    return name.removeprefix(SCOPE).removesuffix(":0")


def _is_of_network(name: str) -> bool:
    role = name.removeprefix(SCOPE)
    return not name.startswith("trainer/") and not role.startswith(("sharedNew", "_"))


def _tensors(array: NDArray[np.number[Any]], variable: Variable) -> Iterator[tuple[str, Tensor]]:
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    if variable.role not in (MEANS, VARIANCES):
        yield variable.weight, tensor
        return
    yield variable.weight, torch.from_numpy(np.mean(array, axis=0, dtype=np.float64)).float()
    yield variable.weight.replace(".running_", ".window_"), tensor
    # Where the ring goes on is not in the checkpoint: DeepMedic begins at its first row again.
    norm = variable.weight.rpartition(".")[0]
    yield f"{norm}.steps", torch.zeros((), dtype=torch.int64)


def _shape_of_weight(array: NDArray[np.number[Any]], variable: Variable) -> tuple[int, ...]:
    return array.shape[1:] if variable.role in (MEANS, VARIANCES) else array.shape


def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that a network may have, by our names."""
    by_name: dict[str, tuple[int, ...]] = {}
    for layer in layout:
        for part in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
            by_name[f"{layer.address}.{part}"] = (layer.inputs,)
        by_name[f"{layer.address}.input_bias"] = (layer.inputs,)
        by_name[f"{layer.address}.activation.weight"] = (layer.inputs,)
        by_name[f"{layer.address}.bias"] = (layer.outputs,)
        for plane, (outputs, kernel) in layer.convolutions.items():
            name = (
                f"{layer.address}.conv.{plane}.weight" if plane else f"{layer.address}.conv.weight"
            )
            by_name[name] = (outputs, layer.inputs, *kernel)
    return by_name


def _misfit(
    variable: Variable, shape: tuple[int, ...] | None, expected: tuple[int, ...]
) -> Problem:
    got = "no such variable" if shape is None else f"shape {list(shape)}"
    return Problem(
        code="checkpoint-does-not-fit",
        got=f"{got} for {variable.name}",
        expected=f"shape {list(expected)} of {variable.weight}",
        fix=REMEDY,
    )


def _surplus(name: str, array: NDArray[np.number[Any]]) -> Problem:
    return Problem(
        code="checkpoint-does-not-fit",
        got=f"variable {name} of shape {list(array.shape)}",
        expected="only variables that the model file has layers for",
        fix=REMEDY,
    )
