"""Which layer of an older model fills which layer of a new one.

Layers are matched within pathways: layer 3 of a pathway fills layer 3 of the pathway that it is the
source of, hidden FC layers fill hidden FC layers of the same number, and the head fills the head.
Nothing here knows about feature maps or tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.model.layout import ImportedLayerPlan, LayerPlan, Layout, PathwayLayout
from deepseg.transfer.differences import COMPUTED, Difference, layer_differences
from deepseg.transfer.first_common import WeightedLayer, first_common
from deepseg.transfer.rules import LEFT_NEW, NEW, TransferRules

NEW_HEAD = "new classification layer"
SAME_RESOLUTION = 0.01  # relative difference below which two voxel sizes count as one

LayerStatus: TypeAlias = Literal["filled", "kept", "stop", "missing", "inserted"]


@dataclass(frozen=True)
class Match:
    """One layer of the new model, and the layer that fills it.

    Attributes:
        target: The layer.
        source: The older model's layer that fills it, or None.
        status: ``filled`` from its source; ``kept`` as initialised, by the rules; a ``stop``, kept
            because it differs and the rules end there; ``missing`` in the older model;
            ``inserted``, made so that it changes nothing.
        reason: Why it has no source, for people.
    """

    target: LayerPlan
    source: LayerPlan | None
    status: LayerStatus = "filled"
    reason: str = ""


def _new(layer: LayerPlan, reason: str) -> Match:
    return Match(layer, None, "kept", reason)


@dataclass(frozen=True)
class ImportedMatch:
    """A layer of an imported network of the new model, and the older model's layer that fills it.

    Attributes:
        source: None where it stays new.
        reason: Why it stays new.
        is_stop: A walk from layer to layer ends here.
    """

    target: ImportedLayerPlan
    source: ImportedLayerPlan | None
    reason: str = ""
    is_stop: bool = False


@dataclass(frozen=True)
class Matching:
    """All layers of the new model, and those that fill them.

    Attributes:
        pathways: Source pathway of each parallel target pathway; None where there is none.
        blocks: Source pathway of each parallel target pathway for its block of the joined feature
            maps that the first FC layer reads: a source pathway that fills several pathways gives
            its block to one of them only.
        layers: Of our own, in the order of the new model.
        imported: Layers of imported networks of the new model, and what fills each.
        mapped: Layers that the user fills from a layer of an imported network, or the other way
            round, by address: with the address of the layer that fills each.
    """

    pathways: Mapping[str, str | None]
    blocks: Mapping[str, str | None]
    layers: tuple[Match, ...]
    imported: tuple[ImportedMatch, ...] = ()
    mapped: Mapping[str, str] = field(default_factory=dict)

    def sources(self) -> set[str]:
        """Addresses of the older model's layers that fill something."""
        chains = {match.source.address for match in self.layers if match.source is not None}
        return chains | {
            match.source.address for match in self.imported if match.source is not None
        }

    @property
    def imported_sources(self) -> tuple[ImportedLayerPlan, ...]:
        """Layers of imported networks of the new model that are filled."""
        return tuple(match.target for match in self.imported if match.source is not None)

    def differences(self) -> Iterator[Difference]:
        """Settings that make filled layers compute something else; layers alike together."""
        addresses: dict[Difference, list[str]] = {}
        for match in self.layers:
            if match.source is not None:
                for difference in layer_differences(match.source, match.target):
                    if difference.setting in COMPUTED:
                        addresses.setdefault(difference, []).append(match.target.address)
        for difference, layers in addresses.items():
            setting = f"{difference.setting} of {', '.join(ranges(layers))}"
            yield replace(difference, setting=setting)


def match_layers(
    source: Layout,
    target: Layout,
    rules: TransferRules,
    source_spacing_mm: tuple[float, float, float] | None = None,
) -> Matching:
    """Match two models as ``rules`` say.

    Args:
        source: Layers of the older model.
        target: Layers of the new model.
        rules: What the user asks for.
        source_spacing_mm: Voxel size that the older model was trained at, if known.

    Raises:
        DeepsegError: ``pathway-unknown``, ``spacing-unknown``, ``layer-unknown``,
            ``source-too-short`` or ``layer-without-target``.
    """
    pathways = _pathways(source, target, rules, source_spacing_mm)
    chosen = _chosen(source, rules)
    imported = tuple(_imported(source, target, rules, chosen))
    stops = [match.target.address for match in imported if match.is_stop]
    matches = _layers(source, target, rules, pathways, chosen, stops)
    layers = tuple(_mapped(matches, source, target, rules.layer_map))
    mapped = dict(_across(source, target, rules.layer_map))
    matching = Matching(pathways, _blocks(pathways, rules), layers, imported, mapped)
    raise_if_any(_growth_of_imported(source, target, rules))
    raise_if_any(
        (
            *_too_short(matching, rules),
            *_without_target(source, matching, rules),
            *_without_effect(matching, target, rules),
        )
    )
    return matching


def _pathways(
    source: Layout,
    target: Layout,
    rules: TransferRules,
    source_spacing_mm: tuple[float, float, float] | None,
) -> dict[str, str | None]:
    old = [pathway.name for pathway in source.pathways if pathway.network is None]
    new = [pathway.name for pathway in target.pathways if pathway.network is None]
    raise_if_any(_unknown_pathways(rules.pathways, new, old))
    if rules.spacing_mm is not None:
        pathways = _by_resolution(source, target, rules.spacing_mm, source_spacing_mm)
    else:
        pathways = {name: name if name in old else _last(old) for name in new}
    imported = {
        pathway.name: pathway.name if pathway.name in _names(source.pathways) else None
        for pathway in target.pathways
        if pathway.network is not None
    }
    wishes = {name: None if old == NEW else old for name, old in rules.pathways.items()}
    return {**pathways, **wishes, **imported}


def _last(names: Sequence[str]) -> str | None:
    return names[-1] if names else None


def _names(pathways: Iterable[PathwayLayout]) -> list[str]:
    return [pathway.name for pathway in pathways]


def _imported(
    source: Layout, target: Layout, rules: TransferRules, chosen: set[str]
) -> Iterator[ImportedMatch]:
    """Layers of imported networks, filled by those of the same address or, walking, by number."""
    by_address = {layer.address: layer for layer in source.imported_layers}
    if rules.depth == "first-common":
        by_name = {pathway.name: pathway for pathway in source.pathways}
        for pathway in target.pathways:
            old = by_name.get(pathway.name)
            layers = () if old is None else old.imported_layers
            yield from _walked_imported(pathway.imported_layers, layers, chosen)
        return
    for layer in target.imported_layers:
        match, wish = by_address.get(layer.address), rules.layer_map.get(layer.address)
        if wish is not None:
            reason = LEFT_NEW if wish == NEW else f"no counterpart in {wish}"
            origin = by_address.get(wish)
            yield ImportedMatch(layer, origin, "" if origin is not None else reason)
        elif match is None:
            yield ImportedMatch(layer, None, "not in the source")
        elif layer.address not in chosen:
            is_head = layer.address == target.head and rules.layers is None
            yield ImportedMatch(layer, None, NEW_HEAD if is_head else "not asked for")
        else:
            yield ImportedMatch(layer, match)


def _across(source: Layout, target: Layout, wishes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of layers that the user names, of which one is imported and the other is ours."""
    imported = [{layer.address for layer in plan.imported_layers} for plan in (source, target)]
    for address, wish in wishes.items():
        if wish != NEW and (wish in imported[0]) != (address in imported[1]):
            yield address, wish


def _walked_imported(
    new: Sequence[ImportedLayerPlan], old: Sequence[ImportedLayerPlan], chosen: set[str]
) -> Iterator[ImportedMatch]:
    sources = {layer.address: layer for layer in old}
    steps = first_common(list(map(weighted, new)), list(map(weighted, old)))
    for layer, step in zip(new, steps, strict=True):
        match = None if step.source is None else sources[step.source.name]
        if match is not None and match.address not in chosen:
            yield ImportedMatch(layer, None, "not asked for")
        else:
            yield ImportedMatch(layer, match, step.reason, step.is_stop)


def weighted(layer: ImportedLayerPlan) -> WeightedLayer:
    """A layer as it is compared when two networks are walked along."""
    shapes = tuple((weight.name, weight.shape) for weight in layer.weights)
    return WeightedLayer(layer.address, layer.operators, shapes)


def _growth_of_imported(source: Layout, target: Layout, rules: TransferRules) -> Iterator[Problem]:
    if rules.keeps_function and (source.is_imported or target.is_imported):
        yield Problem(
            "transfer-rules",
            got="-width net2net or -depth identity with imported pathways",
            expected="growth of pathways of our own",
            fix="leave the option out",
        )


def _unknown_pathways(
    wishes: Mapping[str, str], new: Sequence[str], old: Sequence[str]
) -> Iterator[Problem]:
    sources = [name for name in wishes.values() if name != NEW]
    sides = (("new model", new, wishes), ("older model", old, sources))
    for side, names, words in sides:
        for name in words:
            if name not in names:
                yield Problem(
                    "pathway-unknown",
                    got=f"-pathways with {name!r}",
                    expected=f"{side}: {', '.join(names)}",
                    fix="write new=older, such as sub2=sub1" + did_you_mean(name, names),
                )


def _by_resolution(
    source: Layout,
    target: Layout,
    spacing_mm: tuple[float, float, float],
    source_spacing_mm: tuple[float, float, float] | None,
) -> dict[str, str | None]:
    if source_spacing_mm is None:
        raise DeepsegError(
            Problem(
                "spacing-unknown",
                got="an older model that has not been trained, or does not say at which spacing",
                expected="-spacing with a model that knows its own",
                fix="name the pathways instead, such as -pathways sub1=normal",
            )
        )
    old, new = (
        {p.name: _resolution(p, mm) for p in plan.pathways if p.network is None}
        for plan, mm in ((source, source_spacing_mm), (target, spacing_mm))
    )
    pathways = {
        name: next((other for other, size in old.items() if _is_same(size, mm)), None)
        for name, mm in new.items()
    }
    if not any(pathways.values()):
        raise DeepsegError(
            Problem(
                "spacing-unmatched",
                got=f"pathways at {', '.join(map(_mm, new.values()))}",
                expected=f"one at {', '.join(map(_mm, old.values()))}, as in the source",
                fix="choose factors so that factor x spacing agrees, or name pathways with "
                "-pathways",
            )
        )
    return pathways


def _resolution(
    pathway: PathwayLayout, spacing_mm: tuple[float, float, float]
) -> tuple[float, ...]:
    return tuple(mm * f for mm, f in zip(spacing_mm, pathway.geometry.factor, strict=True))


def _is_same(size: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= SAME_RESOLUTION * a for a, b in zip(size, other, strict=True))


def _mm(size: Sequence[float]) -> str:
    return " x ".join(f"{mm:g}" for mm in size) + " mm"


def _blocks(pathways: Mapping[str, str | None], rules: TransferRules) -> dict[str, str | None]:
    """Who gets a source pathway's block: a pathway that asked for it, then one of its name."""
    owner: dict[str, str] = {}
    namesakes = [(new, old) for new, old in pathways.items() if new == old]
    wishes = [*rules.pathways.items(), *namesakes]
    if rules.spacing_mm is not None:
        wishes += [(new, old) for new, old in pathways.items() if old is not None]
    for new, old in wishes:
        if old is not None and pathways[new] == old:
            owner.setdefault(old, new)
    return {new: old if old and owner.get(old) == new else None for new, old in pathways.items()}


def _chosen(source: Layout, rules: TransferRules) -> set[str]:
    """Addresses of the source layers that the user wants."""
    addresses = source.order
    if rules.layers is None:
        return set(addresses if rules.classes else addresses[:-1])
    chosen: set[str] = set()
    problems: list[Problem] = []
    for pattern in rules.layers:
        try:
            chosen |= _named(source, pattern)
        except DeepsegError as error:
            problems += error.problems
    raise_if_any(problems)
    return chosen


def _named(source: Layout, pattern: str) -> set[str]:
    """Addresses of the source layers that one word of ``-layers`` means."""
    if pattern == "all":
        return set(source.order)
    span = re.fullmatch(r"(\d+)(?:-(\d+))?", pattern)
    if span is None:
        return set(source.addresses([pattern]))
    first, last = int(span[1]), int(span[2] or span[1])
    depths = {layer.address: layer.depth for layer in source}
    depths |= {layer.address: layer.depth for layer in source.imported_layers}
    addresses = {address for address, depth in depths.items() if first <= depth <= last}
    if not addresses:
        deepest = max(depths.values())
        raise DeepsegError(
            Problem(
                "layer-unknown",
                got=f"-layers {pattern}",
                expected=f"depths of the older model, 1 to {deepest}",
                fix="look at its depths with -show",
            )
        )
    return addresses


def _layers(
    source: Layout,
    target: Layout,
    rules: TransferRules,
    pathways: Mapping[str, str | None],
    chosen: set[str],
    imported_stops: Sequence[str],
) -> Iterator[Match]:
    by_name = {pathway.name: pathway for pathway in source.pathways}
    stops = list(imported_stops)
    for pathway in target.pathways:
        old = pathways[pathway.name]
        if old is None:
            reason = "no pathway of the source sees at this resolution"
            if rules.spacing_mm is None:
                reason = LEFT_NEW if pathway.name in rules.pathways else "not in the source"
            yield from (_new(layer, reason) for layer in pathway.layers)
            continue
        matches = _walked(_pairs(pathway.layers, by_name[old], rules), rules)
        stops += [match.target.address for match in matches if match.status == "stop"]
        yield from _chosen_only(matches, rules, chosen)
    yield from _chosen_only(_fc(source, target, rules, stops), rules, chosen)


def _mapped(
    matches: Iterable[Match], source: Layout, target: Layout, wishes: Mapping[str, str]
) -> Iterator[Match]:
    """The matches, with the source of those layers for which the user names one.

    Raises:
        DeepsegError: ``layer-unknown``, or ``layer-map`` for layers of two kinds.
    """
    old = {layer.address: layer for layer in source}
    raise_if_any(_wrong_map(source, target, wishes))
    for match in matches:
        wish = wishes.get(match.target.address)
        if wish is None:
            yield match
        elif wish == NEW:
            yield _new(match.target, LEFT_NEW)
        elif wish not in old:
            yield _new(match.target, f"no counterpart in {wish}")
        else:
            yield Match(match.target, old[wish])


def _wrong_map(source: Layout, target: Layout, wishes: Mapping[str, str]) -> Iterator[Problem]:
    old, new = ({layer.address: layer for layer in plan} for plan in (source, target))
    for address, wish in wishes.items():
        sides = [("new", address, target.order)]
        sides += [("older", wish, source.order)] if wish != NEW else []
        unknown = [(side, name, layers) for side, name, layers in sides if name not in layers]
        for side, name, layers in unknown:
            yield Problem(
                "layer-unknown",
                got=f"-map {address}={wish}",
                expected=f"a layer of the {side} model: {', '.join(ranges(layers))}",
                fix="write new=older, such as normal.3=normal.2" + did_you_mean(name, layers),
            )
        if wish not in old or address not in new or unknown:
            continue
        kinds = _kind(old[wish]), _kind(new[address])
        if kinds[0] != kinds[1]:
            yield Problem(
                "layer-map",
                got=f"-map {address}={wish}, {kinds[0]} for {kinds[1]}",
                expected="layers of one kind: their inputs or outputs are of one kind too",
                fix="name another layer",
            )


def _kind(layer: LayerPlan) -> str:
    if layer.reads_image:
        return "a layer that reads the image"
    return "a classification layer" if layer.is_head else "a layer between maps"


def _fc(source: Layout, target: Layout, rules: TransferRules, stops: Sequence[str]) -> list[Match]:
    """Hidden layers by their number, the head by its role."""
    if stops:
        return [_new(layer, _after(stops)) for layer in target.fc.layers]
    if not source.fc.layers or not target.fc.layers:
        return [_new(layer, "no fc in the source") for layer in target.fc.layers]
    *hidden, head = target.fc.layers
    pairs = [*_pairs(hidden, source.fc, rules), Match(head, source.fc.layers[-1])]
    return _walked(pairs, rules)


def _pairs(layers: Sequence[LayerPlan], old: PathwayLayout, rules: TransferRules) -> list[Match]:
    sources = [layer for layer in old.layers if not layer.is_head]
    status: LayerStatus = "inserted" if rules.depth == "identity" else "missing"
    reason = f"{old.name} of the source ends before it"
    return [
        *(Match(layer, source) for layer, source in zip(layers, sources, strict=False)),
        *(Match(layer, None, status, reason) for layer in layers[len(sources) :]),
    ]


def _walked(pairs: Sequence[Match], rules: TransferRules) -> list[Match]:
    """The pairs of one pathway up to the first that differs, if the rules say so."""
    if rules.depth != "first-common":
        return list(pairs)
    for number, match in enumerate(pairs):
        reason = _stop(match)
        if reason:
            reason_after = _after([match.target.address])
            return [
                *pairs[:number],
                Match(match.target, None, "stop", f"stopped here: {reason}"),
                *(_new(later.target, reason_after) for later in pairs[number + 1 :]),
            ]
    return list(pairs)


def _after(stops: Sequence[str]) -> str:
    return f"behind {', '.join(stops)}, where the walk stopped"


def _chosen_only(pairs: Sequence[Match], rules: TransferRules, chosen: set[str]) -> Iterator[Match]:
    """The pairs, those of layers that the user does not want without their source."""
    for match in pairs:
        if match.source is None or match.source.address in chosen:
            yield match
        elif match.target.is_head and rules.layers is None:
            yield _new(match.target, NEW_HEAD)
        else:
            yield _new(match.target, "not asked for")


def _stop(match: Match) -> str:
    """Why a walk along a pathway ends at this layer; nothing if it goes on."""
    if match.source is None:
        return "only in the new model"
    return "; ".join(
        f"{difference.setting} {difference.old} in the source, {difference.new} in the model"
        for difference in layer_differences(match.source, match.target)
        if difference.setting != "dropout"
    )


def _too_short(matching: Matching, rules: TransferRules) -> Iterator[Problem]:
    """The source must feed every layer unless the user chose layers."""
    if rules.depth != "by-name" or rules.layers not in (None, ("all",)):
        return
    missing = [match.target.address for match in matching.layers if match.status == "missing"]
    if missing:
        yield Problem(
            "source-too-short",
            got=f"an older model without layers for {', '.join(ranges(missing))}",
            expected="at least as many layers as in the new model, in every pathway",
            fix="name the layers to take over with -layers, or add -depth first-common, or "
            "-depth identity",
        )


def _without_target(source: Layout, matching: Matching, rules: TransferRules) -> Iterator[Problem]:
    """Every word of ``-layers`` must lead to a layer of the new model."""
    sources = matching.sources()
    for pattern in rules.layers or ():
        if rules.depth == "by-name" and not sources & _named(source, pattern):
            yield Problem(
                "layer-without-target",
                got=f"-layers {pattern}, which feeds no layer of the new model",
                expected="layers that the new model has too, in the same pathway",
                fix="leave it out, or say with -pathways where it goes",
            )


def _without_effect(matching: Matching, target: Layout, rules: TransferRules) -> Iterator[Problem]:
    """Rules about layers that are not taken over, and a transfer of nothing."""
    filled = [match.target for match in matching.layers if match.source is not None]
    first = any(layer.reads_image for layer in filled) or bool(matching.imported_sources)
    addresses = [layer.address for layer in filled]
    addresses += [layer.address for layer in matching.imported_sources]
    head = target.head in addresses
    for option, wishes, has_effect, layer in (
        ("-channels", rules.channels, first, "a first layer"),
        ("-classes", rules.classes, head, "the classification layer"),
    ):
        if wishes and not has_effect:
            yield Problem(
                "transfer-rules",
                got=f"{option}, but {layer} is not taken over",
                expected=f"{option} with rules that take {layer}",
                fix=f"leave {option} out, or change -layers",
            )
    if (
        not filled
        and not matching.imported_sources
        and not matching.mapped
        and not (rules.layers and rules.depth == "by-name")
    ):
        reasons = dict.fromkeys(match.reason for match in matching.layers)
        yield Problem(
            "nothing-taken",
            got=f"no layer to take over ({next(iter(reasons))})",
            expected="at least one",
            fix="choose other layers, or another older model",
        )


def ranges(addresses: Iterable[str]) -> list[str]:
    """Addresses, neighbours of one pathway together.

    >>> ranges(["normal.5", "normal.6", "fc.1"])
    ['normal.5-6', 'fc.1']
    """
    spans: list[tuple[str, int | None, int | None]] = []
    for address in addresses:
        pathway, _, number = address.rpartition(".")
        n = int(number) if number.isdigit() and pathway.isalnum() else None
        if n is None:
            spans.append((address, None, None))
        elif spans and spans[-1][0] == pathway and spans[-1][2] == n - 1:
            spans[-1] = (pathway, spans[-1][1], n)
        else:
            spans.append((pathway, n, n))
    return [
        pathway
        if first is None
        else f"{pathway}.{first}"
        if first == last
        else f"{pathway}.{first}-{last}"
        for pathway, first, last in spans
    ]
