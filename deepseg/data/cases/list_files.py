"""Cases from list files: one file per channel, for the labels, and so on; one line per case.

Lines that are empty or begin with ``#`` do not count. Nothing is cut to the shortest list.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case_names import names_from_paths
from deepseg.data.cases.listing import (
    ListedCase,
    ListEntry,
    channel_order,
    entry,
    missing_files,
    positional_order,
    text_of,
)
from deepseg.errors import DeepsegError, Problem


def list_file_cases(config: CasesConfig, channels: Sequence[str]) -> list[ListedCase]:
    """One case per line of the lists in ``config``.

    Raises:
        DeepsegError: everything that is wrong with the lists, and then every file that is missing.
    """
    images = _image_lists(config)
    files = dict.fromkeys([*images, *([config.names] if config.names else [])])
    lists: dict[Path, list[ListEntry]] = {}
    order: list[int] = []
    problems: list[Problem] = []
    for file in files:
        try:
            lists[file] = list_entries(file)
        except DeepsegError as refusal:
            problems += refusal.problems
    try:
        order = _channel_order(config, channels)
    except DeepsegError as refusal:
        problems += refusal.problems
    unequal = _unequal_lengths(lists)
    if problems or unequal:
        missing = missing_files(e for file in images for e in lists.get(file, []))
        raise DeepsegError(*problems, *missing.values(), *unequal)
    return [_listed_case(config, lists, order, i) for i in range(len(lists[images[0]]))]


def list_entries(file: Path) -> list[ListEntry]:
    """The lines of ``file`` that count."""
    lines = enumerate(io.StringIO(text_of(file), newline=None), start=1)
    return [
        entry(line, f"{file}:{number}", file.parent)
        for number, line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]


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


def _unequal_lengths(lists: Mapping[Path, Sequence[ListEntry]]) -> list[Problem]:
    """A problem if the lists do not have the same number of entries."""
    counts = {file: len(entries) for file, entries in lists.items()}
    if len(set(counts.values())) < 2:
        return []
    longest, shortest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    lone = _first_unmatched(lists[longest], lists[shortest])
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
