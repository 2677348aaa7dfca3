"""Cases from list files, from a table, or from a folder with a ``dataset.json``.

All three are read as listed cases; here they become cases with different names. Which files do not
exist is known afterwards; the content of the others is checked in `deepseg.data.cases.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.bids import bids_cases
from deepseg.data.cases.case_names import (
    LONGEST,
    byte_count,
    folded,
    is_allowed,
    names_from_paths,
    without_ending,
)
from deepseg.data.cases.dataset import DatasetSplit, DatasetUse, dataset_cases
from deepseg.data.cases.list_files import channel_files, list_file_cases
from deepseg.data.cases.listing import ListedCase, Listing, missing_files, text_of
from deepseg.data.cases.pairing import MixedFile, mixed_files
from deepseg.data.cases.table import table_cases
from deepseg.errors import DeepsegError, Problem, did_you_mean

UNKNOWN = -1  # the label of voxels that nobody has labelled


@dataclass(frozen=True)
class Case:
    """The files of one patient at one time.

    Attributes:
        name: Unique among the cases listed together; part of the names of result files.
        channels: Images in the model's order of channels; None for one that the case lacks.
        labels: The true segmentation, or None.
        roi: Mask of the region of interest, or None where the whole image counts.
        weight_maps: Sampling weights, one per category of the sampling type, or none.
        label_map: Pairs of a label in the file and its new label, `UNKNOWN` for one to ignore.
        trust_arrays: Files that disagree about their place are used all the same.
        where: File and line that list the case.
        nan: Refuse voxels that are NaN or infinite, or read them as 0.
        volumes: Which volume of its image each channel is, counted from 0, and None for a 3D
            image; empty where all images are 3D.
        missing: A problem for every file of the case that cannot be found.
        patient: Where it is known; None for one of whom there is this case only.
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
    patient: str | None = None

    @property
    def images(self) -> tuple[tuple[Path | None, int | None], ...]:
        """File and volume of every channel."""
        volumes = self.volumes or (None,) * len(self.channels)
        return tuple(zip(self.channels, volumes, strict=True))


@dataclass(frozen=True)
class CaseList:
    """Cases in their order, and what the user should know of the way in which they are listed.

    Attributes:
        cases: Their files.
        warnings: One sentence each.
        columns: Names of a table's columns, channel by channel, for a model whose channels have
            none.
    """

    cases: tuple[Case, ...]
    warnings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def list_cases(
    config: CasesConfig, channels: Sequence[str], *, columns: Sequence[str] = ()
) -> list[Case]:
    """The cases that ``config`` lists, in its order; for arguments and errors see `case_list`."""
    return list(case_list(config, channels, columns=columns).cases)


def case_list(
    config: CasesConfig,
    channels: Sequence[str],
    *,
    classes: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> CaseList:
    """The cases that ``config`` lists, with warnings.

    A file that is missing is a problem of its case, and raised only together with others.

    Args:
        channels: Names of the model's channels.
        classes: Names of the model's classes, the background first, with which those of a dataset
            are compared; empty to leave that out.
        columns: Names of the columns of the model's training cases, where its channels have none.

    Raises:
        DeepsegError: everything that is wrong with the lists, and then every file that is missing.
    """
    listing = _listing(config, channels, classes, columns)
    listed = listing.cases
    mixed = mixed_files(listed, channels)
    problems = [*_no_cases(config, listed), *_name_problems(listed), *_missing_weights(listed)]
    problems += _mixed_pairs(mixed) if config.dataset is not None else []
    if problems:
        missing = missing_files(file for case in listed for file in case.files)
        raise DeepsegError(*problems, *missing.values())
    named = dict(zip(_names(listed), listed, strict=True))
    if config.only is not None:
        named = _selected(named, config.only)
    missing = missing_files(file for case in named.values() for file in case.files)
    label_map = _label_map(config, listing)
    cases = (
        Case(
            name=name,
            channels=tuple(channel.path for channel in case.channels),
            labels=case.labels.path,
            roi=case.roi.path,
            weight_maps=tuple(weights.path for weights in case.weight_maps if weights.path),
            label_map=label_map,
            trust_arrays=config.trust_arrays,
            where=case.where,
            nan=config.nan,
            volumes=case.volumes,
            missing=tuple(missing[file] for file in dict.fromkeys(case.files) if file in missing),
            patient=case.patient,
        )
        for name, case in named.items()
    )
    warnings = (*listing.warnings, *_mixed_warning(mixed))
    return CaseList(tuple(cases), warnings, listing.columns)


def _selected(named: Mapping[str, ListedCase], only: Path) -> dict[str, ListedCase]:
    """The cases whose names the file ``only`` lists.

    Raises:
        DeepsegError: ``case-unknown`` for every name that no case has; ``no-cases``.
    """
    lines = [line.strip() for line in text_of(only).splitlines()]
    names = [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if line and not line.startswith("#")
    ]
    if not names:
        raise DeepsegError(
            Problem("no-cases", "no name", "the name of at least one case", "add it", str(only))
        )
    unknown = [(number, name) for number, name in names if name not in named]
    if unknown:
        raise DeepsegError(
            *(
                Problem(
                    code="case-unknown",
                    got=f"the name {name!r}",
                    expected="the name of a case",
                    fix="correct or remove the line" + (did_you_mean(name, named) if k < 3 else ""),
                    where=f"{only}:{number}",
                )
                for k, (number, name) in enumerate(unknown)
            )
        )
    chosen = {name for _, name in names}
    return {name: case for name, case in named.items() if name in chosen}


def _mixed_pairs(mixed: Sequence[MixedFile]) -> list[Problem]:
    """The problem of a dataset, where all files of a case have one name, with pairs of two."""
    if not mixed:
        return []
    return [
        Problem(
            code="dataset-pairs",
            got=_mixed_text(mixed),
            expected="files of one case in every entry",
            fix="correct the entries; if the files belong together as they are, list them in a "
            "table",
            where=mixed[0].where,
        )
    ]


def _mixed_warning(mixed: Sequence[MixedFile]) -> list[str]:
    if not mixed:
        return []
    return [
        f"{mixed[0].where}: {_mixed_text(mixed)}: by their names, files of different cases; "
        "correct the list, unless they belong together"
    ]


def _mixed_text(mixed: Sequence[MixedFile]) -> str:
    more = len(mixed) - 1
    return f"{mixed[0]}" + (f", and {more} more such pair{'s' * (more > 1)}" if more else "")


def _listing(
    config: CasesConfig, channels: Sequence[str], classes: Sequence[str], columns: Sequence[str]
) -> Listing:
    if config.table is not None:
        return table_cases(config.table, channels, columns, part=config.part)
    if config.dataset is not None:
        split: DatasetSplit = "test" if config.part == "test" else "training"
        use = DatasetUse(split, channels, classes, config.label_map)
        return dataset_cases(config.dataset, use)
    if config.bids is not None:
        return bids_cases(config, channels)
    return list_file_cases(config, channels)


def _label_map(config: CasesConfig, listing: Listing) -> tuple[tuple[int, int], ...]:
    """The map of the settings, which come before what the listing says."""
    targets = dict.fromkeys(listing.ignored, UNKNOWN)
    targets |= {old: UNKNOWN if new == "ignore" else new for old, new in config.label_map.items()}
    return tuple(sorted(targets.items()))


def _no_cases(config: CasesConfig, listed: Sequence[ListedCase]) -> list[Problem]:
    if listed:
        return []
    files = config.table, config.dataset, config.bids, *channel_files(config)
    place = f" in the part {config.part!r}" if config.dataset is not None else ""
    return [
        Problem(
            code="no-cases",
            got=f"no case{place}",
            expected="at least one case",
            fix="list the images of at least one case; lines that begin with '#' do not count",
            where=str(next(file for file in files if file is not None)),
        )
    ]


def _listed_name(case: ListedCase) -> str | None:
    return None if case.name.text is None else without_ending(case.name.text)


def _name_problems(listed: Sequence[ListedCase]) -> list[Problem]:
    """A problem for every name that no file can have, and for every name that comes twice."""
    first: dict[str, ListedCase] = {}
    problems = []
    for case in listed:
        name = _listed_name(case)
        if name is None:
            continue
        if not is_allowed(name):
            got, expected = f"the name {name!r}", "a name that can be part of a file name"
            fix = "leave out / and \\ and control characters"
            problems.append(Problem("case-name", got, expected, fix, case.name.where))
        elif byte_count(name) > LONGEST:
            got, expected = f"the name {name!r} of {byte_count(name)} bytes", f"at most {LONGEST}"
            fix = "shorten it; a letter beyond a to z takes 2 to 4 bytes"
            problems.append(Problem("case-name", got, expected, fix, case.name.where))
        elif folded(name) in first:
            problems.append(_name_twice(name, case, first[folded(name)]))
        else:
            first[folded(name)] = case
    return problems


def _name_twice(name: str, case: ListedCase, first: ListedCase) -> Problem:
    """The problem of a name that another case has, perhaps in other letters."""
    twin, where = _listed_name(first), first.name.where
    got, expected = f"the name {name!r}, as in {where}", "a name of its own"
    if twin != name:
        got = f"the name {name!r}, which differs from {twin!r} ({where}) in capitals only"
        expected += ", also on disks that do not tell them apart"
    return Problem("case-name-twice", got, expected, "rename one of them", case.name.where)


def _missing_weights(listed: Sequence[ListedCase]) -> list[Problem]:
    return [
        Problem(
            code="weights-missing",
            got="no file",
            expected="a weight map of every category for every case",
            fix="give the file, or leave out all weight maps",
            where=weights.where,
        )
        for case in listed
        for weights in case.weight_maps
        if weights.path is None
    ]


def _names(listed: Sequence[ListedCase]) -> list[str]:
    """The listed names, and for cases without one names from the paths of their files."""
    names = [_listed_name(case) for case in listed]
    reserved = [name for name in names if name is not None]
    nameless = [case for case, name in zip(listed, names, strict=True) if name is None]
    derived = iter(names_from_paths(_distinctive_paths(nameless), reserved))
    return [next(derived) if name is None else name for name in names]


def _distinctive_paths(listed: Sequence[ListedCase]) -> list[Path]:
    """One file per case: of the first channel that all cases have, or else of any it has."""
    channels = list(zip(*([c.path for c in case.channels] for case in listed), strict=True))
    full = next((paths for paths in channels if None not in paths), None)
    if full is not None:
        return [path for path in full if path is not None]
    return [
        next((c.path for c in case.channels if c.path is not None), Path("case")) for case in listed
    ]
