"""The plan for a file that does not know its layers: tensors of equal names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

from torch import Tensor

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.model.layout import Layout, layout
from deepseg.transfer.first_common import LayerStep, first_common, walk_note
from deepseg.transfer.map_selection import overlap
from deepseg.transfer.matching import ranges, weighted
from deepseg.transfer.plan import Copy, LayerSummary, Plan, TensorPlan
from deepseg.transfer.rules import LEFT_NEW, NEW, TransferRules, in_options
from deepseg.transfer.source import Source

ABSENT = "not in the source"
MEANINGFUL = ("layers", "min_match", "layer_map")  # rules that need no layers in the source


def plan_by_name(
    source: Source, config: ModelConfig, weights: Mapping[str, Tensor], rules: TransferRules
) -> Plan:
    """Take over tensors of the same name and shape, in the layers that the rules choose.

    Raises:
        DeepsegError: ``transfer-rules`` for rules that need to know the source's layers;
            ``layer-unknown``; ``weights-unmatched`` if too few tensors match.
    """
    _check_rules(source, rules)
    prefix = common_prefix(source.tensors, weights)
    source, rules = _without_prefix(source, rules, prefix)
    plan = layout(config)
    chosen = _chosen(plan, rules)
    if rules.depth == "first-common":
        return _walked(source, plan, weights, rules, chosen)
    tensors = {
        name: _tensor_plan(name, tensor, *_counterpart(name, source, plan, rules))
        if plan.address_of(name) in chosen
        else TensorPlan(name, tuple(tensor.shape), reason=_reason_to_stay(name, plan, rules))
        for name, tensor in weights.items()
    }
    candidates = [tensor for name, tensor in tensors.items() if plan.address_of(name) in chosen]
    _check_share(source, weights, candidates, rules)
    used = {tensor.copy.source for tensor in tensors.values() if tensor.copy is not None}
    namesakes = {_namesake(name, source, plan) for name in tensors}
    return Plan(
        source=source,
        rules=rules,
        tensors=tuple(tensors.values()),
        layers=tuple(
            _summary(address, [t for t in tensors.values() if plan.address_of(t.name) == address])
            for address in plan.order
        ),
        source_only=tuple(name for name in source.tensors if name not in used),
        notes=(
            "channels and classes go by position: the file does not name them",
            *([f"names are compared without {prefix!r} in front"] if prefix else []),
            *_skipped(source, used | namesakes, candidates),
        ),
    )


def _walked(
    source: Source,
    plan: Layout,
    weights: Mapping[str, Tensor],
    rules: TransferRules,
    chosen: Set[str],
) -> Plan:
    """The plan of a walk along the file's network and each imported one, layer by layer."""
    steps: list[LayerStep] = []
    notes = []
    for pathway in plan.pathways:
        if pathway.network is not None:
            walk = first_common(list(map(weighted, pathway.imported_layers)), source.layers)
            steps += walk
            notes.append(walk_note(pathway.name, walk))
    if not steps:
        raise DeepsegError(_without_walk(source))
    origins = {step.target.name: step.source.name for step in steps if step.source is not None}
    copies: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for step in steps:
        pathway_name = step.target.name.partition(".")[0]
        names = [f"{pathway_name}.{name}" for name, _ in step.target.weights]
        if step.source is not None and step.target.name in chosen:
            copies |= zip(names, (old for old, _ in step.source.weights), strict=True)
        reasons |= dict.fromkeys(names, step.reason or "not asked for")
    tensors = [
        _tensor_plan(name, tensor, copies[name], source.tensors[copies[name]])
        if name in copies
        else TensorPlan(name, tuple(tensor.shape), reason=reasons.get(name, ABSENT))
        for name, tensor in weights.items()
    ]
    if not copies:
        stop = next(step for step in steps if step.reason)
        raise DeepsegError(
            Problem(
                "nothing-taken",
                got=f"no layer to take over ({stop.target.name}: {stop.reason})",
                expected="at least a first layer that both have",
                fix="begin with the layers of the older network, or name layers with -map",
            )
        )
    return Plan(
        source=source,
        rules=rules,
        tensors=tuple(tensors),
        layers=tuple(
            _walked_summary(
                address, [t for t in tensors if plan.address_of(t.name) == address], origins
            )
            for address in plan.order
        ),
        source_only=tuple(name for name in source.tensors if name not in copies.values()),
        notes=(
            "layers, channels and classes go by position, whatever they are called",
            *notes,
            *_skipped_layers(source, set(copies.values())),
        ),
    )


def _walked_summary(
    address: str, tensors: list[TensorPlan], origins: Mapping[str, str]
) -> LayerSummary:
    summary = _summary(address, tensors)
    return replace(summary, source=origins.get(address, "") if summary.source else "")


def _skipped_layers(source: Source, used: Set[str]) -> Iterator[str]:
    for layer in source.layers:
        if not any(name in used for name, _ in layer.weights):
            yield f"Skipping layer {layer.name}: not taken over"


def _without_walk(source: Source) -> Problem:
    return Problem(
        code="transfer-rules",
        got=f"-depth first-common for {source.kind} and a model without imported pathways",
        expected="an imported pathway, along whose layers those of the file are walked",
        fix="leave -depth out, and name layers with -map",
    )


def common_prefix(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """The words in front of the names of ``tensors`` without which most fit ``weights``.

    Programs around a network leave them, such as ``model.`` of Lightning.

    >>> import torch
    >>> ones = torch.ones(2)
    >>> common_prefix({"model.fc.1.bias": ones, "loss.weight": ones}, {"fc.1.bias": ones})
    'model.'
    """
    prefixes = {"": 0}
    for name, tensor in tensors.items():
        words = name.split(".")
        for count in range(min(len(words), 6)):
            prefix = "".join(f"{word}." for word in words[:count])
            new = weights.get(name.removeprefix(prefix))
            fits = new is not None and new.shape == tensor.shape
            prefixes[prefix] = prefixes.get(prefix, 0) + fits
    return max(prefixes, key=lambda prefix: (prefixes[prefix], -len(prefix)))


def _without_prefix(
    source: Source, rules: TransferRules, prefix: str
) -> tuple[Source, TransferRules]:
    """The file and the rules in the names without what stands in front of them."""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in source.tensors.items()}
    if not prefix or len(tensors) < len(source.tensors):
        return source, rules
    names = {new: old.removeprefix(prefix) for new, old in rules.layer_map.items()}
    return replace(source, tensors=tensors), replace(rules, layer_map=names)


def _layer_of(name: str) -> str:
    """``normal.3`` of ``normal.3.conv.weight``."""
    return ".".join(name.split(".")[:2])


def _namesake(name: str, source: Source, plan: Layout) -> str:
    """The tensor of the file that fills ``name``: of that name, or of the imported network's."""
    inner = name.partition(".")[2]
    is_imported = name in plan.imported_weights
    return inner if is_imported and name not in source.tensors else name


def _chosen(plan: Layout, rules: TransferRules) -> set[str]:
    addresses = plan.order
    raise_if_any(_unknown_layers(addresses, rules.layer_map))
    if rules.layers is None:
        chosen = set(addresses[:-1])
    else:
        chosen = set(addresses if "all" in rules.layers else plan.addresses(rules.layers))
    layer_map = rules.layer_map
    return (chosen | layer_map.keys()) - {
        address for address, old in layer_map.items() if old == NEW
    }


def _unknown_layers(addresses: Sequence[str], wishes: Mapping[str, str]) -> Iterator[Problem]:
    for address, wish in wishes.items():
        if address not in addresses:
            yield Problem(
                "layer-unknown",
                got=f"-map {address}={wish}",
                expected=f"a layer of the new model: {', '.join(ranges(addresses))}",
                fix="write new=older, such as fc.2=decoder.last" + did_you_mean(address, addresses),
            )


def _check_rules(source: Source, rules: TransferRules) -> None:
    meaningful = (*MEANINGFUL, *(["depth"] if source.layers and not rules.keeps_function else []))
    refused = {name: rule for name, rule in rules.chosen().items() if name not in meaningful}
    depths = [word for word in rules.layers or () if word[:1].isdigit()]
    if depths:
        refused["layers"] = depths
    if refused:
        raise DeepsegError(
            Problem(
                code="transfer-rules",
                got=f"{', '.join(map(' '.join, in_options(refused)))} for a {source.kind}",
                expected="rules that need names only: this file does not say its layers",
                fix="leave them out, or take over by name first and use the .save",
            )
        )


def _reason_to_stay(name: str, plan: Layout, rules: TransferRules) -> str:
    if rules.layer_map.get(plan.address_of(name)) == NEW:
        return LEFT_NEW
    is_head = plan.address_of(name) == plan.head
    return "new classification layer" if is_head else "not asked for"


def _counterpart(
    name: str, source: Source, plan: Layout, rules: TransferRules
) -> tuple[str, Tensor | None]:
    """Name and values of the tensor that fills another; a kernel of others is ``weight`` alone."""
    address = plan.address_of(name)
    role = name.removeprefix(f"{address}.")
    old = rules.layer_map.get(address)
    if old is None:
        name = _namesake(name, source, plan)
        return name, source.tensors.get(name)
    names = [f"{old}.{role}", f"{old}.{role.removeprefix('conv.')}"]
    origin = next((entry for entry in names if entry in source.tensors), names[0])
    return origin, source.tensors.get(origin)


def _tensor_plan(name: str, new: Tensor, source: str, old: Tensor | None) -> TensorPlan:
    shape = tuple(new.shape)
    if old is None:
        return TensorPlan(name, shape, reason=ABSENT)
    if old.shape != new.shape:
        return TensorPlan(
            name, shape, reason=f"of shape {_text(old)} in the source, {_text(new)} here"
        )
    selections = tuple(overlap(size, size) for size in shape[:2])
    return TensorPlan(name, shape, Copy(source, selections))


def _check_share(
    source: Source,
    weights: Mapping[str, Tensor],
    candidates: list[TensorPlan],
    rules: TransferRules,
) -> None:
    matches = sum(tensor.copy is not None for tensor in candidates)
    if matches >= rules.min_match * len(candidates) and matches:
        return
    first = next(tensor for tensor in candidates if tensor.copy is None)
    unused = source.tensors.keys() - weights.keys()
    raise DeepsegError(
        Problem(
            code="weights-unmatched",
            got=f"{matches} of {len(candidates)} tensors of the new model in the file"
            f" ({first.name} is {first.reason}{did_you_mean(first.name, unused)})",
            expected=f"at least {rules.min_match:.0%}" if matches else "tensors of the same names",
            fix="give a file of the same network" + (", or lower -minMatch" if matches else ""),
            where=str(source.file),
        )
    )


def _summary(address: str, tensors: list[TensorPlan]) -> LayerSummary:
    copied = [tensor for tensor in tensors if tensor.copy is not None]
    reasons = {tensor.reason for tensor in tensors if tensor.reason}
    sources = {_layer_of(tensor.copy.source) for tensor in copied if tensor.copy is not None}
    if all(tensor.copy is None or tensor.name.endswith(tensor.copy.source) for tensor in copied):
        sources = {address} if copied else set()  # namesakes
    return LayerSummary(
        layer=address,
        source=", ".join(sorted(sources)),
        outputs=f"{len(copied)}/{len(tensors)} tensors" if copied else "",
        inputs="",
        new="; ".join(sorted(reasons)),
    )


def _skipped(source: Source, namesakes: Set[str], candidates: list[TensorPlan]) -> Iterator[str]:
    """Lines about what is in one of the two only, whole layers first, in rmldnn's words."""
    unused = [name for name in source.tensors if name not in namesakes]
    yield from _skipped_side(unused, source.tensors, "not found in model")
    absent = [t.name for t in candidates if t.copy is None and t.reason == ABSENT]
    names = [tensor.name for tensor in candidates]
    yield from _skipped_side(absent, names, "not found in the source")
    for tensor in candidates:
        if tensor.copy is None and tensor.reason != ABSENT:
            yield f"Skipping parameter {tensor.name}: {tensor.reason}"


def _skipped_side(skipped: Sequence[str], names: Iterable[str], reason: str) -> Iterator[str]:
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    chosen = set(skipped)
    for layer, members in layers.items():
        if layer and chosen.issuperset(members):
            yield f"Skipping layer {layer}: {reason}"
        yield from (f"Skipping parameter {name}: {reason}" for name in members if name in chosen)


def _text(tensor: Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape)
