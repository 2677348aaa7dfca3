"""Files of one case that are named like those of another, by the words and numbers in their paths.

Only names are known here. Where they tell the cases apart in two columns of a list, and a case has
the name of one there and the name of another here, files have changed places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepseg.data.cases.case_names import CaseKey, case_keys
from deepseg.data.cases.listing import ListedCase, ListEntry


@dataclass(frozen=True)
class MixedFile:
    """A file of a case that is named like those of another.

    Attributes:
        where: File and line that list it.
        noun: The kind of file: ``labels``.
        case: Path of the case's first image, as it is written.
        file: Path of the file, as it is written.
    """

    where: str
    noun: str
    case: str
    file: str

    def __str__(self) -> str:
        return f"{self.noun} {self.file} beside {self.case}"


def mixed_files(cases: Sequence[ListedCase], channels: Sequence[str]) -> list[MixedFile]:
    """Files that are named like those of another case than the first images are.

    Args:
        cases: As they are listed.
        channels: Names of the model's channels.
    """
    columns = [(noun, entries, _keys(entries)) for noun, entries in _columns(cases, channels)]
    telling = [column for column in columns if _tells_cases_apart(column[2])]
    if not telling:
        return []
    _, first_entries, first_keys = telling[0]
    keys_of_cases = set(first_keys) - {None}
    return [
        MixedFile(entry.where, noun, str(first.text), str(entry.text))
        for noun, entries, keys in telling[1:]
        for entry, key, first, first_key in zip(
            entries, keys, first_entries, first_keys, strict=True
        )
        if None not in (key, first_key) and key != first_key and key in keys_of_cases
    ]


def _columns(
    cases: Sequence[ListedCase], channels: Sequence[str]
) -> Iterator[tuple[str, Sequence[ListEntry]]]:
    """Each kind of file of all cases, the images first."""
    if cases and not cases[0].volumes:
        for index, name in enumerate(channels):
            yield f"the image of {name}", [case.channels[index] for case in cases]
    else:
        yield "the image", [case.channels[0] for case in cases]
    yield "the labels", [case.labels for case in cases]
    yield "the ROI", [case.roi for case in cases]
    for index in range(len(cases[0].weight_maps) if cases else 0):
        yield f"weight map {index + 1}", [case.weight_maps[index] for case in cases]


def _keys(entries: Sequence[ListEntry]) -> list[CaseKey | None]:
    return case_keys([entry.path for entry in entries])


def _tells_cases_apart(keys: Sequence[CaseKey | None]) -> bool:
    """True if there are at least two files, each with a name of its own."""
    present = [key for key in keys if key is not None]
    return len(present) > 1 and len(set(present)) == len(present)
