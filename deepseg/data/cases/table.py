"""Cases from a table: comma-separated values with a row per case and a column per file.

Commas, semicolons and tabs separate cells. Rows that are empty or begin with ``#`` do not count; of
the latter, those that look like a case are named in a warning. DeepMedic's names of columns are
understood.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.data.cases.listing import (
    ListedCase,
    ListEntry,
    Listing,
    channel_order,
    entry,
    is_there,
    missing_files,
    text_of,
)
from deepseg.data.images.volumes import volume_count
from deepseg.errors import DeepsegError, Problem, did_you_mean

DEEPMEDIC = {"prediction_filename": "case", "ground_truth": "labels", "roi_mask": "roi"}
CHANNEL = "channel_"
SPLIT = "split"
PATIENT = "patient"
PARTS = ("training", "validation", "test")
WEIGHTS = re.compile("weights_[1-9][0-9]*")


@dataclass(frozen=True)
class _Record:
    """One line of a table, cut into cells without the spaces around them."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """The lines of a table.

    Attributes:
        records: Those that count, the header first.
        comments: Those that begin with ``#`` and have as many cells as the header.
    """

    records: tuple[_Record, ...]
    comments: tuple[_Record, ...]


def table_channels(table: Path) -> tuple[str, ...]:
    """Names of the channels that ``table`` has columns for, in their order.

    Raises:
        DeepsegError: ``table-syntax``, or what is wrong with the file.
    """
    records = _read(table).records
    header = records[0].cells if records else ()
    return tuple(name.removeprefix(CHANNEL) for name in header if name.startswith(CHANNEL))


def table_cases(
    table: Path,
    channels: Sequence[str],
    columns: Sequence[str] = (),
    *,
    part: str | None = None,
) -> Listing:
    """The cases in ``table``, one per row.

    Args:
        table: The file.
        channels: Names of the model's channels.
        columns: Names that the columns of these channels had in the table of its training cases,
            where the channels themselves have none.
        part: Of a table with a column ``split``: only rows of this part; None for all.

    Raises:
        DeepsegError: everything that is wrong with the table, and then every file that is missing.
    """
    lines = _read(table)
    if not lines.records:
        return Listing(())
    header, *records = lines.records
    where = f"{table}:{header.line}"
    names = [DEEPMEDIC.get(name, name) for name in header.cells]
    problems = _column_problems(header, names, channels, where)
    written = [name.removeprefix(CHANNEL) for name in names if name.startswith(CHANNEL)]
    try:
        in_order = [written[i] for i in _column_order(written, channels, columns, where)]
    except DeepsegError as refusal:
        problems += refusal.problems
        in_order = []
    problems += _ragged(records, len(names), table)
    whole = [record for record in records if len(record.cells) == len(names)]
    problems += _split_problems(whole, names, table)
    whole = [record for record in whole if _is_in_part(record, names, part)]
    cells = [_cells(record, names, header.cells, table) for record in whole]
    if problems:
        missing = missing_files(
            e for row in cells for key, e in row.items() if key not in ("case", PATIENT)
        )
        raise DeepsegError(*problems, *missing.values())
    listed = (
        _listed_case(f"{table}:{r.line}", row, [CHANNEL + name for name in in_order])
        for r, row in zip(whole, cells, strict=True)
    )
    by_place = not _is_same(written, channels) and not _are_numbered(written)
    warnings = _comment_warnings(lines.comments, table)
    if by_place and not _is_same(written, columns):
        warnings = (_place_warning(written, channels, where), *warnings)
    return Listing(tuple(listed), warnings, columns=tuple(in_order) if by_place else ())


def _is_same(names: Sequence[str], reference: Sequence[str]) -> bool:
    """True if the names are the same ones in any order and case."""
    return {name.casefold() for name in names} == {name.casefold() for name in reference}


def _are_numbered(names: Sequence[str]) -> bool:
    """True for 1, 2, 3 and channel1, channel2, channel3, which name nothing."""
    return all(re.fullmatch(r"(channel_?)?\d+", name.casefold()) for name in names)


def _place_warning(names: Sequence[str], channels: Sequence[str], where: str) -> str:
    """Which column each channel is, where their order alone decides."""
    first, *further = zip(channels, names, strict=True)
    pairs = [f"{first[0]} is the column {CHANNEL}{first[1]}"]
    pairs += [f"{channel} {CHANNEL}{name}" for channel, name in further]
    return (
        f"{where}: the channels of the model have no names, so columns count in their order: "
        f"{', '.join(pairs)}"
    )


def _column_order(
    names: Sequence[str], channels: Sequence[str], columns: Sequence[str], where: str
) -> list[int]:
    """Place in ``names`` of each of the model's ``channels``; see `channel_order`.

    Where they tell nothing, the names of the columns that the model has learnt from do; else the
    order, which must be that of the alphabet, by which DeepMedic sorts them.

    Raises:
        DeepsegError: ``channel-order``, or a code of `channel_order`.
    """
    if columns and _is_same(names, columns) and len(names) == len(columns):
        return channel_order(names, columns, where=where)
    order = channel_order(names, channels, where=where)
    in_alphabet = sorted(names, key=_with_numbers)
    if list(names) != in_alphabet and not _is_same(names, channels):
        raise DeepsegError(
            Problem(
                code="channel-order",
                got=f"columns in the order {', '.join(names)}, whose names sort as "
                f"{', '.join(in_alphabet)}",
                expected=f"columns that tell which is {' and which '.join(channels[:2])} of the "
                "model",
                fix="sort the columns, as DeepMedic does, or call them "
                f"{', '.join(CHANNEL + name for name in channels)} as the model does",
                where=where,
            )
        )
    return order


def _with_numbers(name: str) -> list[tuple[int, int, str]]:
    """The parts of a name by which it sorts: numbers by their value, before letters."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _comment_warnings(comments: Sequence[_Record], table: Path) -> tuple[str, ...]:
    """A warning if rows that begin with ``#`` may be cases."""
    if not comments:
        return ()
    first, count = comments[0], len(comments)
    rows = "a row that begins" if count == 1 else f"{count} rows that begin"
    return (
        f"{table}:{first.line}: {rows} with '#' {'does' if count == 1 else 'do'} not count, the "
        f"first {first.cells[0]!r}; a name that begins with '#' needs quotes around it",
    )


def _read(table: Path) -> _Table:
    """The lines of ``table``, cut into cells.

    Raises:
        DeepsegError: ``table-syntax``, or a code of `text_of`.
    """
    written = list(io.StringIO(text_of(table), newline=None))
    # A comment keeps its line, so that lines are counted as the user's editor counts them.
    lines = ["\n" if line.lstrip().startswith("#") else line for line in written]
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    split = (
        _Record(number, tuple(cell.strip() for cell in line.split(delimiter)))
        for number, line in enumerate(written, start=1)
        if line.lstrip().startswith("#") and line.count(delimiter)
    )
    comments = tuple(row for row in split if len(row.cells) == header.count(delimiter) + 1)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    records = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append(_Record(reader.line_num, tuple(cell.strip() for cell in cells)))
    except csv.Error as error:
        raise DeepsegError(
            Problem(
                code="table-syntax",
                got=str(error),
                expected="comma-separated values; quotes open and close around a whole cell",
                fix="correct the quotes of this line, or of the lines before it",
                where=f"{table}:{reader.line_num}",
            )
        ) from None
    return _Table(tuple(records), comments)


def _column_problems(
    header: _Record, names: Sequence[str], channels: Sequence[str], where: str
) -> list[Problem]:
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    allowed = [
        "case",
        "labels",
        "roi",
        SPLIT,
        PATIENT,
        *(f"weights_{i + 1}" for i in range(len(weights))),
    ]
    understood = [*allowed, *(CHANNEL + name for name in channels), *DEEPMEDIC]
    strange = [
        Problem(
            code="table-column",
            got=f"the column {written!r}",
            expected="case, channel_NAME, labels, roi, split, patient, weights_1, weights_2, …",
            fix=f"rename or remove it{did_you_mean(written, understood)}",
            where=where,
        )
        for written, name in zip(header.cells, names, strict=True)
        if name not in allowed and not name.startswith(CHANNEL)
    ]
    twice = [
        Problem(
            code="table-column",
            got=f"the column {name!r} {times} times",
            expected="every column once",
            fix="remove the others (case, labels and roi are prediction_filename, ground_truth "
            "and roi_mask of DeepMedic)",
            where=where,
        )
        for name, times in Counter(names).items()
        if times > 1
    ]
    return strange + twice


def _split_problems(records: Sequence[_Record], names: Sequence[str], table: Path) -> list[Problem]:
    if SPLIT not in names:
        return []
    place = list(names).index(SPLIT)
    return [
        Problem(
            code="table-split",
            got=repr(record.cells[place]),
            expected=f"{', '.join(PARTS)} or nothing in the column split",
            fix="correct the cell, or leave it empty for a case that is not used",
            where=f"{table}:{record.line}",
        )
        for record in records
        if record.cells[place] not in (*PARTS, "", "-")
    ]


def _is_in_part(record: _Record, names: Sequence[str], part: str | None) -> bool:
    return part is None or SPLIT not in names or record.cells[list(names).index(SPLIT)] == part


def _ragged(records: Sequence[_Record], width: int, table: Path) -> list[Problem]:
    return [
        Problem(
            code="table-cells",
            got=f"{len(record.cells)} cells",
            expected=f"{width}, one per column",
            fix="leave a cell empty where there is no file, and put quotes around a path that "
            "holds the separator",
            where=f"{table}:{record.line}",
        )
        for record in records
        if len(record.cells) != width
    ]


def _cells(
    record: _Record, names: Sequence[str], written: Sequence[str], table: Path
) -> dict[str, ListEntry]:
    """The entries of one row by the name of their column."""
    return {
        name: entry(cell, f"{table}:{record.line} {column}", table.parent)
        for name, column, cell in zip(names, written, record.cells, strict=True)
        if name != SPLIT
    }


def _listed_case(where: str, cells: dict[str, ListEntry], channels: Sequence[str]) -> ListedCase:
    absent = ListEntry(None, where, Path())
    weights = sorted((n for n in cells if WEIGHTS.fullmatch(n)), key=lambda n: int(n[8:]))
    images = tuple(cells[name] for name in channels)
    return ListedCase(
        where=where,
        name=cells.get("case", absent),
        channels=images,
        labels=cells.get("labels", absent),
        roi=cells.get("roi", absent),
        weight_maps=tuple(cells[name] for name in weights),
        volumes=_volumes(images, [name for name in cells if name.startswith(CHANNEL)], channels),
        patient=cells.get(PATIENT, absent).text,
    )


def _volumes(
    images: Sequence[ListEntry], columns: Sequence[str], channels: Sequence[str]
) -> tuple[int, ...]:
    """The volume of each channel, where all cells name one 4D image; else none."""
    paths = {image.path for image in images}
    path = next(iter(paths), None)
    if len(paths) > 1 or len(images) < 2 or path is None or not is_there(path):
        return ()
    try:
        is_4d = volume_count(path) == len(images)
    except DeepsegError:  # which is found when it is read
        return ()
    return tuple(columns.index(name) for name in channels) if is_4d else ()
