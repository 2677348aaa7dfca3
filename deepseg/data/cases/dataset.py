"""Cases from a folder with a ``dataset.json``: Medical Segmentation Decathlon and nnU-Net.

Three layouts are known. The Decathlon lists its images under ``training`` and ``test``; an image
of several channels is 4D, one volume per channel. nnU-Net 1 lists them too, but keeps every channel
in a file of its own, NAME_0000, NAME_0001, … nnU-Net 2 lists its training cases under ``dataset``,
or nothing: then the files in ``imagesTr`` or ``imagesTs`` are the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, Field, StrictInt, ValidationError, field_validator

from deepseg.data.cases.case_names import without_ending
from deepseg.data.cases.dataset_labels import (
    LabelMap,
    class_mix_ups,
    ignored_labels,
    labels_by_name,
    unknown_classes,
)
from deepseg.data.cases.listing import (
    ListedCase,
    ListEntry,
    Listing,
    channel_order,
    is_there,
    missing_files,
    text_of,
)
from deepseg.data.images.volumes import volume_count
from deepseg.errors import DeepsegError, Problem

DatasetSplit: TypeAlias = Literal["training", "test"]

FOLDERS: dict[DatasetSplit, tuple[str, str]] = {
    "training": ("imagesTr", "labelsTr"),
    "test": ("imagesTs", "labelsTs"),
}


class _JsonCase(BaseModel):
    """A case that a dataset.json lists."""

    image: str | list[str]
    label: str | None = None


class _NnunetCase(BaseModel):
    """A case under nnU-Net 2's key ``dataset``."""

    images: list[str]
    label: str | None = None


class _Content(BaseModel):
    """The keys of a dataset.json that are used; everything else in it is left alone."""

    channel_names: dict[int, str] = Field(
        validation_alias=AliasChoices("channel_names", "modality")
    )
    file_ending: str = ".nii.gz"
    training: list[_JsonCase] = []
    test: list[_JsonCase | str] = []
    dataset: dict[str, _NnunetCase] = {}
    labels: dict[str, StrictInt | str | list[int]] = {}

    @field_validator("labels", mode="before")
    @classmethod
    def _name_classes(cls, labels: object) -> object:
        return labels if isinstance(labels, dict) else {}

    @field_validator("channel_names")
    @classmethod
    def _are_counted_from_0(cls, names: dict[int, str]) -> dict[int, str]:
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"Channels should be numbered 0 to {len(names) - 1}")
        return names


@dataclass(frozen=True)
class DatasetUse:
    """Part of a dataset that a session takes, and the model for which it does.

    Attributes:
        split: Which of its cases.
        channels: Names of the model's channels.
        classes: Names of the model's classes, the background first; empty if they do not matter.
        label_map: The user's.
    """

    split: DatasetSplit
    channels: Sequence[str]
    classes: Sequence[str] = ()
    label_map: LabelMap = field(default_factory=dict)


@dataclass(frozen=True)
class _DatasetCase:
    """The files of one case, one per channel in the order of the dataset, or one 4D image."""

    where: str
    name: str
    images: tuple[str, ...]
    label: str | None


def dataset_cases(folder: Path, use: DatasetUse) -> Listing:
    """The cases in one split of the dataset.

    Args:
        folder: The folder, or the ``dataset.json`` in it.
        use: What is taken of it.

    Raises:
        DeepsegError: everything that is wrong with dataset.json, and then every file that is
            missing.
    """
    file = folder if folder.suffix == ".json" else folder / "dataset.json"
    text = text_of(file)
    content = _content(text, file)
    names = [name for _, name in sorted(content.channel_names.items())]
    cases = _dataset_cases(content, use.split, text, file)
    problems = _file_counts(cases, names, file) or _volume_counts(cases, names, file)
    named = labels_by_name(content.labels)
    is_judged = bool(use.classes) and any(case.label is not None for case in cases)
    if is_judged:
        problems += class_mix_ups(named, use.classes, use.label_map, f"{file} labels")
    order: list[int] = []
    try:
        order = channel_order(names, use.channels, where=str(file))
    except DeepsegError as refusal:
        problems += refusal.problems
    if problems:
        files = [
            ListEntry(path, case.where, file.parent)
            for case in cases
            for path in (*case.images, case.label)
        ]
        raise DeepsegError(*problems, *missing_files(files).values())
    unknown = unknown_classes(named, use.classes) if is_judged else None
    return Listing(
        tuple(_listed_case(case, order, file.parent) for case in cases),
        warnings=() if unknown is None else (f"{file}: {unknown}",),
        ignored=ignored_labels(named),
    )


@dataclass(frozen=True)
class DatasetNames:
    """Names in a dataset.json.

    Attributes:
        channels: In the order of the dataset.
        classes: Labels of every class or region, by its name.
    """

    channels: tuple[str, ...]
    classes: Mapping[str, tuple[int, ...]]


def dataset_names(folder: Path) -> DatasetNames:
    """The channels and classes of the dataset in ``folder``, or of the dataset.json itself.

    Raises:
        DeepsegError: ``dataset-syntax``, ``dataset-content``, or what is wrong with the file.
    """
    file = folder if folder.suffix == ".json" else folder / "dataset.json"
    content = _content(text_of(file), file)
    channels = tuple(name for _, name in sorted(content.channel_names.items()))
    return DatasetNames(channels, labels_by_name(content.labels))


def _dataset_cases(
    content: _Content, split: DatasetSplit, text: str, file: Path
) -> list[_DatasetCase]:
    """The cases of a split, as the layout of the dataset has them."""
    channel_count = len(content.channel_names)
    listed = content.training if split == "training" else content.test
    if split == "training" and content.dataset:
        return [
            _DatasetCase(_place(name, text, file), name, tuple(case.images), case.label)
            for name, case in content.dataset.items()
        ]
    if listed:
        return [_json_case(case, text, file, channel_count) for case in listed]
    return _cases_in_folder(file.parent, split, channel_count, content.file_ending)


def _place(entry: str, text: str, file: Path) -> str:
    """File and line of an entry; the text is searched, because a JSON reader tells no lines."""
    return f"{file}:{text[: max(text.find(json.dumps(entry)), 0)].count(chr(10)) + 1}"


def _content(text: str, file: Path) -> _Content:
    """The content of ``file``, whose text is ``text``.

    Raises:
        DeepsegError: ``dataset-syntax``, ``dataset-content``.
    """
    try:
        return _Content.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        where, got = f"{file}:{error.lineno} column {error.colno}", error.msg
    except RecursionError:
        where, got = str(file), "too many levels of nesting"
    except ValidationError as error:
        raise DeepsegError(*_content_problems(error, file)) from None
    raise DeepsegError(Problem("dataset-syntax", got, "valid JSON", "correct the text", where))


def _content_problems(error: ValidationError, file: Path) -> list[Problem]:
    return [
        Problem(
            code="dataset-content",
            got=f"{detail['msg']} at {'.'.join(map(str, detail['loc'])) or 'the top'}",
            expected="a dataset.json of the Medical Segmentation Decathlon or nnU-Net, with "
            'channel_names (or modality) like {"0": "FLAIR"}',
            fix="correct the entry, or list the cases in a table",
            where=str(file),
        )
        for detail in error.errors()
    ]


def _json_case(case: _JsonCase | str, text: str, file: Path, channel_count: int) -> _DatasetCase:
    image = case if isinstance(case, str) else case.image
    first = image if isinstance(image, str) else (image or [""])[0]
    stem = without_ending(Path(first).name)
    ending = Path(first).name[len(stem) :]
    if isinstance(image, list):
        images = tuple(image)
    else:
        per_channel = tuple(
            str(Path(first).with_name(f"{stem}_{i:04d}{ending}")) for i in range(channel_count)
        )
        images = per_channel if first and (file.parent / per_channel[0]).exists() else (image,)
    label = None if isinstance(case, str) else case.label
    name = re.sub("_0000$", "", stem)
    return _DatasetCase(_place(first, text, file), name, images, label)


def _cases_in_folder(
    folder: Path, split: DatasetSplit, channel_count: int, ending: str
) -> list[_DatasetCase]:
    """The cases of nnU-Net 2, by the files of their first or any other channel."""
    images, labels = FOLDERS[split]
    pattern = re.compile(rf"([^.].*)_\d{{4}}{re.escape(ending)}")
    there = (folder / images).iterdir() if (folder / images).is_dir() else ()
    matches = (pattern.fullmatch(path.name) for path in there)
    return [
        _DatasetCase(
            where=str(folder / images),
            name=name,
            images=tuple(f"{images}/{name}_{i:04d}{ending}" for i in range(channel_count)),
            label=label if split == "training" or (folder / label).exists() else None,
        )
        for name in sorted({match[1] for match in matches if match})
        for label in [f"{labels}/{name}{ending}"]
    ]


def _file_counts(cases: Sequence[_DatasetCase], names: Sequence[str], file: Path) -> list[Problem]:
    """A problem if cases have neither one file per channel nor a single one."""
    counts = {case.name: len(case.images) for case in cases if len(case.images) != 1}
    wrong = {name: count for name, count in counts.items() if count != len(names)}
    return _count_problem(wrong, "image file", names, file)


def _volume_counts(
    cases: Sequence[_DatasetCase], names: Sequence[str], file: Path
) -> list[Problem]:
    """A problem if single images do not hold one volume per channel."""
    if len(names) == 1:
        return []
    singles = {case.name: file.parent / case.images[0] for case in cases if len(case.images) == 1}
    counts = {name: _readable_count(image) for name, image in singles.items()}
    wrong = {n: count for n, count in counts.items() if count is not None and count != len(names)}
    return _count_problem(wrong, "volume", names, file)


def _readable_count(image: Path) -> int | None:
    """Volumes in ``image``; None if it is missing or damaged, which is found later."""
    try:
        return volume_count(image) if is_there(image) else None
    except DeepsegError:
        return None


def _count_problem(
    wrong: Mapping[str, int], noun: str, names: Sequence[str], file: Path
) -> list[Problem]:
    """The problem of the cases that have so many files or volumes for the channels ``names``."""
    if not wrong:
        return []
    name, count = next(iter(wrong.items()))
    return [
        Problem(
            code="dataset-images",
            got=f"{count} {noun}{'s' * (count != 1)} for {len(names)} "
            f"channel{'s' * (len(names) != 1)} ({', '.join(names)}) in {len(wrong)} "
            f"case{'s' * (len(wrong) != 1)}, the first {name}",
            expected="a file per channel, or one 4D file with a volume per channel",
            fix="correct the channels or the images in dataset.json",
            where=str(file),
        )
    ]


def _listed_case(case: _DatasetCase, order: Sequence[int], folder: Path) -> ListedCase:
    def of(text: str | None) -> ListEntry:
        return ListEntry(text, case.where, folder)

    is_4d = len(case.images) < len(order)
    return ListedCase(
        where=case.where,
        name=of(case.name),
        channels=tuple(of(case.images[0 if is_4d else i]) for i in order),
        labels=of(case.label),
        roi=of(None),
        weight_maps=(),
        volumes=tuple(order) if is_4d else (),
    )
