"""Cases from a BIDS tree: one for every session of a participant, or for a participant without.

Which file is which channel follows from its name: suffix and entities. A pattern such as ``T1w`` or
``ce-gadolinium_T1w`` names those that it must have. Of several files, raw ones come before those
under ``derivatives``, and then the ones with the fewest further entities; what is still not decided
is refused.

Source: K. Gorgolewski et al., "The brain imaging data structure", Scientific Data 3, 2016,
doi:10.1038/sdata.2016.44; https://bids-specification.readthedocs.io
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case_names import without_ending
from deepseg.data.cases.listing import ListedCase, ListEntry, Listing, text_of
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any

ENDINGS = (".nii", ".nii.gz")
DERIVATIVES = "derivatives"
PARTICIPANTS, SPLIT = "participants.tsv", "split"
SHOWN = 5


@dataclass(frozen=True)
class BidsName:
    """The name of a file of a BIDS tree, in its parts.

    Attributes:
        entities: Values by key, in the order of the name.
        suffix: Its last word; empty for a pattern without one.

    >>> bids_name("sub-01_ses-pre_ce-gd_T1w.nii.gz")
    BidsName(entities={'sub': '01', 'ses': 'pre', 'ce': 'gd'}, suffix='T1w')
    """

    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """Participant and session: ``sub-01_ses-pre``."""
        return "_".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self)

    def __contains__(self, key: str) -> bool:
        return key in self.entities

    def has(self, pattern: BidsName) -> bool:
        """True if every entity and the suffix of ``pattern`` are those of this name."""
        return pattern.entities.items() <= self.entities.items() and pattern.suffix in (
            "",
            self.suffix,
        )

    @property
    def kind(self) -> str:
        """The name without participant and session, by which people tell files apart."""
        rest = [f"{k}-{v}" for k, v in self.entities.items() if k not in ("sub", "ses", "run")]
        return "_".join([*rest, self.suffix] if self.suffix else rest)


@dataclass(frozen=True)
class _BidsFile:
    """An image of the tree.

    Attributes:
        path: Relative to the root.
        name: Its parts.
        is_derived: It lies under ``derivatives``.
    """

    path: Path
    name: BidsName
    is_derived: bool


def bids_name(text: str) -> BidsName:
    """The parts of a file name, or of a pattern."""
    words = without_ending(text).split("_")
    suffix = "" if "-" in words[-1] else words[-1]
    pairs = [word.partition("-") for word in words if "-" in word]
    return BidsName({key: value for key, _, value in pairs}, suffix)


def bids_cases(config: CasesConfig, channels: Sequence[str]) -> Listing:
    """The cases in the tree ``config.bids``, in the order of their names.

    Args:
        config: With the patterns of channels, labels and ROI, where they are not the default.
        channels: Names of the model's channels, which are patterns where ``config`` has none.

    Raises:
        DeepsegError: ``bids-tree``, ``bids-participant``, ``bids-files``, ``bids-ambiguous``, or
            the problems of channels that are not those of the model.
    """
    assert config.bids is not None
    root = config.bids
    files = _files(root)
    if not files:
        raise DeepsegError(_no_tree(root))
    chosen_files, problems = _of_participants(files, config, root)
    images = _channel_patterns(config, channels)
    patterns = {**images, **_extra_patterns(config)}
    problems += _channel_names(config, channels, str(root))
    for key, pattern in patterns.items():
        problems += _unmatched(key, pattern, files, root)
    by_case: dict[str, list[_BidsFile]] = {}
    for file in chosen_files:
        by_case.setdefault(file.name.case, []).append(file)
    chosen: dict[str, dict[str, Path | None]] = {}
    for name, of_case in sorted(by_case.items()):
        if any(file.name.has(pattern) for file in of_case for pattern in images.values()):
            chosen[name], ambiguous = _chosen(of_case, patterns, root / _folder(name))
            problems += ambiguous
    raise_if_any(problems)
    listed = tuple(_listed(name, of_case, channels, root) for name, of_case in chosen.items())
    return Listing(listed, tuple(_lacking(chosen, channels, root)))


def _chosen(
    files: Sequence[_BidsFile], patterns: Mapping[str, BidsName], where: Path
) -> tuple[dict[str, Path | None], list[Problem]]:
    """The file of a case for every pattern, and the problems of those that several have."""
    chosen: dict[str, Path | None] = {}
    problems = []
    for key, pattern in patterns.items():
        best = _best([file for file in files if file.name.has(pattern)], pattern)
        chosen[key] = best[0].path if best else None
        if len(best) > 1:
            problems.append(_ambiguous(key, pattern, best, where))
    return chosen, problems


def _files(root: Path) -> list[_BidsFile]:
    """Images below ``root`` whose names begin with a participant, in the order of their paths."""
    files = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("sub-") and name.lower().endswith(ENDINGS):
                path = (Path(folder) / name).relative_to(root)
                files.append(_BidsFile(path, bids_name(name), DERIVATIVES in path.parts))
    return files


def _of_participants(
    files: Sequence[_BidsFile], config: CasesConfig, root: Path
) -> tuple[list[_BidsFile], list[Problem]]:
    """Files of the participants that are asked for, and a problem for each that is not there."""
    there = dict.fromkeys(file.name.entities["sub"] for file in files)
    labels = [label.removeprefix("sub-") for label in config.participants]
    problems = [
        Problem(
            code="bids-participant",
            got=f"the participant sub-{label}",
            expected=f"one with images in {root}",
            fix="correct the label, in quotes if it is a number" + did_you_mean(label, there),
            where=str(root),
        )
        for label in labels
        if label not in there
    ]
    chosen_files = set(labels or there) & set(_in_part(root, config.part, there))
    return [file for file in files if file.name.entities["sub"] in chosen_files], problems


def _in_part(root: Path, part: str, labels: Mapping[str, None]) -> list[str]:
    """Participants of a part, where ``participants.tsv`` has a column ``split``; else all."""
    table = root / PARTICIPANTS
    rows = (
        list(csv.DictReader(text_of(table).splitlines(), delimiter="\t")) if table.is_file() else []
    )
    if not rows or SPLIT not in rows[0]:
        return list(labels)
    return [
        (row.get("participant_id") or "").removeprefix("sub-") for row in rows if row[SPLIT] == part
    ]


def _channel_patterns(config: CasesConfig, channels: Sequence[str]) -> dict[str, BidsName]:
    """The pattern of every channel of the model, as far as the settings name it."""
    if not isinstance(config.channels, dict):
        return {name: bids_name(name) for name in channels}
    by_name = {name.casefold(): str(pattern) for name, pattern in config.channels.items()}
    return {
        name: bids_name(by_name[name.casefold()]) for name in channels if name.casefold() in by_name
    }


def _channel_names(config: CasesConfig, channels: Sequence[str], where: str) -> Iterator[Problem]:
    """Problems of patterns for other channels than those of the model."""
    if config.channels is None:
        return
    names = list(config.channels) if isinstance(config.channels, dict) else []
    folded = {name.casefold() for name in channels}
    expected = f"the channels of the model: {', '.join(channels)}"
    for name in names:
        if name.casefold() not in folded:
            fix = f"rename or remove it{did_you_mean(name, channels)}"
            yield Problem("channel-unknown", f"channel {name!r}", expected, fix, where)
    for name in channels:
        if name.casefold() not in {other.casefold() for other in names}:
            fix = f"add it, such as channels: {{{name}: T1w}}"
            yield Problem("channel-missing", f"no channel {name!r}", expected, fix, where)


def _extra_patterns(config: CasesConfig) -> dict[str, BidsName]:
    texts = {"labels": config.labels, "roi": config.roi}
    return {key: bids_name(str(text)) for key, text in texts.items() if text is not None}


def _unmatched(
    key: str, pattern: BidsName, files: Sequence[_BidsFile], root: Path
) -> Iterator[Problem]:
    """The problem of a pattern that no file has."""
    if any(file.name.has(pattern) for file in files):
        return
    kinds = dict.fromkeys(file.name.kind for file in files)
    listed = ", ".join(list(kinds)[:SHOWN]) + ", …" * (len(kinds) > SHOWN)
    yield Problem(
        code="bids-files",
        got=f"no file for {key}, called {pattern.kind!r}",
        expected=f"a suffix, with entities where they decide, such as {listed}",
        fix=f"correct the pattern of {key}{did_you_mean(pattern.kind, kinds)}",
        where=str(root),
    )


def _best(matches: Sequence[_BidsFile], pattern: BidsName) -> list[_BidsFile]:
    """The matches that come first: raw, with the fewest entities that nobody asked for."""
    ranks = [(file.is_derived, len(file.name.entities) - len(pattern.entities)) for file in matches]
    return [file for file, rank in zip(matches, ranks, strict=True) if rank == min(ranks)]


def _ambiguous(key: str, pattern: BidsName, files: Sequence[_BidsFile], where: Path) -> Problem:
    names = ", ".join(file.path.name for file in files[:SHOWN])
    return Problem(
        code="bids-ambiguous",
        got=f"{len(files)} files for {key}: {names}",
        expected=f"one that is called {pattern.kind!r}",
        fix="name an entity that decides, such as run-1, or list the cases in a table",
        where=str(where),
    )


def _folder(case: str) -> Path:
    return Path(*case.split("_"))


def _listed(
    name: str, files: Mapping[str, Path | None], channels: Sequence[str], root: Path
) -> ListedCase:
    where = str(root / _folder(name))

    def of(key: str) -> ListEntry:
        path = files.get(key)
        return ListEntry(None if path is None else str(path), where, root)

    return ListedCase(
        where=where,
        name=ListEntry(name, where, root),
        channels=tuple(of(channel) for channel in channels),
        labels=of("labels"),
        roi=of("roi"),
        weight_maps=(),
    )


def _lacking(
    chosen: Mapping[str, Mapping[str, Path | None]], channels: Sequence[str], root: Path
) -> Iterator[str]:
    """A warning for every channel, and for ROI and labels, that only some cases have."""
    for key in (*channels, "labels", "roi"):
        without = [name for name, files in chosen.items() if key in files and files[key] is None]
        if without:
            listed = ", ".join(without[:SHOWN]) + ", …" * (len(without) > SHOWN)
            yield f"{root}: {len(without)} of {len(chosen)} cases have no {key}: {listed}"


def _no_tree(root: Path) -> Problem:
    return Problem(
        code="bids-tree",
        got="no image sub-…" if root.is_dir() else "no such folder",
        expected="a BIDS tree, with NIfTI files such as sub-01/anat/sub-01_T1w.nii.gz",
        fix="correct the path",
        where=str(root),
    )
