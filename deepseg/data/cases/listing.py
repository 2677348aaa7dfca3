"""Cases as a list, a table or a dataset folder names them, with entries that remember their line.

Nothing here opens an image.
"""

from __future__ import annotations

import os.path
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepseg.config.user_paths import expanded
from deepseg.data.images.volumes import read_geometry
from deepseg.errors import DeepsegError, Problem, did_you_mean

EXPLAINED = 20  # missing files for which the nearest existing name is looked up


@dataclass(frozen=True)
class ListEntry:
    """A line of a list file, a cell of a table, or a file that a dataset folder should hold.

    Attributes:
        text: As written, without the spaces and quotes around it; None for nothing or ``-``.
        where: File and line, and the column of a table.
        folder: To which paths are relative.
    """

    text: str | None
    where: str
    folder: Path

    @property
    def path(self) -> Path | None:
        """The file of the entry, or None."""
        return (
            None
            if self.text is None
            else Path(os.path.normpath(self.folder / expanded(self.text, self.folder)))
        )


@dataclass(frozen=True)
class ListedCase:
    """One case, as a set of list files, a table or a dataset folder names it.

    Attributes:
        where: File and line.
        name: As written, or nothing.
        channels: In the model's order.
        labels: Or nothing.
        roi: Or nothing.
        weight_maps: One per category of the sampling type.
        volumes: Which volume of its image each channel is, counted from 0, where one 4D image
            serves several channels; else empty.
        patient: As written, or None.
    """

    where: str
    name: ListEntry
    channels: tuple[ListEntry, ...]
    labels: ListEntry
    roi: ListEntry
    weight_maps: tuple[ListEntry, ...]
    volumes: tuple[int, ...] = ()
    patient: str | None = None

    @property
    def files(self) -> tuple[ListEntry, ...]:
        """Everything but the name."""
        return (*self.channels, self.labels, self.roi, *self.weight_maps)


@dataclass(frozen=True)
class Listing:
    """Everything that a set of list files, a table or a dataset folder says.

    Attributes:
        cases: In their order.
        warnings: What the user should know, one sentence each.
        ignored: Labels of voxels that nobody has labelled, where the listing itself says so.
        columns: Names of a table's columns, channel by channel, for a model whose channels have
            none.
    """

    cases: tuple[ListedCase, ...]
    warnings: tuple[str, ...] = ()
    ignored: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()


def entry(text: str, where: str, folder: Path) -> ListEntry:
    """The entry for ``text`` as people write it: with spaces and quotes around it, or ``-``.

    >>> entry(' "p1/T1.nii.gz" ', "cases.csv:2", Path("study")).path
    PosixPath('study/p1/T1.nii.gz')
    >>> entry("-", "cases.csv:2", Path("study")).path is None
    True
    """
    bare = text.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        bare = bare[1:-1].strip()
    return ListEntry(None if bare in ("", "-") else bare, where, folder)


def text_of(file: Path) -> str:
    """The text of a list file, a table or a dataset.json.

    Raises:
        DeepsegError: ``cases-file-missing``, ``cases-file-unreadable``, or ``cases-file-syntax``
            for bytes that are no UTF-8.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for ever
            raise DeepsegError(_unreadable(file, "a folder, pipe or device"))
        return file.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise DeepsegError(_missing(file)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        got, where = f"the byte 0x{error.object[error.start]:02x}", f"{file}:{line}"
        fix = "save the file with the encoding UTF-8, or give the file that was meant"
        raise DeepsegError(Problem("cases-file-syntax", got, "text in UTF-8", fix, where)) from None
    except OSError as error:
        raise DeepsegError(_unreadable(file, f"'{error.strerror}' from the system")) from None


def channel_order(names: Sequence[str], channels: Sequence[str], *, where: str = "") -> list[int]:
    """Place in ``names`` of each of the model's ``channels``.

    Names decide, in upper or lower case. A model whose channels are called channel1, channel2, …
    says nothing about its images; then the order of ``names`` counts.

    Raises:
        DeepsegError: ``channel-count``, ``channel-unknown``, ``channel-missing``.

    >>> channel_order(["flair", "T1"], ["T1", "FLAIR"])
    [1, 0]
    """
    places = [_place(name, names) for name in channels]
    order = [place for place in places if place is not None]
    missing = [name for name, place in zip(channels, places, strict=True) if place is None]
    unknown = [name for i, name in enumerate(names) if i not in order]
    if not missing and not unknown:
        return order
    if list(channels) == [f"channel{i + 1}" for i in range(len(channels))]:
        return positional_order(len(names), channels, where=where)
    expected = f"the channels of the model: {', '.join(channels)}"
    strange = [
        Problem(
            code="channel-unknown",
            got=f"channel {name!r}",
            expected=expected,
            fix=f"rename or remove it{did_you_mean(name, missing)}",
            where=where,
        )
        for name in unknown
    ]
    absent = [
        Problem("channel-missing", f"no channel {name!r}", expected, "add this channel", where)
        for name in missing
    ]
    raise DeepsegError(*strange, *absent)


def positional_order(count: int, channels: Sequence[str], *, where: str = "") -> list[int]:
    """The order as it is, for channels without names.

    Raises:
        DeepsegError: ``channel-count``, if there are not as many as the model has.
    """
    if count != len(channels):
        raise DeepsegError(
            Problem(
                code="channel-count",
                got=f"{count} channel{'s' * (count != 1)}",
                expected=f"{len(channels)}, in the order of the model: {', '.join(channels)}",
                fix="give one source of images per channel of the model",
                where=where,
            )
        )
    return list(range(count))


def missing_files(entries: Iterable[ListEntry]) -> dict[ListEntry, Problem]:
    """The problem of every entry whose file cannot be found."""
    problems: dict[ListEntry, Problem] = {}
    for item in dict.fromkeys(entries):
        if item.path is None or is_there(item.path):
            continue
        place = f"{item.where} {item.text}"
        if len(problems) >= EXPLAINED:
            fix = "correct the path"
            problems[item] = Problem("file-missing", "no such file", "an image file", fix, place)
            continue
        try:
            read_geometry(item.path)
        except DeepsegError as refusal:
            problems[item] = replace(refusal.problems[0], where=place)
    return problems


def is_there(path: Path) -> bool:
    """True if the system finds ``path``."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _place(name: str, names: Sequence[str]) -> int | None:
    exact = [i for i, other in enumerate(names) if other == name]
    alike = [i for i, other in enumerate(names) if other.casefold() == name.casefold()]
    return next(iter(exact + alike), None)


def _missing(file: Path) -> Problem:
    try:
        names = [other.name for other in file.parent.iterdir()]
    except OSError:
        names = []
    return Problem(
        code="cases-file-missing",
        got="no such file",
        expected="a text file that says where the cases are",
        fix=f"correct the path{did_you_mean(file.name, names)}",
        where=str(file),
    )


def _unreadable(file: Path, got: str) -> Problem:
    return Problem(
        code="cases-file-unreadable",
        got=got,
        expected="a text file that says where the cases are",
        fix="give a file that this user may read",
        where=str(file),
    )
