"""The cases of a study, whichever way they lie on the disk.

A table, a dataset folder of the Decathlon or nnU-Net, a BIDS tree, or folders with the files of one
case each. Only names are judged here, and the voxels of one case where names do not tell which file
holds the labels.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case import UNKNOWN, Case, list_cases
from deepseg.data.cases.case_names import without_ending
from deepseg.data.cases.dataset import dataset_names
from deepseg.data.cases.dataset_labels import ignored_labels
from deepseg.data.cases.listing import text_of
from deepseg.data.cases.table import table_channels
from deepseg.data.images.volumes import read_image
from deepseg.errors import DeepsegError, Problem, raise_if_any

ENDINGS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
LABEL_WORDS = ("label", "seg", "truth", "annot", "manual", "multiclass", "lesion")
LABEL_NAMES = ("gt", "ot", "mask", "masks", "tumor", "tumour")
ROI_NAMES = re.compile(r"(.*[_-])?(brain_?mask|brain|roi|bet|bet_?mask|body_?mask)([_-].*)?", re.I)
MOST_LABELS = 64  # different values of a file that may be labels
SEPARATORS = "_-. "


@dataclass(frozen=True)
class Study:
    """The cases that a plan is made for.

    Attributes:
        layout: For people: a table, a BIDS tree, …
        channels: Names of the image channels, in their order.
        cases: Their files; labels of voxels that nobody has labelled are mapped to unknown.
        class_names: Name of each label of the files; empty where nothing tells.
        patients: Of each case by its name, where it is known that one may have several.
    """

    layout: str
    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    class_names: Mapping[int, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)


def find_study(place: Path) -> Study:
    """The cases in ``place``.

    Raises:
        DeepsegError: ``plan-cases`` or ``plan-files``, or what is wrong with a table or dataset.
    """
    if place.is_file():
        return _dataset(place) if place.suffix == ".json" else _table(place)
    if (place / "dataset.json").is_file():
        return _dataset(place)
    if (place / "dataset_description.json").is_file() or any(place.glob("sub-*/")):
        return _bids(place)
    return _folders(place)


def _table(table: Path) -> Study:
    channels = table_channels(table)
    if not channels:
        raise DeepsegError(_no_cases(table, "no column channel_NAME in its first line"))
    cases = tuple(list_cases(CasesConfig(table=table), channels))
    patients = {case.name: case.patient for case in cases if case.patient is not None}
    return Study("a table", channels, cases, patients=patients)


def _dataset(place: Path) -> Study:
    names = dataset_names(place)
    cases = list_cases(CasesConfig(dataset=place), names.channels)
    single = {labels[0]: name for name, labels in names.classes.items() if len(labels) == 1}
    ignored = ignored_labels(names.classes)
    by_label = {label: name for label, name in single.items() if label not in ignored}
    return Study("a dataset folder", names.channels, tuple(cases), by_label)


@dataclass(frozen=True)
class _CaseFiles:
    """The files of one case by what they are."""

    name: str
    where: str
    images: Mapping[str, Path]
    labels: Sequence[Path] = ()
    rois: Sequence[Path] = ()


def _bids(root: Path) -> Study:
    """Subjects and sessions; labels and masks are looked for under ``derivatives`` too."""
    grouped: dict[str, dict[str, list[Path]]] = {}
    for file in _images(root):
        entities = without_ending(file.name).split("_")
        subject = "_".join(part for part in entities if part.startswith(("sub-", "ses-")))
        if not subject.startswith("sub-"):
            continue
        suffix = entities[-1]
        is_derived = "derivatives" in file.relative_to(root).parts
        if suffix in ("mask", "dseg"):
            kind = "roi" if "brain" in file.name.lower() else "labels"
        elif is_derived or "func" in file.parts or "dwi" in file.parts:
            continue
        else:
            rest = [e for e in entities[1:-1] if not e.startswith(("ses-", "run-", "sub-"))]
            kind = "_".join([suffix, *rest])
        grouped.setdefault(subject, {}).setdefault(kind, []).append(file)
    case_files = [
        _CaseFiles(
            name,
            str(root / name.split("_")[0]),
            {k: files[0] for k, files in kinds.items() if k not in ("labels", "roi")},
            _best_labels(kinds.get("labels", [])),
            kinds.get("roi", [])[:1],
        )
        for name, kinds in grouped.items()
    ]
    patients = {case.name: case.name.split("_")[0] for case in case_files}
    names = _bids_names(root)
    return replace(_study("a BIDS tree", root, case_files), class_names=names, patients=patients)


def _best_labels(files: Sequence[Path]) -> list[Path]:
    """The segmentations with a label for every class, where there are any, and else the masks."""
    segmentations = [file for file in files if "_dseg." in file.name]
    return segmentations or list(files)


def _bids_names(root: Path) -> dict[int, str]:
    """Names in the first table ``*dseg.tsv`` with the columns index and name."""
    for table in sorted(root.rglob("*dseg.tsv")):
        rows = csv.DictReader(text_of(table).splitlines(), delimiter="\t")
        if {"index", "name"} <= set(rows.fieldnames or ()):
            return {int(row["index"]): row["name"] for row in rows if row["index"].isdigit()}
    return {}


def _folders(root: Path) -> Study:
    """Every folder that holds images is a case."""
    by_folder: dict[Path, dict[str, Path]] = {}
    for file in _images(root):
        stem = _without_case_name(without_ending(file.name), file.parent.name)
        by_folder.setdefault(file.parent, {})[stem] = file
    shorter = _common_ending([stem for stems in by_folder.values() for stem in stems])
    case_files = []
    for folder, stems in by_folder.items():
        rois = [file for stem, file in stems.items() if ROI_NAMES.fullmatch(stem)]
        rest = {stem: file for stem, file in stems.items() if file not in rois}
        labels = [stem for stem in rest if _names_labels(stem)]
        name = "_".join(folder.relative_to(root).parts) or folder.name
        images = {shorter(stem): file for stem, file in rest.items() if stem not in labels}
        case_files.append(
            _CaseFiles(name, str(folder), images, [rest[stem] for stem in labels], rois)
        )
    if case_files and not any(case.labels for case in case_files):
        case_files = _with_labels_by_voxels(case_files)
    return _study("folders", root, case_files)


def _with_labels_by_voxels(case_files: Sequence[_CaseFiles]) -> list[_CaseFiles]:
    """The file whose voxels look like labels in the first case holds them in all."""
    stem = next((s for s, file in case_files[0].images.items() if _looks_like_labels(file)), None)
    if stem is None:
        return list(case_files)
    return [
        replace(
            case,
            images={name: file for name, file in case.images.items() if name != stem},
            labels=[case.images[stem]] if stem in case.images else [],
        )
        for case in case_files
    ]


def _looks_like_labels(file: Path) -> bool:
    """Few different whole numbers, 0 among them."""
    try:
        values = np.unique(read_image(file).array)
    except DeepsegError:  # which is told when the file is examined
        return False
    return 1 < len(values) <= MOST_LABELS and bool((values == values.round()).all() and 0 in values)


def _names_labels(stem: str) -> bool:
    """True for names that people give to labels.

    >>> [name for name in ("T1", "t1_seg", "OTMultiClass", "gt", "T2") if _names_labels(name)]
    ['t1_seg', 'OTMultiClass', 'gt']
    """
    words = re.split(r"[\W_]+", stem.lower())
    return any(word in stem.lower() for word in LABEL_WORDS) or any(w in LABEL_NAMES for w in words)


def _without_case_name(stem: str, case: str) -> str:
    """``stem`` without the name of its case at either end.

    >>> _without_case_name("BraTS20_001_flair", "BraTS20_001"), _without_case_name("T1", "anna")
    ('flair', 'T1')
    """
    shorter = stem
    if case and shorter.lower().startswith(case.lower()):
        shorter = shorter[len(case) :].lstrip(SEPARATORS)
    elif case and shorter.lower().endswith(case.lower()):
        shorter = shorter[: -len(case)].rstrip(SEPARATORS)
    return shorter or stem


def _common_ending(stems: Sequence[str]) -> Callable[[str], str]:
    """A function that takes off the words that most of the names end in.

    >>> shorter = _common_ending(["T1_z", "FLAIR_z", "OT", "T1_z", "FLAIR_z", "OT"])
    >>> shorter("T1_z"), shorter("OT")
    ('T1', 'OT')
    """
    endings = [stem[stem.rindex("_") :] for stem in stems if "_" in stem]
    common = {e for e in endings if endings.count(e) * 2 >= len(stems)}
    with_ending = {stem for stem in stems if any(stem.endswith(e) for e in common)}
    if len(with_ending) < 2:
        return lambda stem: stem
    return lambda stem: next((stem.removesuffix(e) for e in common if stem.endswith(e)), stem)


def _images(root: Path) -> Iterator[Path]:
    """Image files below ``root`` in the order of their paths; hidden ones are left out."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(folder) / name


def _study(layout: str, root: Path, case_files: Sequence[_CaseFiles]) -> Study:
    """The study of files that were case_files by their names.

    Raises:
        DeepsegError: ``plan-cases``, ``plan-files``.
    """
    with_images = [case for case in case_files if case.images]
    if not with_images:
        got = "no images" if root.is_dir() else "no such file or folder"
        raise DeepsegError(_no_cases(root, got))
    channels = _channel_names(with_images)
    raise_if_any(_file_problems(with_images, channels))
    cases = [
        Case(
            name=case.name,
            channels=tuple(case.images[name] for name in channels),
            labels=next(iter(case.labels), None),
            roi=next(iter(case.rois), None),
            weight_maps=(),
            label_map=(),
            trust_arrays=False,
            where=case.where,
        )
        for case in with_images
    ]
    return Study(layout, channels, tuple(cases))


def _channel_names(case_files: Sequence[_CaseFiles]) -> tuple[str, ...]:
    """Names of the images of the first case that has labels, in the order of the alphabet."""
    first = next((case for case in case_files if case.labels), case_files[0])
    return tuple(sorted(first.images, key=str.casefold))


def _file_problems(case_files: Sequence[_CaseFiles], channels: Sequence[str]) -> Iterator[Problem]:
    for case in case_files:
        if set(case.images) != set(channels):
            yield Problem(
                code="plan-files",
                got=f"the images {', '.join(sorted(case.images))}",
                expected=f"{', '.join(channels)}, as in other cases",
                fix="complete or take out the case, or list the cases in a table with '-' where "
                "one lacks a channel",
                where=case.where,
            )
        if len(case.labels) > 1:
            yield Problem(
                code="plan-files",
                got=f"the labels {', '.join(file.name for file in case.labels)}",
                expected="one file of labels for a case",
                fix="take the others out, or list the cases in a table",
                where=case.where,
            )


def _no_cases(place: Path, got: str) -> Problem:
    return Problem(
        code="plan-cases",
        got=got,
        expected="a table, a folder for each case, a dataset.json, or a BIDS tree",
        fix="correct the path, or list the cases in a table",
        where=str(place),
    )


def known_labels(case: Case) -> set[int]:
    """Labels that the listing itself takes for unlabelled voxels."""
    return {old for old, new in case.label_map if new == UNKNOWN}
