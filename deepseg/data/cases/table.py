"""Cases from a table: comma-separated values with a row per case and a column per file.

Commas, semicolons and tabs separate cells. Rows that are empty or begin with ``#`` do not count.
DeepMedic's names of columns are understood.
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
    channel_order,
    entry,
    missing_files,
    text_of,
)
from deepseg.errors import DeepsegError, Problem, did_you_mean

DEEPMEDIC = {"prediction_filename": "case", "ground_truth": "labels", "roi_mask": "roi"}
CHANNEL = "channel_"
WEIGHTS = re.compile("weights_[1-9][0-9]*")


@dataclass(frozen=True)
class _Record:
    """One line of a table, cut into cells without the spaces around them."""

    line: int
    cells: tuple[str, ...]


def table_cases(table: Path, channels: Sequence[str]) -> list[ListedCase]:
    """The cases in ``table``, one per row.

    Raises:
        DeepsegError: everything that is wrong with the table, and then every file that is missing.
    """
    header, *records = _records(table) or [_Record(1, ())]
    if not header.cells:
        return []
    where = f"{table}:{header.line}"
    names = [DEEPMEDIC.get(name, name) for name in header.cells]
    problems = _column_problems(header, names, channels, where)
    columns = sorted(name for name in names if name.startswith(CHANNEL))
    try:
        order = channel_order([n.removeprefix(CHANNEL) for n in columns], channels, where=where)
        in_order = [columns[i] for i in order]
    except DeepsegError as refusal:
        problems += refusal.problems
        in_order = []
    problems += _ragged(records, len(names), table)
    whole = [record for record in records if len(record.cells) == len(names)]
    cells = [_cells(record, names, header.cells, table) for record in whole]
    if problems:
        missing = missing_files(e for row in cells for key, e in row.items() if key != "case")
        raise DeepsegError(*problems, *missing.values())
    return [
        _listed_case(f"{table}:{r.line}", row, in_order)
        for r, row in zip(whole, cells, strict=True)
    ]


def _records(table: Path) -> list[_Record]:
    """The rows of ``table`` that count, the header first.

    Raises:
        DeepsegError: ``table-syntax``, or a code of `text_of`.
    """
    lines = list(io.StringIO(text_of(table), newline=None))
    # A comment keeps its line, so that lines are counted as the user's editor counts them.
    lines = ["\n" if line.lstrip().startswith("#") else line for line in lines]
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
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
    return records


def _column_problems(
    header: _Record, names: Sequence[str], channels: Sequence[str], where: str
) -> list[Problem]:
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    allowed = ["case", "labels", "roi", *(f"weights_{i + 1}" for i in range(len(weights)))]
    understood = [*allowed, *(CHANNEL + name for name in channels), *DEEPMEDIC]
    strange = [
        Problem(
            code="table-column",
            got=f"the column {written!r}",
            expected="case, channel_NAME, labels, roi, weights_1, weights_2, …",
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
    }


def _listed_case(where: str, cells: dict[str, ListEntry], channels: Sequence[str]) -> ListedCase:
    absent = ListEntry(None, where, Path())
    weights = sorted((n for n in cells if WEIGHTS.fullmatch(n)), key=lambda n: int(n[8:]))
    return ListedCase(
        where=where,
        name=cells.get("case", absent),
        channels=tuple(cells[name] for name in channels),
        labels=cells.get("labels", absent),
        roi=cells.get("roi", absent),
        weight_maps=tuple(cells[name] for name in weights),
    )
