"""Makes the plan for two models that know their layers: one `TensorPlan` for every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseg.config.blocks.imported import ImportedWeight
from deepseg.config.model import BatchNorm, ModelConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.geometry.boxes import Int3, text
from deepseg.model.layout import ImportedLayerPlan, LayerPlan, Layout, layout
from deepseg.transfer.by_name import plan_by_name
from deepseg.transfer.context_phase import context_places, moved_context
from deepseg.transfer.differences import Difference, network_differences
from deepseg.transfer.first_common import LayerStep, walk_note
from deepseg.transfer.layer_mapping import LayerMapping, layer_mappings
from deepseg.transfer.left_behind import left_behind
from deepseg.transfer.map_selection import MapSelection, channels, classes, overlap
from deepseg.transfer.mapped_layers import MappedLayers
from deepseg.transfer.matching import (
    NEW_HEAD,
    ImportedMatch,
    Match,
    Matching,
    match_layers,
    weighted,
)
from deepseg.transfer.net2net import identity
from deepseg.transfer.plan import Copy, LayerSummary, Plan, TensorPlan
from deepseg.transfer.preparation import carried_preparation
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source
from deepseg.transfer.unet_growth import grown_weights, growth_problems
from deepseg.transfer.unet_level import UnetSize

REPEATED = "maps of the source, repeated"
WINDOW = {"norm.window_mean": "mean", "norm.window_var": "variance", "norm.steps": ""}


def make_plan(
    source: Source, config: ModelConfig, weights: Mapping[str, Tensor], rules: TransferRules
) -> Plan:
    """Decide what becomes of every tensor of a new model.

    Args:
        source: The older model.
        config: Of the new model.
        weights: Of the new model, as initialised.
        rules: What the user asks for.

    Raises:
        DeepsegError: Everything that the rules or the two models make impossible.
    """
    if source.config is None:
        return plan_by_name(source, config, weights, rules)
    raise_if_any(_without_effect(rules))
    if rules.keeps_function and (source.config.unet or config.unet):
        return _grown_unet(source, source.config, config, weights, rules)
    old, new = layout(source.config), layout(config)
    matching = match_layers(old, new, rules, source.spacing_mm)
    raise_if_any(_misfits(matching, rules))
    differences = list(network_differences(source.config, config))
    if rules.keeps_function:
        raise_if_any(_function_problems(differences))
        places = context_places(source.config, old), context_places(config, new)
        raise_if_any(moved_context(*places, matching.blocks))
    else:
        differences += matching.differences()
    mappings = layer_mappings(source.config, config, old, new, matching, rules)
    tensors = {
        tensor.name: tensor
        for match in matching.layers
        for tensor in _layer_tensors(
            LayerTransfer(match, mappings.get(match.target.address), config, rules),
            weights,
            source.tensors,
        )
    }
    axes = _NamedAxes(
        channels(config.channels, source.config.channels, rules.channels),
        classes(config.classes, source.config.classes, rules.classes),
        new.head,
    )
    tensors |= {
        tensor.name: tensor
        for match in matching.imported
        for tensor in _imported_tensors(match, weights, source.tensors, axes)
    }
    mapped = MappedLayers(matching.mapped, old, new, axes.classes)
    tensors |= mapped.tensors(weights, source.tensors)
    _raise_if_empty(tensors, matching)
    used = {tensor.copy.source for tensor in tensors.values() if tensor.copy is not None}
    source_only = tuple(name for name in source.tensors if name not in used)
    preparation = carried_preparation(source, config, matching, rules)
    return Plan(
        source=source,
        rules=rules,
        tensors=tuple(tensors[name] for name in weights),
        layers=_in_order(
            new,
            (
                *(_summary(match, mappings.get(match.target.address)) for match in matching.layers),
                *(_imported_summary(match, tensors) for match in matching.imported),
                *mapped.summaries(tensors),
            ),
        ),
        source_only=source_only,
        notes=(
            *_overrides(source),
            _pathway_note(old, new, matching, rules),
            *_walk_notes(matching, rules),
            *map(str, differences),
            *_function_notes(matching, mappings, rules),
            *left_behind(source_only, source.tensors),
            *preparation.notes,
        ),
        preparation=preparation,
    )


def _grown_unet(
    source: Source,
    older: ModelConfig,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    rules: TransferRules,
) -> Plan:
    """The plan of a U-Net that computes what a narrower one did, or one of fewer levels."""
    raise_if_any(growth_problems(older, config))
    old, new = layout(older), layout(config)
    all_layers = TransferRules(layers=("all",), channels=rules.channels, classes=rules.classes)
    matching = match_layers(old, new, all_layers, source.spacing_mm)
    by_channel = channels(config.channels, older.channels, rules.channels)
    by_class = classes(config.classes, older.classes, rules.classes)
    grown = grown_weights(
        _unet_size(older),
        _unet_size(config),
        {name.partition(".")[2]: value for name, value in source.tensors.items()},
        {name.partition(".")[2]: value for name, value in weights.items()},
        (_sources(by_channel), _sources(by_class)),
    )
    keeps_head = rules.layers is not None
    tensors = [
        TensorPlan(name, tuple(tensor.shape), reason=NEW_HEAD)
        if new.address_of(name) == new.head and not keeps_head
        else _grown_tensor(name, grown.weights[name.partition(".")[2]], source)
        for name, tensor in weights.items()
    ]
    preparation = carried_preparation(source, config, matching, rules)
    end = "" if keeps_head else " up to the classification layer, which is new"
    return Plan(
        source=source,
        rules=rules,
        tensors=tuple(tensors),
        layers=tuple(
            LayerSummary(address, "", "", "", NEW_HEAD)
            if address == new.head and not keeps_head
            else LayerSummary(address, address if address in old.order else "", "", "", "")
            for address in new.order
        ),
        source_only=tuple(
            name
            for name in source.tensors
            if name not in weights or (not keeps_head and old.address_of(name) == new.head)
        ),
        notes=(
            f"the function is kept as far as it can be{end}"
            if len(new.order) > len(old.order)
            else f"the function is kept{end}: maps of the older U-Net are repeated",
            *grown.notes,
            *by_channel.notes,
            *by_class.notes,
            *preparation.notes,
        ),
        preparation=preparation,
    )


def _sources(axis: MapSelection) -> tuple[int | None, ...]:
    """Of every map, its number in the older model, or the first of several."""
    return tuple(next(iter(row), None) if row else None for row in axis.maps)


def _unet_size(config: ModelConfig) -> UnetSize:
    assert config.unet is not None
    return UnetSize(config.unet, len(config.channels), len(config.classes))


def _grown_tensor(name: str, value: Tensor, source: Source) -> TensorPlan:
    """The plan of a tensor that is taken over as it is, or was made from others."""
    shape, older = tuple(value.shape), source.tensors.get(name)
    if older is not None and older.shape == value.shape and torch.equal(older, value):
        return TensorPlan(name, shape, Copy(name, tuple(overlap(n, n) for n in shape[:2])))
    reason = REPEATED if older is not None else "made so that the function is kept"
    return TensorPlan(name, shape, constant=value, reason=reason)


@dataclass(frozen=True)
class LayerTransfer:
    """One layer of the new model, and the layer of the older one that fills it, if any.

    Attributes:
        match: Which layer fills which.
        mapping: How their maps correspond; None if the layer stays as initialised.
        config: Of the new model.
        rules: What the user asks for.
    """

    match: Match
    mapping: LayerMapping | None
    config: ModelConfig
    rules: TransferRules

    def plan(self, name: str, tensor: Tensor, values: Mapping[str, Tensor]) -> TensorPlan:
        """The plan of one tensor of the layer.

        Args:
            name: Of the tensor.
            tensor: As initialised.
            values: Tensors of the older model.
        """
        shape, source, mapping = tuple(tensor.shape), self.match.source, self.mapping
        if source is None or mapping is None:
            return TensorPlan(name, shape, reason=self.match.reason)
        role = name.removeprefix(f"{self.match.target.address}.")
        copy, remark = self._copy(role, shape, source, mapping), ""
        if role in WINDOW and not _has_window(values, source.address, self.config.batch_norm):
            if role == "norm.steps":
                steps = torch.zeros((), dtype=torch.int64)
                return TensorPlan(name, shape, constant=steps, reason="the window begins anew")
            running = f"{source.address}.norm.running_{role.removeprefix('norm.window_')}"
            copy = Copy(running, (mapping.incoming.carried(),), rows=shape[0])
            remark = f"every step holds the {WINDOW[role]} of all in the source"
        if copy.source not in values:
            return TensorPlan(name, shape, reason=f"the source has no {copy.source}")
        if not mapping.incoming.filled or any(not axis.filled for axis in copy.selections):
            return TensorPlan(name, shape, reason="; ".join(mapping.incoming.notes))
        notes = [note for selection in copy.selections for note in selection.notes]
        return TensorPlan(name, shape, copy, reason="; ".join((*notes, *filter(None, [remark]))))

    def _copy(
        self, role: str, shape: tuple[int, ...], source: LayerPlan, mapping: LayerMapping
    ) -> Copy:
        """The part of a tensor that comes from its namesake in ``source``."""
        name, target = f"{source.address}.{role}", self.match.target
        incoming, outgoing = mapping.incoming, mapping.outgoing
        if role.startswith("conv."):
            plane = role.removeprefix("conv.").removesuffix("weight").removesuffix(".")
            kernels = mapping.plane(source, target, plane) if plane else outgoing
            share = (1 - source.dropout) / (1 - target.dropout)
            return Copy(name, (kernels, incoming), share if self.rules.keeps_function else 1.0)
        if role == "bias":
            return Copy(name, (outgoing,))
        if role == "norm.steps":
            return Copy(name, ())
        if role in WINDOW:
            return Copy(name, (overlap(shape[0], shape[0]), incoming.carried()))
        return Copy(name, (incoming.carried(),))

    def identity(self) -> dict[str, Tensor]:
        """Weights of an inserted layer that passes its input on, by role; none for other layers."""
        layer, mapping = self.match.target, self.mapping
        if self.match.status != "inserted" or mapping is None:
            return {}
        norm = self.config.batch_norm
        epsilon = norm.epsilon if isinstance(norm, BatchNorm) else 0.0
        weights = identity(layer, mapping.passes, epsilon)
        if isinstance(norm, BatchNorm) and norm.statistics == "window" and layer.normalises:
            for moment in ("mean", "var"):
                running = weights[f"norm.running_{moment}"]
                weights[f"norm.window_{moment}"] = running.expand(norm.length, -1)
            weights["norm.steps"] = torch.zeros((), dtype=torch.int64)
        return weights


def _layer_tensors(
    layer: LayerTransfer, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> Iterator[TensorPlan]:
    """Plans for every tensor of one layer."""
    prefix, identity_weights = f"{layer.match.target.address}.", layer.identity()
    for name, tensor in weights.items():
        if not name.startswith(prefix):
            continue
        constant = identity_weights.get(name.removeprefix(prefix))
        if constant is None:
            yield layer.plan(name, tensor, values)
        else:
            reason = "passes its input on"
            yield TensorPlan(name, tuple(tensor.shape), constant=constant, reason=reason)


@dataclass(frozen=True)
class _NamedAxes:
    """Axes of imported weights that go by name.

    Attributes:
        channels: Of kernels that read the image.
        classes: Of the classification layer.
        head: Address of the classification layer.
    """

    channels: MapSelection
    classes: MapSelection
    head: str

    def copy(
        self, layer: ImportedLayerPlan, weight: ImportedWeight, name: str, old: Tensor
    ) -> Copy | None:
        """The copy of a weight of which an axis goes by name; None for any other weight."""
        shape = weight.shape
        is_kernel = weight.type in ("Conv", "ConvTranspose") and len(shape) > 2
        if len(old.shape) != len(shape):
            return None
        if layer.address == self.head:
            axis = int(weight.type == "ConvTranspose")
            if shape[axis] != len(self.classes.maps) or _differ(shape, old, but=axis):
                return None
            along = overlap(shape[1 - axis], shape[1 - axis]) if is_kernel else None
            pair = (self.classes, along) if axis == 0 else (along, self.classes)
            return Copy(name, tuple(selection for selection in pair if selection is not None))
        reads_image = not layer.below and weight.type == "Conv" and is_kernel
        if not reads_image or shape[1] != len(self.channels.maps) or _differ(shape, old, but=1):
            return None
        return Copy(name, (overlap(shape[0], shape[0]), self.channels))


def _imported_tensors(
    match: ImportedMatch,
    weights: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    axes: _NamedAxes,
) -> Iterator[TensorPlan]:
    """Plans for the tensors of one imported layer; they are taken over where their shapes agree.

    Kernels of the image may have other channels, and a classifier other classes, which go by name.
    """
    layer = match.target
    for weight, origin in zip(layer.weights, _origins(match), strict=True):
        name = f"{layer.address.partition('.')[0]}.{weight.name}"
        shape, old = tuple(weights[name].shape), values.get(origin)
        named = None if old is None else axes.copy(layer, weight, origin, old)
        if match.source is None or old is None:
            yield TensorPlan(name, shape, reason=match.reason or "not in the source")
        elif named is not None:
            notes = [note for selection in named.selections for note in selection.notes]
            yield TensorPlan(name, shape, named, reason="; ".join(notes))
        elif tuple(old.shape) == shape:
            yield TensorPlan(name, shape, Copy(origin, tuple(overlap(n, n) for n in shape[:2])))
        else:
            before, now = ("x".join(map(str, size)) for size in (old.shape, shape))
            yield TensorPlan(name, shape, reason=f"of shape {before} in the source, {now} here")


def _differ(shape: tuple[int, ...], old: Tensor, *, but: int) -> bool:
    """True if two tensors differ along any axis but one."""
    pairs = enumerate(zip(shape, old.shape, strict=True))
    return any(n != m for axis, (n, m) in pairs if axis != but)


def _origins(match: ImportedMatch) -> list[str]:
    """Names of the older model's tensors for those of an imported layer: its namesakes, or,
    where the source is a layer of another name, those in the same place."""
    target, source = match.target, match.source
    pathway = target.address.partition(".")[0]
    names = [f"{pathway}.{weight.name}" for weight in target.weights]
    if source is None or source.address == target.address:
        return names
    return [f"{source.address.partition('.')[0]}.{weight.name}" for weight in source.weights]


def _walk_notes(matching: Matching, rules: TransferRules) -> Iterator[str]:
    """Where the walks along imported networks ended, and why."""
    if rules.depth != "first-common":
        return
    steps: dict[str, list[LayerStep]] = {}
    for match in matching.imported:
        source = None if match.source is None else weighted(match.source)
        step = LayerStep(weighted(match.target), source, match.reason, match.is_stop)
        steps.setdefault(match.target.address.partition(".")[0], []).append(step)
    yield from (walk_note(pathway, walk) for pathway, walk in steps.items())


def _imported_summary(match: ImportedMatch, tensors: Mapping[str, TensorPlan]) -> LayerSummary:
    layer, source = match.target, match.source
    pathway = layer.address.partition(".")[0]
    plans = [tensors[f"{pathway}.{weight.name}"] for weight in layer.weights]
    copied = sum(plan.copy is not None for plan in plans)
    return LayerSummary(
        layer=layer.address,
        source=source.address if copied and source is not None else "",
        outputs=f"{copied}/{len(plans)} tensors" if copied else "",
        inputs="",
        new="; ".join(sorted({plan.reason for plan in plans if plan.reason})),
    )


def _in_order(plan: Layout, summaries: Sequence[LayerSummary]) -> tuple[LayerSummary, ...]:
    by_address = {summary.layer: summary for summary in summaries}
    return tuple(by_address[address] for address in plan.order)


def _without_effect(rules: TransferRules) -> Iterator[Problem]:
    if rules.min_match != TransferRules().min_match:
        yield Problem(
            "transfer-rules",
            got="-minMatch for an older model that knows its layers",
            expected="-minMatch for files of named tensors only",
            fix="leave it out",
        )


def _misfits(matching: Matching, rules: TransferRules) -> Iterator[Problem]:
    """Kernels that cannot be copied because of their shape."""
    for match in matching.layers:
        old, new = match.source, match.target
        if old is None:
            continue
        if old.is_low_rank != new.is_low_rank:
            yield Problem(
                "kernel-shape",
                got=f"{'three flat kernels' if new.is_low_rank else 'one kernel'} in {new.address}",
                expected=f"the same as in {old.address} of the older model",
                fix=f"change low_rank, or leave {old.address} out with -layers",
            )
            continue
        larger = any(a > b for a, b in zip(old.kernel, new.kernel, strict=True))
        if not larger and rules.kernels == "centre" and _has_no_middle(old.kernel, new.kernel):
            yield Problem(
                "kernel-shape",
                got=f"a kernel of {text(old.kernel)} in {old.address} of the older model",
                expected=f"{text(new.kernel)} as in {new.address}, or smaller by an even number of "
                "voxels, so that it has a middle there",
                fix=f"choose another kernel for {new.address}, or leave {old.address} out with "
                "-layers",
            )
            continue
        if larger or (old.kernel != new.kernel and rules.kernels == "same"):
            middle = "" if larger else "add -kernels centre to put it into the middle, or "
            yield Problem(
                "kernel-shape",
                got=f"a kernel of {text(old.kernel)} in {old.address} of the older model",
                expected=f"{text(new.kernel)}, as in {new.address} of the new one",
                fix=f"{middle}leave {old.address} out with -layers",
            )


def _has_no_middle(old: Int3, new: Int3) -> bool:
    """True where the voxels around a smaller kernel cannot be shared equally."""
    return any((n - o) % 2 for o, n in zip(old, new, strict=True))


def _raise_if_empty(tensors: Mapping[str, TensorPlan], matching: Matching) -> None:
    """Refuse a transfer of layers of which no tensor can be used."""
    matches = [match.target for match in matching.layers if match.source is not None]
    filled = [
        *(layer.address for layer in matches),
        *(layer.address for layer in matching.imported_sources),
    ]
    if not filled or any(tensor.filled for tensor in tensors.values()):
        return
    prefix = f"{filled[0]}."
    reasons = [tensor.reason for name, tensor in tensors.items() if name.startswith(prefix)]
    raise DeepsegError(
        Problem(
            "nothing-taken",
            got=f"no tensor to take over ({next(iter(reasons), 'their shapes differ')})",
            expected="at least one",
            fix="choose other layers, or another older model",
        )
    )


def _function_problems(differences: Iterable[Difference]) -> Iterator[Problem]:
    for difference in differences:
        yield Problem(
            "function-not-kept",
            got=str(difference),
            expected="the same in both",
            fix="write the older model's value, which -show tells, under this key of the new file",
        )


def _has_window(values: Mapping[str, Tensor], address: str, norm: BatchNorm | str) -> bool:
    """The older model's layer has statistics of as many steps as the new model keeps.

    Those of another number of steps cannot be taken over, but their mean can.
    """
    rows = values.get(f"{address}.norm.window_mean")
    return rows is not None and isinstance(norm, BatchNorm) and len(rows) == norm.length


def _summary(match: Match, mapping: LayerMapping | None) -> LayerSummary:
    address = match.target.address
    if mapping is None or (match.source is None and not mapping.passes):
        return LayerSummary(address, "", "", "", match.reason)
    if match.source is None:
        return LayerSummary(address, "", "", "", "passes its input on")
    incoming, outgoing = mapping.incoming, mapping.outgoing
    if not incoming.filled:
        return LayerSummary(address, "", "", "", "; ".join(incoming.notes))
    return LayerSummary(
        layer=address,
        source=match.source.address,
        outputs=f"{outgoing.copied}/{len(outgoing.maps)}",
        inputs=f"{incoming.copied}/{len(incoming.maps)}",
        new="; ".join((*outgoing.notes, *incoming.notes)),
    )


def _overrides(source: Source) -> Iterator[str]:
    if source.overrides:
        keys = " and ".join(source.overrides)
        yield f"{keys} are those of the {source.kind}, whatever the model file says"


def _pathway_note(old: Layout, new: Layout, matching: Matching, rules: TransferRules) -> str:
    """Which pathway fills which, and where they see at other factors."""
    factors = {pathway.name: pathway.geometry.factor for pathway in old.pathways}
    pairs = []
    for pathway in new.pathways:
        name = matching.pathways[pathway.name]
        pair = f"{pathway.name} from {name or 'nothing'}"
        differs = name is not None and factors[name] != pathway.geometry.factor
        if name is not None and differs and rules.spacing_mm is None:
            now, before = text(pathway.geometry.factor), text(factors[name])
            pair += f" (factor {now}, in the source {before})"
        pairs.append(pair)
    return f"pathways: {', '.join(pairs)}"


def _function_notes(
    matching: Matching, mappings: Mapping[str, LayerMapping], rules: TransferRules
) -> Iterator[str]:
    """The promise of growth, as it holds here."""
    if not rules.keeps_function:
        return
    head = matching.layers[-1].target.address
    share = (
        ", of the mean of channels that share kernels" if _has_shares(matching, mappings) else ""
    )
    if head not in mappings:
        yield f"the function is kept{share} up to the classification layer, which is new"
        return
    notes = mappings[head].outgoing.notes
    yield f"the function is kept{share}" + (f"; {'; '.join(notes)}" if notes else "")


def _has_shares(matching: Matching, mappings: Mapping[str, LayerMapping]) -> bool:
    """True if channels of the new model read parts of what one of the older model did."""
    first = [match.target.address for match in matching.layers if match.target.reads_image]
    rows = [row for name in first if name in mappings for row in mappings[name].incoming.maps]
    return any(share != 1 for row in rows if row for share in row.values())
