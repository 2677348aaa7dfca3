"""The plan for a file that does not know its layers: tensors of the same name and shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.model.layout import Layout, layout
from deepseg.transfer.map_selection import overlap
from deepseg.transfer.plan import Copy, LayerSummary, Plan, TensorPlan
from deepseg.transfer.rules import TransferRules, in_options
from deepseg.transfer.source import Source

MEANINGFUL = ("layers", "min_match")  # rules that need no layers in the source


def plan_by_name(
    source: Source, config: ModelConfig, weights: Mapping[str, Tensor], rules: TransferRules
) -> Plan:
    """Take over tensors of the same name and shape, in the layers that the rules choose.

    Raises:
        DeepsegError: ``transfer-rules`` for rules that need to know the source's layers;
            ``layer-unknown``; ``weights-unmatched`` if too few tensors match.
    """
    _check_rules(source, rules)
    plan = layout(config)
    chosen = _chosen(plan, rules)
    entries = {
        name: _entry(name, tensor, source.tensors.get(name), _layer_of(name) in chosen, plan)
        for name, tensor in weights.items()
    }
    wanted = [entry for name, entry in entries.items() if _layer_of(name) in chosen]
    _check_share(source, weights, wanted, rules)
    used = {entry.copy.source for entry in entries.values() if entry.copy is not None}
    return Plan(
        source=source,
        rules=rules,
        entries=tuple(entries.values()),
        rows=tuple(_row(layer.address, list(entries.values())) for layer in plan),
        source_only=tuple(name for name in source.tensors if name not in used),
        notes=(
            "channels and classes go by position: the file does not name them",
            *_skipped(source, entries, wanted),
        ),
    )


def _layer_of(name: str) -> str:
    """``normal.3`` of ``normal.3.conv.weight``."""
    return ".".join(name.split(".")[:2])


def _chosen(plan: Layout, rules: TransferRules) -> set[str]:
    every = [layer.address for layer in plan]
    if rules.layers is None:
        return set(every[:-1])
    return set(every if "all" in rules.layers else plan.addresses(rules.layers))


def _check_rules(source: Source, rules: TransferRules) -> None:
    others = {name: rule for name, rule in rules.chosen().items() if name not in MEANINGFUL}
    depths = [word for word in rules.layers or () if word[:1].isdigit()]
    if depths:
        others["layers"] = depths
    if others:
        raise DeepsegError(
            Problem(
                code="transfer-rules",
                got=f"{', '.join(map(' '.join, in_options(others)))} for a {source.kind}",
                expected="rules that need names only: this file does not say its layers",
                fix="leave them out, or take over by name first and use the .save",
            )
        )


def _entry(name: str, new: Tensor, old: Tensor | None, is_chosen: bool, plan: Layout) -> TensorPlan:
    shape = tuple(new.shape)
    if not is_chosen:
        is_head = _layer_of(name) == plan.fc.layers[-1].address
        return TensorPlan(
            name, shape, why="new classification layer" if is_head else "not asked for"
        )
    if old is None:
        return TensorPlan(name, shape, why="not in the source")
    if old.shape != new.shape:
        return TensorPlan(
            name, shape, why=f"of shape {_text(old)} in the source, {_text(new)} here"
        )
    wirings = tuple(overlap(size, size) for size in shape[:2])
    return TensorPlan(name, shape, Copy(name, wirings))


def _check_share(
    source: Source, weights: Mapping[str, Tensor], wanted: list[TensorPlan], rules: TransferRules
) -> None:
    found = sum(entry.copy is not None for entry in wanted)
    if found >= rules.min_match * len(wanted) and found:
        return
    first = next(entry for entry in wanted if entry.copy is None)
    unused = source.tensors.keys() - weights.keys()
    raise DeepsegError(
        Problem(
            code="weights-unmatched",
            got=f"{found} of {len(wanted)} tensors of the new model in the file"
            f" ({first.name} is {first.why}{did_you_mean(first.name, unused)})",
            expected=f"at least {rules.min_match:.0%}" if found else "tensors of the same names",
            fix="give a file of the same network" + (", or lower -minMatch" if found else ""),
            where=str(source.file),
        )
    )


def _row(address: str, entries: list[TensorPlan]) -> LayerSummary:
    own = [entry for entry in entries if _layer_of(entry.name) == address]
    copied = [entry for entry in own if entry.copy is not None]
    reasons = {entry.why for entry in own if entry.why}
    return LayerSummary(
        layer=address,
        source=address if copied else "",
        outputs=f"{len(copied)}/{len(own)} tensors" if copied else "",
        inputs="",
        new="; ".join(sorted(reasons)),
    )


def _skipped(
    source: Source, entries: Mapping[str, TensorPlan], wanted: list[TensorPlan]
) -> Iterator[str]:
    for name in source.tensors:
        if name not in entries:
            yield f"Skipping {name}: in the source only"
    for entry in wanted:
        if entry.copy is None:
            reason = "in the new model only" if entry.why == "not in the source" else entry.why
            yield f"Skipping {entry.name}: {reason}"


def _text(tensor: Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape)
