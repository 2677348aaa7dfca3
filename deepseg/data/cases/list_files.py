"""Cases from list files: one file per channel, for the labels, and so on; one line per case.

Lines that are empty or begin with ``#`` do not count. Nothing is cut to the shortest list. An empty
line between two cases is refused where it may stand for a file that a case lacks.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case_names import CaseKey, case_keys, names_from_paths
from deepseg.data.cases.listing import (
    ListedCase,
    ListEntry,
    Listing,
    channel_order,
    entry,
    is_there,
    missing_files,
    positional_order,
    text_of,
)
from deepseg.errors import DeepsegError, Problem


@dataclass(frozen=True)
class _Gap:
    """An empty line between two entries.

    Attributes:
        entries: Entries above it.
        line: Its number.
    """

    entries: int
    line: int


@dataclass(frozen=True)
class _ListFile:
    """The lines of a list file.

    Attributes:
        entries: Those that count.
        gaps: Those that are empty, between entries.
        comments: Those that begin with ``#`` and are the path of a file.
    """

    entries: tuple[ListEntry, ...]
    gaps: tuple[_Gap, ...]
    comments: tuple[ListEntry, ...]

    @property
    def keys(self) -> list[CaseKey | None]:
        """For each entry, words and numbers by which its path tells its case; None for no path."""
        return case_keys([entry.path for entry in self.entries])


def list_file_cases(config: CasesConfig, channels: Sequence[str]) -> Listing:
    """One case per line of the lists in ``config``.

    Raises:
        DeepsegError: everything that is wrong with the lists, and then every file that is missing.
    """
    images = _image_lists(config)
    files = dict.fromkeys([*images, *([config.names] if config.names else [])])
    lists: dict[Path, _ListFile] = {}
    order: list[int] = []
    problems: list[Problem] = []
    for file in files:
        try:
            lists[file] = _list_file(file)
        except DeepsegError as refusal:
            problems += refusal.problems
    try:
        order = _channel_order(config, channels)
    except DeepsegError as refusal:
        problems += refusal.problems
    unequal = _ambiguous_gaps(lists) or _unequal_lengths(lists)
    if problems or unequal:
        missing = missing_files(e for file in images if file in lists for e in lists[file].entries)
        raise DeepsegError(*problems, *missing.values(), *unequal)
    entries = {file: lines.entries for file, lines in lists.items()}
    cases = (_listed_case(config, entries, order, i) for i in range(len(entries[images[0]])))
    return Listing(tuple(cases), _comment_warnings(lists))


def _list_file(file: Path) -> _ListFile:
    entries: list[ListEntry] = []
    gaps: list[_Gap] = []
    comments: list[ListEntry] = []
    for number, line in enumerate(io.StringIO(text_of(file), newline=None), start=1):
        if not line.strip():
            gaps.append(_Gap(len(entries), number))
            continue
        written = entry(line, f"{file}:{number}", file.parent)
        (comments if line.lstrip().startswith("#") else entries).append(written)
    return _ListFile(
        entries=tuple(entries),
        gaps=tuple(gap for gap in gaps if 0 < gap.entries < len(entries)),
        comments=tuple(c for c in comments if c.path is not None and is_there(c.path)),
    )


def channel_files(config: CasesConfig) -> list[Path]:
    """The list file of each channel; none where a table or a dataset lists the cases."""
    files = config.channels or ()
    return list(files.values() if isinstance(files, dict) else files)


def _image_lists(config: CasesConfig) -> list[Path]:
    """The files of ``config`` that list images, channels first."""
    rest = (config.labels, config.roi, *(config.weight_maps or ()))
    return [*channel_files(config), *(file for file in rest if file is not None)]


def _channel_order(config: CasesConfig, channels: Sequence[str]) -> list[int]:
    files = config.channels or ()
    if isinstance(files, dict):
        return channel_order(list(files), channels)
    return positional_order(len(files), channels)


def _listed_case(
    config: CasesConfig, lists: Mapping[Path, Sequence[ListEntry]], order: Sequence[int], index: int
) -> ListedCase:
    files = channel_files(config)
    first = lists[files[0]][index]
    absent = ListEntry(None, first.where, first.folder)

    def of(file: Path | None) -> ListEntry:
        return absent if file is None else lists[file][index]

    return ListedCase(
        where=first.where,
        name=of(config.names),
        channels=tuple(of(files[i]) for i in order),
        labels=of(config.labels),
        roi=of(config.roi),
        weight_maps=tuple(of(file) for file in config.weight_maps or ()),
    )


def _comment_warnings(lists: Mapping[Path, _ListFile]) -> tuple[str, ...]:
    """A warning for every list with comments that are paths of files."""
    return tuple(
        f"{lines.comments[0].where}: {lines.comments[0].text} is a file, but lines that begin with "
        "'#' do not count; write './' in front of it if it is meant"
        for lines in lists.values()
        if lines.comments
    )


def _ambiguous_gaps(lists: Mapping[Path, _ListFile]) -> list[Problem]:
    """A problem for every list with an empty line that may stand for a file that a case lacks.

    It does not where all lists have it, or where the paths say that the lines belong together
    without it.
    """
    places = {tuple(gap.entries for gap in lines.gaps) for lines in lists.values()}
    if len(places) < 2:
        return []
    labels = _short_names(list(lists))
    cases = max(len(lines.entries) for lines in lists.values())
    problems = []
    for file, lines in lists.items():
        if not lines.gaps or not _may_lack_files(lines, cases):
            continue
        if _belongs_together(lines, [lists[key] for key in lists if key != file]):
            continue
        first = lines.gaps[0]
        without = [
            labels[key]
            for key, rest in lists.items()
            if first.entries not in (gap.entries for gap in rest.gaps)
        ]
        problems.append(
            Problem(
                code="list-empty-line",
                got="an empty line between two cases, and none at this place in "
                + ", ".join(without),
                expected="a line for every case in every list",
                fix="write '-' if the case has no such file, or else remove the empty line",
                where=f"{file}:{first.line}",
            )
        )
    return problems


def _may_lack_files(lines: _ListFile, cases: int) -> bool:
    """True if the list has so many lines, with its gaps or without them."""
    return len(lines.entries) <= cases <= len(lines.entries) + len(lines.gaps)


def _belongs_together(lines: _ListFile, rest: Sequence[_ListFile]) -> bool:
    """True if the paths say that the entries are of the cases of the other lists, line by line."""
    keys = lines.keys
    telling = [k for k in (file.keys for file in rest) if _tells_cases_apart(k)]
    if not telling or not _tells_cases_apart(keys):
        return False
    return all(
        len(column) == len(keys)
        and all(a == b for a, b in zip(keys, column, strict=True) if None not in (a, b))
        for column in telling
    )


def _tells_cases_apart(keys: Sequence[CaseKey | None]) -> bool:
    present = [key for key in keys if key is not None]
    return len(present) > 1 and len(set(present)) == len(present)


def _unequal_lengths(lists: Mapping[Path, _ListFile]) -> list[Problem]:
    """A problem if the lists do not have the same number of entries."""
    counts = {file: len(lines.entries) for file, lines in lists.items()}
    if len(set(counts.values())) < 2:
        return []
    longest, shortest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    lone = _first_unmatched(lists[longest].entries, lists[shortest].entries)
    labels = _short_names(list(lists))
    return [
        Problem(
            code="list-lengths",
            got=", ".join(f"{n} in {labels[file]}" for file, n in counts.items()),
            expected="an entry for every case in every list",
            fix=f"add the line for {lone.where} {lone.text or '-'}, the first case without one; "
            "'-' stands for no file",
            where=str(shortest),
        )
    ]


def _first_unmatched(longer: Sequence[ListEntry], shorter: Sequence[ListEntry]) -> ListEntry:
    """The first case of ``longer`` that ``shorter`` lacks.

    A line may be missing anywhere. Where the paths name the cases alike in both lists, the names
    tell which one; else it is taken to be missing at the end.
    """
    paths, matches = ([e.path for e in entries if e.path] for entries in (longer, shorter))
    if len(paths) == len(longer) and matches:
        names, matched = names_from_paths(paths), set(names_from_paths(matches))
        if matched < set(names):
            return next(e for e, name in zip(longer, names, strict=True) if name not in matched)
    return longer[len(shorter)]


def _short_names(files: Sequence[Path]) -> dict[Path, str]:
    """The name of each file, or its whole path where another has the same name."""
    times = Counter(file.name for file in files)
    return {file: file.name if times[file.name] == 1 else str(file) for file in files}
