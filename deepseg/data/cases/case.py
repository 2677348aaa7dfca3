"""Lists of cases: from list files, from a table, or from a folder with a ``dataset.json``.

Every source comes in as rows of entries; here they become cases with names of their own. Which
files do not exist is known afterwards; what is in the others, `deepseg.data.cases.checks` finds
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case_names import is_allowed, names_from_paths, without_ending
from deepseg.data.cases.dataset import rows_of_dataset
from deepseg.data.cases.list_files import rows_of_lists
from deepseg.data.cases.listing import CaseRow, missing_files
from deepseg.data.cases.table import rows_of_table
from deepseg.errors import DeepsegError, Problem


@dataclass(frozen=True)
class Case:
    """The files of one patient at one time.

    Attributes:
        name: Unique among the cases listed together; part of the names of result files.
        channels: Images in the model's order of channels; None for one that the case lacks.
        labels: The true segmentation, or None.
        roi: Mask of the region of interest, or None where the whole image counts.
        weight_maps: Sampling weights, one per category of the sampling type, or none.
        label_map: Pairs of a label in the file and the label wanted.
        trust_arrays: Whether files that disagree about their place are used all the same.
        where: File and line that list the case.
        nan: Whether voxels that are NaN or infinite are refused or read as 0.
        volumes: Which volume of its image each channel is, counted from 0, and None for a 3D
            image; empty where all images are 3D.
        missing: A problem for every file of the case that cannot be found.
    """

    name: str
    channels: tuple[Path | None, ...]
    labels: Path | None
    roi: Path | None
    weight_maps: tuple[Path, ...]
    label_map: tuple[tuple[int, int], ...]
    trust_arrays: bool
    where: str
    nan: Literal["refuse", "replace"] = "refuse"
    volumes: tuple[int | None, ...] = ()
    missing: tuple[Problem, ...] = ()

    @property
    def images(self) -> tuple[tuple[Path | None, int | None], ...]:
        """File and volume of every channel."""
        volumes = self.volumes or (None,) * len(self.channels)
        return tuple(zip(self.channels, volumes, strict=True))


def list_cases(config: CasesConfig, channels: Sequence[str]) -> list[Case]:
    """The cases that ``config`` speaks of, in its order.

    A file that is missing is a problem of its case, and raised only together with others.

    Args:
        channels: Names of the model's channels.

    Raises:
        DeepsegError: everything that is wrong with the source, and then every file that is missing.
    """
    rows = _rows(config, channels)
    problems = [*_no_rows(config, rows), *_name_problems(rows), *_missing_weights(rows)]
    missing = missing_files(file for row in rows for file in row.files)
    if problems:
        raise DeepsegError(*problems, *missing.values())
    return [
        Case(
            name=name,
            channels=tuple(channel.path for channel in row.channels),
            labels=row.labels.path,
            roi=row.roi.path,
            weight_maps=tuple(weights.path for weights in row.weight_maps if weights.path),
            label_map=tuple(sorted(config.label_map.items())),
            trust_arrays=config.trust_arrays,
            where=row.where,
            nan=config.nan,
            volumes=row.volumes,
            missing=tuple(missing[file] for file in dict.fromkeys(row.files) if file in missing),
        )
        for row, name in zip(rows, _names(rows), strict=True)
    ]


def _rows(config: CasesConfig, channels: Sequence[str]) -> list[CaseRow]:
    if config.table is not None:
        return rows_of_table(config.table, channels)
    if config.dataset is not None:
        return rows_of_dataset(config.dataset, config.part, channels)
    return rows_of_lists(config, channels)


def _no_rows(config: CasesConfig, rows: Sequence[CaseRow]) -> list[Problem]:
    if rows:
        return []
    given = config.channels or ()
    lists = list(given.values() if isinstance(given, dict) else given)
    source = config.table or config.dataset or lists[0]
    of_part = f" in the part {config.part!r}" if config.dataset is not None else ""
    return [
        Problem(
            code="no-cases",
            got=f"no case{of_part}",
            expected="at least one case",
            fix="list the images of at least one case; lines that begin with '#' do not count",
            where=str(source),
        )
    ]


def _given_name(row: CaseRow) -> str | None:
    return None if row.name.text is None else without_ending(row.name.text)


def _name_problems(rows: Sequence[CaseRow]) -> list[Problem]:
    """A problem for every name that no file can have, and for every name given twice."""
    first: dict[str, CaseRow] = {}
    problems = []
    for row in rows:
        name = _given_name(row)
        if name is None:
            continue
        if not is_allowed(name):
            got, expected = f"the name {name!r}", "a name that can be part of a file name"
            fix = "use up to 200 characters, none of them / or \\"
            problems.append(Problem("case-name", got, expected, fix, row.name.where))
        elif name in first:
            got, fix = f"the name {name!r}, as in {first[name].name.where}", "rename one of them"
            where = row.name.where
            problems.append(Problem("case-name-twice", got, "a name of its own", fix, where))
        else:
            first[name] = row
    return problems


def _missing_weights(rows: Sequence[CaseRow]) -> list[Problem]:
    return [
        Problem(
            code="weights-missing",
            got="no file",
            expected="a weight map of every category for every case",
            fix="give the file, or leave out all weight maps",
            where=weights.where,
        )
        for row in rows
        for weights in row.weight_maps
        if weights.path is None
    ]


def _names(rows: Sequence[CaseRow]) -> list[str]:
    """The names given, and for the other rows names from the paths of their files."""
    given = [_given_name(row) for row in rows]
    taken = [name for name in given if name is not None]
    nameless = [row for row, name in zip(rows, given, strict=True) if name is None]
    derived = iter(names_from_paths(_telling_paths(nameless), taken))
    return [next(derived) if name is None else name for name in given]


def _telling_paths(rows: Sequence[CaseRow]) -> list[Path]:
    """One file per row: of the first channel that all rows have, or else whatever a row has."""
    channels = list(zip(*([c.path for c in row.channels] for row in rows), strict=True))
    full = next((paths for paths in channels if None not in paths), None)
    if full is not None:
        return [path for path in full if path is not None]
    return [
        next((c.path for c in row.channels if c.path is not None), Path("case")) for row in rows
    ]
