"""A larger network that computes what the smaller one did: wider, deeper, with more pathways.

Wider layers repeat maps of the older model, and what reads the copies shares the old weights among
them (Net2Wider). Further layers pass their input on (Net2Deeper). Further pathways and channels
begin with weight zero. Unpadded layers that are added make the prediction smaller, not different.
All this holds for inference; doi:10.48550/arXiv.1511.05641.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeAlias

import torch
from torch import Tensor

from deepseg.errors import Problem
from deepseg.geometry.boxes import text
from deepseg.model.layout import LayerPlan, Layout
from deepseg.transfer.differences import layer_differences
from deepseg.transfer.map_selection import MapSelection, repeated
from deepseg.transfer.matching import Match, Matching, ranges
from deepseg.transfer.rules import TransferRules

Maps: TypeAlias = tuple[int | None, ...]  # per map of the new model, its index in the older one


@dataclass(frozen=True)
class GrownLayers:
    """The connections of one layer of the new model.

    Attributes:
        incoming: Along the inputs of its kernels.
        outputs: Which map of the older model each of its outputs is.
        passes: For an inserted layer, the input that each output repeats; None where the residual
            connection brings it already.
    """

    incoming: MapSelection
    outputs: Maps
    passes: tuple[int | None, ...] = ()


class Growth:
    """Connections of every layer of a new model that has to compute what an older one does.

    Attributes:
        layers: By address; without the layers of pathways that have no source.
        problems: Why the function cannot be kept; empty if it is.
    """

    def __init__(
        self,
        source: Layout,
        target: Layout,
        matching: Matching,
        rules: TransferRules,
        channels: MapSelection,
        classes: MapSelection,
    ) -> None:
        self.layers: dict[str, GrownLayers] = {}
        self.problems: list[Problem] = []
        self._rules = rules
        matches = {match.target.address: match for match in matching.layers}
        self._channels_stay(channels, source.pathways[0].layers[0].inputs)
        self._same_factors(source, target, matching)
        joined: list[int | None] = []
        for pathway in target.pathways:
            chain = [matches[layer.address] for layer in pathway.layers]
            begin = source.blocks.get(matching.blocks[pathway.name] or "")
            ends = self._walk(chain, _single(channels), channels, classes)
            joined += [None if index is None or begin is None else index + begin for index in ends]
        self._require_all_sources(source, matching)
        chain = [matches[layer.address] for layer in target.fc.layers]
        self._walk(chain, tuple(joined), repeated(joined), classes)

    def _walk(
        self, chain: Sequence[Match], inputs: Maps, incoming: MapSelection, classes: MapSelection
    ) -> Maps:
        """Connect the layers of one pathway; return what its last maps are."""
        if chain[0].status == "kept":  # a pathway that the source does not have
            return (None,) * chain[-1].target.outputs
        spaces: list[Maps] = [inputs]
        before: Match | None = None
        for match in chain:
            selection = incoming if before is None else repeated(spaces[-1])
            earlier = spaces[-2] if match.target.adds_earlier_input else None
            if match.target.is_head:
                if match.source is not None:
                    self._check(match, match.source)
                    self._adds_alike(match.target, _single(classes), earlier, before)
                    self.layers[match.target.address] = GrownLayers(selection, _single(classes))
                break
            if match.source is None:
                grown = self._inserted(match.target, selection, spaces[-1], earlier, before)
            else:
                grown = self._widened(match, match.source, selection, earlier, before)
            self.layers[match.target.address] = grown
            spaces.append(grown.outputs)
            before = match
        return spaces[-1]

    def _widened(
        self,
        match: Match,
        source: LayerPlan,
        incoming: MapSelection,
        earlier: Maps | None,
        before: Match | None,
    ) -> GrownLayers:
        target = match.target
        self._check(match, source)
        if self._rules.width == "overlap" and target.outputs != source.outputs:
            self._refuse(
                target,
                f"{target.outputs} feature maps, {source.outputs} in the source",
                "as many, or -width net2net",
                "add -width net2net",
            )
        plain = _cycled(source, target)
        if earlier is None or target.is_low_rank:
            outputs = plain
        else:
            outputs = _with_residual(plain, earlier, _added_in_source(before), source)
        self._adds_alike(target, outputs, earlier, before)
        self._covers(target, set(range(source.outputs)), outputs)
        return GrownLayers(incoming, outputs)

    def _inserted(
        self,
        target: LayerPlan,
        incoming: MapSelection,
        inputs: Maps,
        earlier: Maps | None,
        before: Match | None,
    ) -> GrownLayers:
        if target.activation not in ("prelu", "linear"):
            self._refuse(
                target,
                f"activation {target.activation}",
                "prelu or linear in layers that only pass their input on",
                "choose prelu, or -depth first-common",
            )
        if any(n % 2 == 0 for n in target.kernel):
            self._refuse(
                target,
                f"a kernel of {text(target.kernel)}",
                "odd sizes in layers that only pass their input on",
                "choose the next odd size",
            )
        if self._rules.width == "overlap" and target.outputs != target.inputs:
            self._refuse(
                target,
                f"{target.outputs} feature maps behind {target.inputs}",
                "as many",
                "give further layers the width of the layer before, or add -width net2net",
            )
        brought: Maps = ()
        if earlier is not None:
            brought = earlier[: target.outputs]
            if before is None or before.status != "inserted":
                self._refuse(
                    target,
                    "a residual around a layer of the source",
                    "residuals of further layers around further layers only",
                    f"leave {target.address} out of residuals",
                )
        passes = [j % target.inputs for j in range(len(brought), target.outputs)]
        outputs = (*brought, *(inputs[k] for k in passes))
        self._covers(target, {index for index in inputs if index is not None}, outputs)
        return GrownLayers(incoming, outputs, (*[None] * len(brought), *passes))

    def _check(self, match: Match, source: LayerPlan) -> None:
        """Layers that correspond must compute alike; another dropout is made up for."""
        target = match.target
        for difference in layer_differences(source, target):
            setting = difference.setting
            if setting in ("padding", "residual"):
                self._refuse(
                    target,
                    f"{setting} {difference.new}",
                    f"{difference.old}, as in the source",
                    f"give {target.address} the {setting} of the source",
                )

    def _adds_alike(
        self, target: LayerPlan, outputs: Maps, earlier: Maps | None, before: Match | None
    ) -> None:
        """A residual must bring every map of the source what it brought there, and no more."""
        count = _added_in_source(before)
        if earlier is not None and not _adds_same_maps(outputs, earlier, count):
            self._refuse(
                target,
                "a residual that would add other maps than in the source",
                "widths at which every map keeps its own earlier input",
                "widen all layers by one factor, leave the residual out, or drop the option",
            )

    def _covers(self, target: LayerPlan, maps: set[int], outputs: Maps) -> None:
        lost = maps - set(outputs)
        if lost:
            self._refuse(
                target,
                f"{target.outputs} feature maps, in which {len(lost)} of the source's "
                "have no place",
                f"room for all {len(maps)}",
                "give the layer more feature maps",
            )

    def _channels_stay(self, channels: MapSelection, count: int) -> None:
        """Every channel of the source must be read as it was: by one, or in shares that are 1."""
        shares = dict.fromkeys(range(count), 0.0)
        for row in channels.maps:
            for index, share in (row or {}).items():
                shares[index] += share
        mixed = any(row is None or len(row) > 1 for row in channels.maps)
        if mixed or any(not math.isclose(share, 1) for share in shares.values()):
            self._add(
                f"other channels ({'; '.join(channels.notes)})",
                "each channel of the source once, and zero for new ones",
                "give the new model all channels of the source, and no -channels",
            )

    def _same_factors(self, source: Layout, target: Layout, matching: Matching) -> None:
        """Pathways that correspond must see the same, unless they do so in mm."""
        factors = {pathway.name: pathway.geometry.factor for pathway in source.pathways}
        for pathway in target.pathways:
            name = matching.blocks[pathway.name]
            if name is None or self._rules.spacing_mm is not None:
                continue
            if factors[name] != pathway.geometry.factor:
                self._add(
                    f"{pathway.name} with factor {text(pathway.geometry.factor)}",
                    f"{text(factors[name])}, as {name} of the source",
                    "give the pathway this factor, or -spacing if the voxels have another size",
                )

    def _require_all_sources(self, source: Layout, matching: Matching) -> None:
        for pathway in source.pathways:
            if pathway.name not in matching.blocks.values():
                self._add(
                    f"no pathway for {pathway.name} of the source",
                    "a pathway of the new model for each of the source",
                    "add a pathway, or say with -pathways where it goes",
                )
        *hidden, _ = source
        lost = [layer.address for layer in hidden if layer.address not in matching.sources()]
        if lost:
            self._add(
                f"no layers for {', '.join(ranges(lost))} of the source",
                "at least as many layers as in the source",
                "add layers to the new model",
            )

    def _refuse(self, layer: LayerPlan, got: str, expected: str, fix: str) -> None:
        self._add(f"{layer.address} with {got}", expected, fix)

    def _add(self, got: str, expected: str, fix: str) -> None:
        self.problems.append(Problem("function-not-kept", got, expected, fix))


def _single(selection: MapSelection) -> Maps:
    """The one map that each map is; None for zeros, mixtures and new ones."""
    return tuple(next(iter(row)) if row and len(row) == 1 else None for row in selection.maps)


def _cycled(source: LayerPlan, target: LayerPlan) -> tuple[int, ...]:
    """All maps of the source again and again; those of flat kernels within their plane."""
    outputs: list[int] = []
    for plane, (_, size) in target.planes.items():
        begin, count = source.planes.get(plane, (0, source.outputs))
        outputs += islice(cycle(range(begin, begin + count)), size)
    return tuple(outputs)


def _with_residual(
    plain: tuple[int, ...], earlier: Maps, count: int, source: LayerPlan
) -> tuple[int, ...]:
    """Outputs of which each gets the earlier map that it got in the source.

    The first ``count`` maps of the source add an earlier one, the further ones add nothing.
    """
    if not all(index is not None and index < source.outputs for index in earlier):
        return plain
    first = [index for index in earlier[: len(plain)] if index is not None]
    plain_maps = range(count, source.outputs)
    rest = islice(cycle(plain_maps), len(plain) - len(first)) if plain_maps else ()
    outputs = (*first, *rest)
    return outputs if len(outputs) == len(plain) else plain


def _added_in_source(before: Match | None) -> int:
    """The number of maps that a residual adds in the source: the inputs of the layer before."""
    return 0 if before is None or before.source is None else before.source.inputs


def _adds_same_maps(outputs: Maps, earlier: Maps, count: int) -> bool:
    """Every output adds the earlier map of its own index, if and only if there is one.

    Outputs that are not in the source, such as new classes, may add anything.
    """
    added: tuple[int | str | None, ...] = (*earlier, *["nothing"] * len(outputs))
    return all(
        addend == (index if index < count else "nothing")
        for index, addend in zip(outputs, added, strict=False)
        if index is not None
    )


def identity(layer: LayerPlan, passes: Sequence[int | None], epsilon: float) -> dict[str, Tensor]:
    """Weights with which ``layer`` gives every output the input that it ``passes``.

    Returns:
        By name within the layer, such as ``conv.weight``; statistics of windows excepted.
    """
    unit, zeros = torch.ones(layer.inputs), torch.zeros(layer.inputs)
    weights: dict[str, Tensor] = {}
    if layer.normalises:
        weights["norm.weight"], weights["norm.bias"] = unit, zeros
        weights["norm.running_mean"] = zeros
        weights["norm.running_var"] = unit - epsilon
    else:
        weights["input_bias"] = zeros
    if layer.activation == "prelu":
        weights["activation.weight"] = unit
    for plane, (outputs, kernel) in layer.convolutions.items():
        name = f"conv.{plane}.weight" if plane else "conv.weight"
        weights[name] = torch.zeros(outputs, layer.inputs, *kernel)
        middle = tuple((k - 1) // 2 for k in kernel)
        begin, count = layer.planes[plane]
        for j, k in enumerate(passes[begin : begin + count]):
            if k is not None:
                weights[name][(j, k, *middle)] = 1 / (1 - layer.dropout)
    return weights
