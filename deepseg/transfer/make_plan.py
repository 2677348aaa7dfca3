"""Makes the plan for two models that know their layers: an entry for every tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepseg.config.model import BatchNorm, ModelConfig
from deepseg.errors import Problem, raise_if_any
from deepseg.geometry.boxes import text
from deepseg.model.layout import LayerPlan, Layout, layout
from deepseg.transfer.by_name import plan_by_name
from deepseg.transfer.layer_mapping import LayerMapping, layer_mappings
from deepseg.transfer.map_selection import overlap
from deepseg.transfer.matching import Match, Matching, match_layers
from deepseg.transfer.net2net import identity
from deepseg.transfer.plan import Copy, LayerSummary, Plan, TensorPlan
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source

WINDOW = ("norm.window_mean", "norm.window_var")


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
    old, new = layout(source.config), layout(config)
    matching = match_layers(
        old, new, rules, None if source.cohort is None else source.cohort.spacing_mm
    )
    raise_if_any(_misfits(matching, rules))
    differences = tuple(_differences(source.config, config))
    raise_if_any(_unkept(differences, rules))
    wires = layer_mappings(source.config, config, old, new, matching, rules)
    tensors = {**source.tensors, **_windows(source.tensors, config.batch_norm)}
    entries = {
        entry.name: entry
        for match in matching.layers
        for entry in _entries(match, wires, weights, tensors, config, rules)
    }
    used = {entry.copy.source for entry in entries.values() if entry.copy is not None}
    return Plan(
        source=replace(source, tensors=tensors),
        rules=rules,
        entries=tuple(entries[name] for name in weights),
        rows=tuple(_row(match, wires.get(match.target.address)) for match in matching.layers),
        source_only=tuple(name for name in source.tensors if name not in used),
        notes=(
            *_lent(source),
            _feeding(old, new, matching, rules),
            *differences,
            *_kept(matching, wires, rules),
        ),
    )


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
        if larger or (old.kernel != new.kernel and rules.kernels == "same"):
            middle = "" if larger else "add -kernels centre to put it into the middle, or "
            yield Problem(
                "kernel-shape",
                got=f"a kernel of {text(old.kernel)} in {old.address} of the older model",
                expected=f"{text(new.kernel)}, as in {new.address} of the new one",
                fix=f"{middle}leave {old.address} out with -layers",
            )


def _differences(old: ModelConfig, new: ModelConfig) -> Iterator[str]:
    """Settings without weights of their own that make the same weights compute something else."""
    pairs = [
        ("context_alignment", old.context_alignment, new.context_alignment),
        ("activation", old.activation, new.activation),
        ("batch_norm", _kind(old.batch_norm), _kind(new.batch_norm)),
    ]
    for key, before, now in pairs:
        if before != now:
            yield f"{key} is {before} in the older model and {now} in the new one"


def _kind(batch_norm: BatchNorm | str) -> str:
    if isinstance(batch_norm, str):
        return batch_norm
    return f"on with epsilon {batch_norm.epsilon:g}"


def _unkept(differences: tuple[str, ...], rules: TransferRules) -> Iterator[Problem]:
    for difference in differences if rules.keeps_function else ():
        yield Problem(
            "function-not-kept",
            got=difference,
            expected="the same in both",
            fix="write the older model's value, which -show tells, under this key of the new file",
        )


def _windows(tensors: Mapping[str, Tensor], batch_norm: BatchNorm | str) -> dict[str, Tensor]:
    """Statistics for a window of another length: every row holds their mean.

    The rows of an older model can only be taken over where both windows have one length.
    """
    found: dict[str, Tensor] = {}
    if not isinstance(batch_norm, BatchNorm) or batch_norm.statistics != "window":
        return found
    for name, tensor in tensors.items():
        norm, _, part = name.partition(".running_")
        rows = tensors.get(f"{norm}.window_{part}")
        if part and (rows is None or len(rows) != batch_norm.length):
            found[f"{norm}.window_{part}"] = tensor.expand(batch_norm.length, -1).clone()
            found[f"{norm}.steps"] = torch.zeros((), dtype=torch.int64)
    return found


def _entries(
    match: Match,
    wires: Mapping[str, LayerMapping],
    weights: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    rules: TransferRules,
) -> Iterator[TensorPlan]:
    """An entry for every tensor of one layer."""
    address = match.target.address
    connection = wires.get(address)
    made = {}
    if match.fate == "inserted" and connection is not None:
        made = _passing_on(match.target, connection, config)
    for name, tensor in weights.items():
        if not name.startswith(f"{address}."):
            continue
        part = name.removeprefix(f"{address}.")
        shape = tuple(tensor.shape)
        if part in made:
            yield TensorPlan(name, shape, given=made[part], why="passes its input on")
        elif match.source is None or connection is None:
            yield TensorPlan(name, shape, why=match.why_not)
        else:
            yield _entry(name, part, shape, match.source, match.target, connection, tensors, rules)


def _passing_on(
    layer: LayerPlan, connection: LayerMapping, config: ModelConfig
) -> dict[str, Tensor]:
    own = config.batch_norm
    epsilon = own.epsilon if isinstance(own, BatchNorm) else 0.0
    made = identity(layer, connection.passes, epsilon)
    if isinstance(own, BatchNorm) and own.statistics == "window" and layer.normalises:
        for part in ("mean", "var"):
            made[f"norm.window_{part}"] = made[f"norm.running_{part}"].expand(own.length, -1)
        made["norm.steps"] = torch.zeros((), dtype=torch.int64)
    return made


def _entry(
    name: str,
    part: str,
    shape: tuple[int, ...],
    source: LayerPlan,
    target: LayerPlan,
    connection: LayerMapping,
    tensors: Mapping[str, Tensor],
    rules: TransferRules,
) -> TensorPlan:
    """What a fed layer's tensor takes from its namesake."""
    old = f"{source.address}.{part}"
    if old not in tensors:
        return TensorPlan(name, shape, why=f"the source has no {old}")
    copy = _copy(old, part, shape, source, target, connection, rules)
    if any(not wiring.filled for wiring in copy.wirings):
        return TensorPlan(name, shape, why="; ".join(connection.incoming.notes))
    notes = [note for wiring in copy.wirings for note in wiring.notes]
    return TensorPlan(name, shape, copy, why="; ".join(notes))


def _copy(
    old: str,
    part: str,
    shape: tuple[int, ...],
    source: LayerPlan,
    target: LayerPlan,
    connection: LayerMapping,
    rules: TransferRules,
) -> Copy:
    incoming, outgoing = connection.incoming, connection.outgoing
    if part.startswith("conv."):
        plane = part.removeprefix("conv.").removesuffix("weight").removesuffix(".")
        along = connection.plane(source, target, plane) if plane else outgoing
        kept = (1 - source.dropout) / (1 - target.dropout) if rules.keeps_function else 1.0
        return Copy(old, (along, incoming), kept)
    if part == "bias":
        return Copy(old, (outgoing,))
    if part == "norm.steps":
        return Copy(old, ())
    if part in WINDOW:
        return Copy(old, (overlap(shape[0], shape[0]), incoming.carried()))
    return Copy(old, (incoming.carried(),))


def _row(match: Match, connection: LayerMapping | None) -> LayerSummary:
    address = match.target.address
    if connection is None or (match.source is None and not connection.passes):
        return LayerSummary(address, "", "", "", match.why_not)
    if match.source is None:
        return LayerSummary(address, "", "", "", "passes its input on")
    incoming, outgoing = connection.incoming, connection.outgoing
    return LayerSummary(
        layer=address,
        source=match.source.address,
        outputs=f"{outgoing.taken}/{len(outgoing.rows)}",
        inputs=f"{incoming.taken}/{len(incoming.rows)}",
        new="; ".join((*outgoing.notes, *incoming.notes)),
    )


def _lent(source: Source) -> Iterator[str]:
    if source.lent:
        keys = " and ".join(source.lent)
        yield f"{keys} are those of the {source.kind}, whatever the model file says"


def _feeding(old: Layout, new: Layout, matching: Matching, rules: TransferRules) -> str:
    """Which pathway feeds which, and where they see at other factors."""
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


def _kept(
    matching: Matching, wires: Mapping[str, LayerMapping], rules: TransferRules
) -> Iterator[str]:
    """What the promise of growth means here."""
    if not rules.keeps_function:
        return
    head = matching.layers[-1].target.address
    if head not in wires:
        yield "the function is kept up to the classification layer, which is new"
        return
    notes = wires[head].outgoing.notes
    yield "the function is kept" + (f"; {'; '.join(notes)}" if notes else "")
