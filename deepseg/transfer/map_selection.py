"""Which feature maps, channels or classes of an older model become which ones of a new model.

A `MapSelection` says for every map of the new model from which maps of the older one it is made.
Weights follow from it along each of their axes, so that a tensor is only ever cut, repeated or
mixed in whole maps. Nothing here knows which layers belong together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.transfer.rules import NEW

MapFactors: TypeAlias = Mapping[int, float] | None

ANY_CONTRAST = "image"  # the only channel of a model that has learnt from images of any contrast
SHARE = "share"
_GENERIC = re.compile(r"background|(channel|class)\d+")  # for DeepMedic's files, without names


@dataclass(frozen=True)
class MapSelection:
    """The maps of an older model of which every map of the new model is made.

    Attributes:
        maps: Per map of the new model: factors by map of the older one, whose weighted sum it is;
            empty for zero; None if it stays as initialised.
        notes: Remarks for a reader about the maps that are not simply taken over.

    >>> selection = MapSelection(({1: 1.0}, {}, None, {0: 0.5, 1: 0.5}))
    >>> selection.filled, selection.copied
    ([0, 1, 3], 2)
    >>> selection.spans()
    ['0 from 1', '1 zero', '2 new', '3 from 0 x 0.5 + 1 x 0.5']
    """

    maps: tuple[MapFactors, ...]
    notes: tuple[str, ...] = ()

    @property
    def filled(self) -> list[int]:
        """Maps that do not stay as initialised."""
        return [index for index, row in enumerate(self.maps) if row is not None]

    @property
    def copies(self) -> list[int]:
        """Maps that come from maps of the older model."""
        return [index for index, row in enumerate(self.maps) if row]

    @property
    def copied(self) -> int:
        """The number of maps that come from maps of the older model."""
        return len(self.copies)

    def carried(self) -> MapSelection:
        """The selection for values that belong to a map itself, such as its norm.

        They have no shares, and maps of zeros have none of the older model's.

        >>> MapSelection(({0: 0.25}, {}, None)).carried().maps
        ({0: 1.0}, None, None)
        """
        return MapSelection(tuple(_whole(row) if row else None for row in self.maps))

    def spans(self) -> list[str]:
        """The maps in words, runs of neighbours together: ``0-29 from 0-29``, ``30-59 new``."""
        runs: list[tuple[int, int, MapFactors]] = []
        for index, row in enumerate(self.maps):
            if runs and _goes_on(runs[-1], index, row):
                runs[-1] = (runs[-1][0], index, runs[-1][2])
            else:
                runs.append((index, index, row))
        return [_run(*run) for run in runs]


def _whole(row: Mapping[int, float]) -> dict[int, float]:
    total = sum(row.values())
    return {index: factor / total for index, factor in row.items()}


def _goes_on(run: tuple[int, int, MapFactors], index: int, row: MapFactors) -> bool:
    first, _, begin = run
    if not begin or not row:
        return begin == row
    moved = {old + index - first: factor for old, factor in begin.items()}
    return len(begin) == 1 and moved == row


def _run(first: int, last: int, row: MapFactors) -> str:
    place = _span(first, last)
    if row is None:
        return f"{place} new"
    if not row:
        return f"{place} zero"
    parts = [
        _span(old, old + last - first) + ("" if factor == 1 else f" x {factor:.4g}")
        for old, factor in row.items()
    ]
    return f"{place} from {' + '.join(parts)}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def overlap(size: int, source_size: int, noun: str = "maps") -> MapSelection:
    """Maps one by one as far as both go; further ones of the new model stay as initialised.

    Args:
        size: Of the new model.
        source_size: Of the older one.
        noun: Their name in notes.

    >>> overlap(3, 2)
    MapSelection(maps=({0: 1.0}, {1: 1.0}, None), notes=('2 maps in the source',))
    """
    shared = min(size, source_size)
    notes = (f"{source_size} {noun} in the source",) if source_size != size else ()
    return MapSelection((*({i: 1.0} for i in range(shared)), *[None] * (size - shared)), notes)


@dataclass(frozen=True)
class MapBlock:
    """The maps of one pathway among those of all pathways.

    Attributes:
        name: Of the pathway of the new model.
        size: Number of its maps.
        selection: Where they come from, counted within the block; None if they stay as initialised.
        begin: Where the block begins in the older model.
    """

    name: str
    size: int
    selection: MapSelection | None
    begin: int = 0


def joined(blocks: Sequence[MapBlock]) -> MapSelection:
    """The maps of all blocks, one after the other, as the first FC layer reads those of pathways.

    >>> joined([MapBlock("normal", 2, overlap(2, 2), begin=0), MapBlock("sub1", 1, None)]).maps
    ({0: 1.0}, {1: 1.0}, None)
    >>> joined([MapBlock("sub1", 2, overlap(2, 2), begin=7)]).spans()
    ['0-1 from 7-8']
    """
    maps: list[MapFactors] = []
    notes: list[str] = []
    for block in blocks:
        if block.selection is None:
            maps += [None] * block.size
            notes.append(f"inputs from {block.name} are new")
            continue
        maps += [_moved(row, block.begin) for row in block.selection.maps]
        notes += [f"{block.name}: {note}" for note in block.selection.notes]
    return MapSelection(tuple(maps), tuple(notes))


def _moved(row: MapFactors, by: int) -> MapFactors:
    return row if row is None else {index + by: factor for index, factor in row.items()}


def channels(
    target: Sequence[str], source: Sequence[str], wishes: Mapping[str, str]
) -> MapSelection:
    """Image channels by name; those that the older model does not know are zero.

    An older model whose only channel is `ANY_CONTRAST` has no name that another model could have:
    all channels of the new model share its kernels.

    Args:
        target: Channel names of the new model.
        source: Those of the older one.
        wishes: Of the user, by channel of the new model.

    Raises:
        DeepsegError: ``channel-unknown``, or ``channels-unmatched`` if no name is in both.

    >>> channels(["T1c", "DWI"], ["FLAIR", "T1c"], {}).maps
    ({1: 1.0}, {})
    >>> channels(["T1c", "DWI"], ["FLAIR", "T1c"], {"DWI": "copy:FLAIR"}).spans()
    ['0 from 1', '1 from 0']
    >>> channels(["FLAIR", "T1c"], ["image"], {}).spans()
    ['0 from 0 x 0.5', '1 from 0 x 0.5']
    """
    raise_if_any(_unknown("channel", wishes, target, source, ("zero", "mean", "random", SHARE)))
    if list(source) == [ANY_CONTRAST] and ANY_CONTRAST not in target:
        wishes = dict.fromkeys(target, SHARE) | dict(wishes)
    sharing = [name for name in target if wishes.get(name) == SHARE]
    defaults, notes = _defaults("channels", target, source)
    notes = [] if sharing == list(target) else notes
    pairs = [
        _channel(name, source, wishes.get(name), default, sharers=len(sharing))
        for name, default in zip(target, defaults, strict=True)
    ]
    maps = [row for row, _ in pairs]
    if not any(maps):
        raise DeepsegError(
            Problem(
                "channels-unmatched",
                got=f"channels {', '.join(target)}, none of them in the older model",
                expected=f"at least one of its channels {', '.join(source)}",
                fix=f"say which feeds which, such as -channels {target[0]}={source[0]}",
            )
        )
    notes += [*(note for _, note in pairs if note), *_shared(sharing, source)]
    return MapSelection(tuple(maps), (*notes, *_unused("channels", maps, source)))


def _shared(names: Sequence[str], source: Sequence[str]) -> list[str]:
    """What to say about channels that share the kernels of the older model's."""
    if not names:
        return []
    mean = "the mean of " if len(source) > 1 else ""
    kernels = f"{mean}the kernels of {', '.join(source)}"
    if len(names) == 1:
        return [f"{names[0]} takes over {kernels}"]
    return [f"{', '.join(names)} share {kernels}: 1/{len(names)} each"]


def _channel(
    name: str, source: Sequence[str], wish: str | None, default: int | None, *, sharers: int
) -> tuple[MapFactors, str]:
    """Row of one channel, and what to say about it by itself."""
    match wish:
        case "zero":
            return {}, f"{name} starts at zero"
        case "random":
            return None, f"{name} is new"
        case "mean":
            share = 1 / len(source)
            return dict.fromkeys(range(len(source)), share), f"{name} is the mean of all"
        case "share":
            share = 1 / (len(source) * sharers)
            return dict.fromkeys(range(len(source)), share), ""
        case str():
            old = _origin("channel", wish)
            return {list(source).index(old): 1.0}, f"{name} is a copy of {old}"
    if default is None:
        return {}, f"{name} is not in the source and starts at zero"
    return {default: 1.0}, ""


def classes(
    target: Sequence[str], source: Sequence[str], wishes: Mapping[str, str]
) -> MapSelection:
    """Classes by name, the background always; those that the older model has not stay new.

    Raises:
        DeepsegError: ``class-unknown``.

    >>> classes(["background", "core", "lesion"], ["background", "lesion"], {}).maps
    ({0: 1.0}, None, {1: 1.0})
    >>> classes(["background", "lesion"], ["background", "lesion"], {"lesion": "new"}).maps
    ({0: 1.0}, None)
    """
    raise_if_any(_unknown("class", wishes, target, source, (NEW,)))
    defaults, notes = _defaults("classes", target, source)
    defaults[0] = 0 if defaults[0] is None else defaults[0]
    left_new = [name for name, wish in wishes.items() if wish == NEW and NEW not in source]
    maps: list[MapFactors] = []
    for name, default in zip(target, defaults, strict=True):
        old = None if name in left_new else wishes.get(name)
        index = default if old is None else list(source).index(old)
        index = None if name in left_new else index
        maps.append(None if index is None else {index: 1.0})
        notes += [f"class {name} is new"] if index is None else []
        notes += [f"class {name} is a copy of {old}"] if old is not None else []
    return MapSelection(tuple(maps), (*notes, *_unused("classes", maps, source)))


def _defaults(
    kind: str, target: Sequence[str], source: Sequence[str]
) -> tuple[list[int | None], list[str]]:
    """Where each name is in the older model unless the user says otherwise, and notes on that.

    Names are compared, or, where one side has none of its own, their places.
    """
    nameless = [all(_GENERIC.fullmatch(name) for name in side) for side in (target, source)]
    if nameless.count(True) != 1:
        return [_position(name, source) for name in target], []
    places = [place if place < len(source) else None for place in range(len(target))]
    return places, [f"{kind} by position: {', '.join(target)} from {', '.join(source)}"]


def _unused(kind: str, maps: Sequence[MapFactors], source: Sequence[str]) -> list[str]:
    used = {index for row in maps if row for index in row}
    unused = [name for index, name in enumerate(source) if index not in used]
    return [f"{kind} left behind: {', '.join(unused)}"] if unused else []


def _position(name: str, source: Sequence[str]) -> int | None:
    """Where ``name`` is in ``source``; upper and lower case are one where that is unambiguous."""
    if name in source:
        return list(source).index(name)
    folded = [candidate.casefold() for candidate in source]
    return folded.index(name.casefold()) if folded.count(name.casefold()) == 1 else None


def _unknown(
    kind: str,
    wishes: Mapping[str, str],
    target: Sequence[str],
    source: Sequence[str],
    words: Sequence[str],
) -> list[Problem]:
    option = "-channels" if kind == "channel" else "-classes"
    problems = []
    for name, wish in wishes.items():
        if name not in target:
            fix = f"write new=older with a {kind} of the new model" + did_you_mean(name, target)
            expected = f"one of {', '.join(target)}"
            problems.append(_problem(kind, f"{option} {name}={wish}", expected, fix))
        elif wish not in words and (old := _origin(kind, wish)) not in source:
            fix = f"name a {kind} of the older model" + did_you_mean(old, source)
            expected = f"one of {', '.join((*source, *words))}"
            problems.append(_problem(kind, f"{option} {name}={wish}", expected, fix))
    return problems


def _origin(kind: str, wish: str) -> str:
    """The name in a wish; ``copy:`` may stand before that of a channel."""
    return wish.removeprefix("copy:") if kind == "channel" else wish


def _problem(kind: str, got: str, expected: str, fix: str) -> Problem:
    return Problem(f"{kind}-unknown", got, expected, fix)


def repeated(maps: Sequence[int | None]) -> MapSelection:
    """Inputs that are repeated maps of the older model, whose weights share what it had.

    The shares of r copies grow as 1, 2, …, r and add up to 1: with equal ones, copies would learn
    alike for ever; doi:10.48550/arXiv.1511.05641. None stands for maps that the older model does
    not have; they start at zero.

    >>> repeated([0, 1, 1, None]).spans()
    ['0 from 0', '1 from 1 x 0.3333', '2 from 1 x 0.6667', '3 zero']
    """
    copies = Counter(index for index in maps if index is not None)
    counts = dict.fromkeys(copies, 0)
    selection: list[MapFactors] = []
    for index in maps:
        if index is None:
            selection.append({})
            continue
        counts[index] += 1
        selection.append({index: 2 * counts[index] / (copies[index] * (copies[index] + 1))})
    notes = []
    if (spare := len(maps) - len(copies) - sum(index is None for index in maps)) > 0:
        notes.append(counted(spare, "input is repeated", "inputs are repeated"))
    if zeros := sum(index is None for index in maps):
        notes.append(counted(zeros, "input starts at zero", "inputs start at zero"))
    return MapSelection(tuple(selection), tuple(notes))
