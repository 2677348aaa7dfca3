"""The state of DeepMedic's trainer in a checkpoint: epochs, rates, and slots of its optimiser.

Slots are numbered in the order in which the trainer met the weights that learn: normal pathway,
subsampled pathways, final pathway, the bias of the classes last; within a layer norm or bias,
slopes, kernel. Frozen layers have none, so that the numbers after them shift. Which optimiser it
was follows from the names of the slots.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseg.errors import DeepsegError, Problem
from deepseg.model.layout import Layout
from deepseg.transfer.sources.deepmedic import MEANS, VARIANCES, shapes, variables

SCOPE = "trainer/"
Arrays: TypeAlias = Mapping[str, NDArray[np.number[Any]]]
OptimiserName: TypeAlias = Literal["sgd", "rmsprop", "adam"]

SLOTS: dict[OptimiserName, dict[str, str]] = {
    "rmsprop": {"square": "accu_grad_squared", "velocity": "velocities_for_mom"},
    "adam": {"mean": "means_of_grads", "square": "vars_of_grads"},
    "sgd": {"velocity": "velocities_for_mom"},
}
"""DeepMedic's slots by our kind of state; the first optimiser that has all of its slots is it."""


@dataclass(frozen=True)
class TrainerState:
    """The state from which DeepMedic's training goes on.

    Attributes:
        epochs: Finished.
        optimiser: Its name in train files.
        learning_rate: Before any schedule; None where the file does not tell.
        momentum: Before any schedule; None where the file does not tell.
        is_lowered: The schedule that follows accuracy has lowered the learning rate.
        steps: Updates so far, as far as the optimiser counts them.
        slots: Tensors by our name of the weight and our kind of state.
    """

    epochs: int
    optimiser: OptimiserName
    learning_rate: float | None
    momentum: float | None
    is_lowered: bool
    steps: int
    slots: Mapping[str, Mapping[str, Tensor]]


def epochs_trained(arrays: Arrays) -> int:
    """Epochs after which a checkpoint was written; 0 where it does not tell.

    >>> epochs_trained({"trainer/num_epochs_trained": np.array(35)})
    35
    """
    epochs = _scalar(arrays, "num_epochs_trained")
    return 0 if epochs is None else int(epochs)


def trainer_state(arrays: Arrays, layout: Layout, frozen: Collection[str]) -> TrainerState | None:
    """The state of the trainer that wrote a checkpoint; None where no optimiser's is in it.

    Args:
        arrays: By DeepMedic's name.
        layout: Of the network that the checkpoint was written for.
        frozen: Addresses of the layers that do not learn; those of the checkpoint have slots for
            all weights, or for all but theirs.

    Raises:
        DeepsegError: ``checkpoint-does-not-fit``, for slots of other weights.
    """
    optimiser = next((name for name, slots in SLOTS.items() if _has(arrays, slots.values())), None)
    if optimiser is None:
        return None
    steps = _scalar(arrays, "i_adam")
    return TrainerState(
        epochs=epochs_trained(arrays),
        optimiser=optimiser,
        learning_rate=_scalar(arrays, "init_lr"),
        momentum=_scalar(arrays, "init_mom"),
        is_lowered=_scalar(arrays, "curr_lr_tfv") not in (None, _scalar(arrays, "init_lr")),
        steps=0 if steps is None else int(steps),
        slots=_slots(arrays, layout, frozen, SLOTS[optimiser]),
    )


def _has(arrays: Arrays, slots: Collection[str]) -> bool:
    return all(f"{SCOPE}{slot}" in arrays for slot in slots)


def _scalar(arrays: Arrays, name: str) -> float | None:
    """A number, in as few digits as tell it from its neighbours: 0.6, not 0.6000000238."""
    array = arrays.get(f"{SCOPE}{name}")
    return None if array is None or array.size != 1 else float(str(array.reshape(())))


def _slots(
    arrays: Arrays, layout: Layout, frozen: Collection[str], names: Mapping[str, str]
) -> dict[str, dict[str, Tensor]]:
    """Tensors by weight and kind, once numbers and shapes agree."""
    all_weights = list(_learning(layout, frozen=()))
    learning = list(_learning(layout, frozen))
    counts = {slot: sum(_is_slot(name, slot) for name in arrays) for slot in names.values()}
    count = next(iter(counts.values()))
    order = all_weights if count == len(all_weights) else learning
    if any(number != len(order) for number in counts.values()):
        raise _misfit(
            f"slots of an optimiser for {count} tensors", _expected(all_weights, learning)
        )
    expected = shapes(layout)
    state: dict[str, dict[str, Tensor]] = {}
    for number, weight in enumerate(order):
        for kind, slot in names.items():
            name = f"{SCOPE}{slot}_{number}" if number else f"{SCOPE}{slot}"
            array = arrays.get(name)
            shape = None if array is None else array.shape
            if array is None or shape != expected[weight]:
                raise _misfit(
                    f"{name} of shape {'none' if shape is None else list(shape)}",
                    f"shape {list(expected[weight])} of {weight}",
                )
            tensor = torch.from_numpy(np.array(array, dtype=np.float32))
            state.setdefault(weight, {})[kind] = tensor
    return {weight: state[weight] for weight in learning}


def _is_slot(name: str, slot: str) -> bool:
    first, _, number = name.partition(f"{SCOPE}{slot}")
    return not first and name.startswith(f"{SCOPE}{slot}") and number.strip("_0123456789") == ""


def _learning(layout: Layout, frozen: Collection[str]) -> Iterator[str]:
    """Weights that learn, in DeepMedic's order."""
    for variable in variables(layout):
        address = layout.address_of(variable.weight)
        if variable.role not in (MEANS, VARIANCES) and address not in frozen:
            yield variable.weight


def _expected(all_weights: Sequence[str], learning: Sequence[str]) -> str:
    if len(learning) == len(all_weights):
        return f"those of the {len(all_weights)} tensors of the network"
    return f"those of its {len(all_weights)} tensors, or of the {len(learning)} that learn"


def _misfit(got: str, expected: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="checkpoint-does-not-fit",
            got=got,
            expected=expected,
            fix="freeze the layers that were frozen when it was written, or add -resetOptimizer to "
            "take its weights only",
        )
    )
