"""An imported network within a step: the nodes of its graph, operator by operator.

Sizes are worked out here and now, since those of the images are known. What a node means is read
where torch computes it too, in `deepseg.model.graph.operators`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseg.config.blocks.imported import AttachPoint
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.exports.gradients.resampling import along_axis, chosen, joined, selection_matrix
from deepseg.exports.gradients.tape import Tape, Variable
from deepseg.exports.train_step.construction import Construction
from deepseg.exports.train_step.operators import OPERATORS, Translated, covered_setting
from deepseg.geometry.boxes import Int3
from deepseg.geometry.context import margin
from deepseg.model.feature_maps import AXES
from deepseg.model.graph.graph import GraphNode
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.operators.call import Call
from deepseg.model.graph.program import Step, as_tuple
from deepseg.model.layout import PathwayLayout
from deepseg.model.network import Network


def check_operators(network: Network) -> None:
    """Refuse imported networks with nodes that a step of training is not written for.

    Raises:
        DeepsegError: ``train-step-operator``, a problem for every kind of node.
    """
    raise_if_any(_refusals(network))


def _refusals(network: Network) -> Iterator[Problem]:
    for pathway in network.layout.pathways:
        if pathway.network is None:
            continue
        kinds: dict[str, list[GraphNode]] = {}
        for step in network.imported(pathway.name).program.steps:
            reason = None if step.is_host else _refusal(step.node)
            if reason is not None:
                kinds.setdefault(reason, []).append(step.node)
        for reason, nodes in kinds.items():
            more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            yield Problem(
                code="train-step-operator",
                got=f"{reason} at {pathway.name}.{nodes[0].label}{more}",
                expected="operators whose gradient is written for the device",
                fix="cut the imported network in front of it, or train this model with deepseg",
            )


def _refusal(node: GraphNode) -> str | None:
    if node.operator not in OPERATORS:
        return node.operator
    setting = covered_setting(node)
    return None if setting is None else f"{node.operator} with {setting}"


def imported_outputs(
    work: Construction, module: GraphNetwork, pathway: PathwayLayout, x: Variable
) -> Variable:
    """``(N, C, X, Y, Z)`` to the maps of all attach points at full resolution, joined.

    Args:
        work: That is written.
        module: The network of the pathway.
        pathway: Where its maps are read and where they lie.
        x: What the pathway reads.
    """
    outputs = translated(work, module, pathway.name, x)
    shrink = pathway.geometry.shrink
    first, _ = margin(shrink)
    size = [n - less for n, less in zip(x.shape[2:], shrink, strict=True)]
    maps = [  # scores of coarser levels, which may follow, enter no loss here
        _at_full_resolution(work.tape, y, point, first, size)
        for y, point in zip(outputs, pathway.attach_points, strict=False)
    ]
    return joined(work.tape, maps, 1)


def translated(
    work: Construction, module: GraphNetwork, pathway: str, image: Variable
) -> list[Variable]:
    """The outputs of a graph that reads one image; its weights have names that begin with it.

    Args:
        work: That is written.
        module: The network.
        pathway: Its name.
        image: That it reads.
    """
    return _Translation(work, module, pathway).outputs(image)


def _at_full_resolution(
    tape: Tape, y: Variable, point: AttachPoint, first: Int3, size: Sequence[int]
) -> Variable:
    """As `deepseg.model.imported.at_full_resolution`."""
    for axis, begin, offset, stride, start, n in zip(
        AXES, point.begin, point.offset, point.stride, first, size, strict=True
    ):
        voxels = y.shape[axis]
        is_whole = stride == 1 and begin <= start and start - begin + n <= voxels
        if point.is_interpolated and not is_whole:
            places = (start - offset + np.arange(n, dtype=np.float32)) / np.float32(stride)
            y = along_axis(tape, y, axis, _interpolation(places, voxels))
        else:
            numbers = ((start - begin + i) // stride for i in range(n))
            y = chosen(tape, y, axis, [min(max(number, 0), voxels - 1) for number in numbers])
    return y


def _interpolation(places: NDArray[np.float32], voxels: int) -> NDArray[np.float32]:
    """``(n, voxels)``: the shares of the two voxels around each place."""
    places = places.clip(0, voxels - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, voxels - 1)
    share = (places - low)[:, None]
    before, after = (selection_matrix(numbers.tolist(), voxels) for numbers in (low, high))
    return np.asarray(before * (1 - share) + after * share, np.float32)


@dataclass(frozen=True)
class _Translation:
    """One imported network on its way into a graph."""

    work: Construction
    module: GraphNetwork
    pathway: str

    def outputs(self, image: Variable) -> list[Variable]:
        """The graph's outputs of an image."""
        graph = self.module.graph
        values: dict[str, Variable | Tensor] = {graph.inputs[0].name: image}
        for step in self.module.program.steps:
            results = self._results(step, values)
            values.update(zip(step.node.outputs, results, strict=False))
        return [self._variable(name, values) for name in graph.outputs]

    def _results(
        self, step: Step, values: Mapping[str, Variable | Tensor]
    ) -> tuple[Variable | Tensor, ...]:
        node = step.node
        inputs = tuple(
            fixed if fixed is not None else self._value(name, values)
            for name, fixed in zip(node.inputs, step.fixed, strict=True)
        )
        call = Call(
            node,
            tuple(_without_values(x) for x in inputs),
            self.module.graph.opset,
            trains=self.work.trains and self.module.trains(node),
        )
        if step.is_host:
            return as_tuple(step.operator.compute(call))
        label = f"{self.pathway}.{node.label}"
        results = OPERATORS[node.operator](Translated(self.work, call, inputs, label))
        return results if isinstance(results, tuple) else (results,)

    def _value(
        self, name: str, values: Mapping[str, Variable | Tensor]
    ) -> Variable | Tensor | None:
        if not name or name in values:
            return values.get(name)
        key = self.module.keys.get(name)
        if key is not None:
            return self.work[f"{self.pathway}.{key}"]
        return self.module.graph.constants[name]

    def _variable(self, name: str, values: Mapping[str, Variable | Tensor]) -> Variable:
        value = self._value(name, values)
        if not isinstance(value, Variable):
            raise DeepsegError(
                Problem(
                    code="train-step-operator",
                    got=f"an output {name!r} of {self.pathway} that no image enters",
                    expected="maps of the image",
                    fix="attach the pathway at another tensor",
                )
            )
        return value


def _without_values(x: Variable | Tensor | None) -> Tensor | None:
    return torch.empty(x.shape, device="meta") if isinstance(x, Variable) else x
