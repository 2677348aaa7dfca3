"""Which feature maps, channels or classes of an older model become which ones of a new model.

A `MapSelection` says for every map of the new model from which maps of the older one it is made.
Weights follow from it along each of their axes, so that a tensor is only ever cut, repeated or
mixed in whole maps. Nothing here knows which layers belong together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any

MapFactors: TypeAlias = Mapping[int, float] | None

_GENERIC = re.compile(r"background|(channel|class)\d+")  # for DeepMedic's files, without names


@dataclass(frozen=True)
class MapSelection:
    """Where every map of the new model comes from.

    Attributes:
        rows: Per map of the new model: factors by map of the older one, whose weighted sum it is;
            empty for zero; None if it stays as initialised.
        notes: What a reader should know about the rows that are not simply taken over.
    """

    rows: tuple[MapFactors, ...]
    notes: tuple[str, ...] = ()

    @property
    def filled(self) -> list[int]:
        """Maps that do not stay as initialised."""
        return [index for index, row in enumerate(self.rows) if row is not None]

    @property
    def taken(self) -> int:
        """How many maps come from maps of the older model."""
        return sum(bool(row) for row in self.rows)

    def carried(self) -> MapSelection:
        """For what belongs to a map itself, such as its norm: no shares, and nothing for zeros."""
        return MapSelection(tuple(_whole(row) if row else None for row in self.rows))

    def spans(self) -> list[str]:
        """The rows in words, runs of neighbours together: ``0-29 from 0-29``, ``30-59 new``."""
        runs: list[tuple[int, int, MapFactors]] = []
        for index, row in enumerate(self.rows):
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
    """Map by map as far as both go; further ones stay as initialised, or behind.

    Args:
        size: Of the new model.
        source_size: Of the older one.
        noun: What notes call them.
    """
    shared = min(size, source_size)
    notes = (f"{source_size} {noun} in the source",) if source_size != size else ()
    return MapSelection((*({i: 1.0} for i in range(shared)), *[None] * (size - shared)), notes)


def joined(blocks: Sequence[tuple[str, int, MapSelection | None, int]]) -> MapSelection:
    """The maps of all pathways, one block behind the other, as the first FC layer reads them.

    Args:
        blocks: Per pathway of the new model its name, its number of maps, their wiring (None if
            the block stays as initialised), and where the block begins in the older model.
    """
    rows: list[MapFactors] = []
    notes: list[str] = []
    for name, size, wiring, begin in blocks:
        if wiring is None:
            rows += [None] * size
            notes.append(f"inputs from {name} are new")
            continue
        rows += [_moved(row, begin) for row in wiring.rows]
        notes += [f"{name}: {note}" for note in wiring.notes]
    return MapSelection(tuple(rows), tuple(notes))


def _moved(row: MapFactors, by: int) -> MapFactors:
    return row if row is None else {index + by: factor for index, factor in row.items()}


def channels(own: Sequence[str], source: Sequence[str], asked: Mapping[str, str]) -> MapSelection:
    """Image channels by name; those that the older model does not know are zero.

    Args:
        own: Channel names of the new model.
        source: Those of the older one.
        asked: What the user wants for channels of the new model.

    Raises:
        DeepsegError: ``channel-unknown``, or ``channels-unmatched`` if no name is in both.
    """
    raise_if_any(_unknown("channel", asked, own, source, ("zero", "mean", "random")))
    defaults, how = _defaults("channels", own, source)
    found = [
        _channel(name, source, asked.get(name), default)
        for name, default in zip(own, defaults, strict=True)
    ]
    rows = [row for row, _ in found]
    if not any(rows):
        raise DeepsegError(
            Problem(
                "channels-unmatched",
                got=f"channels {', '.join(own)}, none of them in the older model",
                expected=f"at least one of its channels {', '.join(source)}",
                fix=f"say which feeds which, such as -channels {own[0]}={source[0]}",
            )
        )
    notes = [*how, *(note for _, note in found if note), *_left_behind("channels", rows, source)]
    return MapSelection(tuple(rows), tuple(notes))


def _channel(
    name: str, source: Sequence[str], wish: str | None, default: int | None
) -> tuple[MapFactors, str]:
    """Row of one channel, and what to say about it."""
    match wish:
        case "zero":
            return {}, f"{name} starts at zero"
        case "random":
            return None, f"{name} is new"
        case "mean":
            share = 1 / len(source)
            return dict.fromkeys(range(len(source)), share), f"{name} is the mean of all"
        case str():
            old = _origin("channel", wish)
            return {list(source).index(old): 1.0}, f"{name} is a copy of {old}"
    if default is None:
        return {}, f"{name} is not in the source and starts at zero"
    return {default: 1.0}, ""


def classes(own: Sequence[str], source: Sequence[str], asked: Mapping[str, str]) -> MapSelection:
    """Classes by name, the background always; those that the older model has not stay new.

    Raises:
        DeepsegError: ``class-unknown``.
    """
    raise_if_any(_unknown("class", asked, own, source, ()))
    defaults, how = _defaults("classes", own, source)
    defaults[0] = 0 if defaults[0] is None else defaults[0]
    rows: list[MapFactors] = []
    notes = [*how]
    for name, default in zip(own, defaults, strict=True):
        old = asked.get(name)
        index = default if old is None else list(source).index(old)
        rows.append(None if index is None else {index: 1.0})
        notes += [f"class {name} is new"] if index is None else []
        notes += [f"class {name} is a copy of {old}"] if old is not None else []
    return MapSelection(tuple(rows), (*notes, *_left_behind("classes", rows, source)))


def _defaults(
    kind: str, own: Sequence[str], source: Sequence[str]
) -> tuple[list[int | None], list[str]]:
    """Where each name is in the older model unless the user says otherwise, and how it was found.

    Names are compared, or, where one side has none of its own, their places.
    """
    nameless = [all(_GENERIC.fullmatch(name) for name in side) for side in (own, source)]
    if nameless.count(True) != 1:
        return [_position(name, source) for name in own], []
    places = [place if place < len(source) else None for place in range(len(own))]
    return places, [f"{kind} by position: {', '.join(own)} from {', '.join(source)}"]


def _left_behind(kind: str, rows: Sequence[MapFactors], source: Sequence[str]) -> list[str]:
    taken = {index for row in rows if row for index in row}
    left = [name for index, name in enumerate(source) if index not in taken]
    return [f"{kind} left behind: {', '.join(left)}"] if left else []


def _position(name: str, source: Sequence[str]) -> int | None:
    """Where ``name`` is in ``source``; upper and lower case are one where that is unambiguous."""
    if name in source:
        return list(source).index(name)
    folded = [one.casefold() for one in source]
    return folded.index(name.casefold()) if folded.count(name.casefold()) == 1 else None


def _unknown(
    kind: str,
    asked: Mapping[str, str],
    own: Sequence[str],
    source: Sequence[str],
    words: Sequence[str],
) -> list[Problem]:
    option = "-channels" if kind == "channel" else "-classes"
    problems = []
    for name, wish in asked.items():
        if name not in own:
            fix = f"write new=older with a {kind} of the new model" + did_you_mean(name, own)
            expected = f"one of {', '.join(own)}"
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
    """
    copies = {index: sum(one == index for one in maps) for index in maps if index is not None}
    seen = dict.fromkeys(copies, 0)
    rows: list[MapFactors] = []
    for index in maps:
        if index is None:
            rows.append({})
            continue
        seen[index] += 1
        rows.append({index: 2 * seen[index] / (copies[index] * (copies[index] + 1))})
    notes = []
    if (spare := len(maps) - len(copies) - sum(index is None for index in maps)) > 0:
        notes.append(f"{spare} inputs are repeated")
    if zeros := sum(index is None for index in maps):
        notes.append(f"{zeros} inputs start at zero")
    return MapSelection(tuple(rows), tuple(notes))
