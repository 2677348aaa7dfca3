"""A config file as plain values that know the line they come from.

Nothing here knows YAML, DeepMedic's format, or what the keys mean.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from deepseg.errors import DeepsegError, Problem, did_you_mean

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top of a file down to one value."""

LARGEST_FILE = 10_000_000
LENGTH_OF_A_BEGINNING = 348
LARGEST_DEPTH = 100
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Document:
    """One config file that has been read but not yet judged.

    Attributes:
        file: The file as the user named it.
        values: Keys of the file with plain values: text, numbers, booleans, None, lists, dicts.
        places: ``train.yml:31 optimiser.learning_rate`` for the path of every value that has a
            line of its own, in the order of the file.
        referenced: Keys to which later values refer, as only ``.cfg`` files can.
    """

    file: Path
    values: dict[str, Any]
    places: Mapping[KeyPath, str]
    referenced: frozenset[str] = frozenset()

    def place(self, path: KeyPath) -> str:
        """File, line and key of ``path``, or else of the nearest block around it."""
        nearest = self.nearest(path)
        return self.places[nearest] if nearest else str(self.file)

    def nearest(self, path: KeyPath) -> KeyPath:
        """The longest beginning of ``path`` that has a place; empty if there is none."""
        beginnings = (path[:length] for length in range(len(path), 0, -1))
        return next((b for b in beginnings if b in self.places), ())


def key_text(path: KeyPath) -> str:
    """Path in the form in which people write it.

    >>> key_text(("normal", "kernels", 2))
    'normal.kernels[2]'
    """
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def short_text(value: object) -> str:
    """Value as a user would write it, cut after about 80 characters.

    >>> short_text({"reflect": [0.5, 0, True]})
    '{reflect: [0.5, 0, true]}'
    >>> short_text(None)
    'no value'
    """
    text = "no value" if value is None else _written(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _written(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return f"[{', '.join(_written(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_written(item)}' for key, item in value.items())}}}"
        case _:
            return repr(value)


def file_text(file: Path, *, largest: int = LARGEST_FILE) -> str:
    """Text of a config file.

    Args:
        largest: Bytes above which the file is refused unread.

    Raises:
        DeepsegError: ``config-file-missing``, ``config-file-unreadable``, ``config-too-large``, or
            ``config-syntax`` for bytes and characters that no text file holds.
    """
    text = _decoded(_bytes_of(file, largest), file)
    strange = UNPRINTABLE.search(text)
    if strange:
        raise DeepsegError(
            Problem(
                code="config-syntax",
                got=f"the control character U+{ord(strange[0]):04X}",
                expected="readable text",
                fix="remove this character, or give the file that was meant",
                where=_position(file, text[: strange.start()]),
            )
        )
    return text


def _bytes_of(file: Path, largest: int) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise DeepsegError(_unreadable(file, kind))
        with file.open("rb") as stream:
            other_kind = _kind_of_bytes(stream.read(LENGTH_OF_A_BEGINNING))
        if other_kind is not None:
            raise DeepsegError(_unreadable(file, other_kind))
        if status.st_size > largest:
            raise DeepsegError(_too_large(file, status.st_size, largest))
        return file.read_bytes()
    except FileNotFoundError:
        raise DeepsegError(_missing(file)) from None
    except OSError as error:
        raise DeepsegError(_unreadable(file, f"'{error.strerror}' from the system")) from None


def _kind_of_bytes(beginning: bytes) -> str | None:
    """A file that begins like this, in words, if it is of a kind that holds no text."""
    if beginning[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI image"
    if beginning[128:132] == b"DICM":
        return "a DICOM file"
    names = {
        b"\x1f\x8b": "a file that gzip has packed, such as a .nii.gz image",
        b"PK\3\4": "a zip archive, as model files are",
        b"\x89HDF": "an HDF5 file",
        b"\x89PNG": "a picture",
        b"\x93NUMPY": "an array of numpy",
    }
    return next((name for start, name in names.items() if beginning.startswith(start)), None)


def _unreadable(file: Path, got: str) -> Problem:
    return Problem(
        code="config-file-unreadable",
        got=got,
        expected="a config file that can be read",
        fix="give the path of a YAML or .cfg file",
        where=str(file),
    )


def _too_large(file: Path, size: int, largest: int) -> Problem:
    return Problem(
        code="config-too-large",
        got=f"{size / 1e6:.1f} MB",
        expected=f"a config file of at most {largest // 1_000_000} MB",
        fix="give the path of a config file; lists of many cases belong into files of their own",
        where=str(file),
    )


def _missing(file: Path) -> Problem:
    folder = file.parent
    fix = "correct the path"
    if folder.is_dir():
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            names = []
        fix += did_you_mean(file.name, names)
    else:
        fix += f"; there is no folder {str(folder)!r}"
    return Problem(
        code="config-file-missing",
        got="no such file",
        expected="a config file",
        fix=fix,
        where=str(file),
    )


def _decoded(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        raise DeepsegError(
            Problem(
                code="config-syntax",
                got=f"the byte 0x{error.object[error.start]:02x}",
                expected="text in UTF-8",
                fix="save the file with the encoding UTF-8",
                where=_position(file, before),
            )
        ) from None


def _position(file: Path, before: str) -> str:
    """Line and column of the character that follows the text ``before``."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return position(file, len(lines), len(lines[-1]) + 1)


def position(file: Path, line: int, column: int) -> str:
    """Place in a file; lines and columns count from 1.

    >>> position(Path("train.yml"), 3, 5)
    'train.yml:3 column 5'
    """
    return f"{file}:{line} column {column}"


def duplicate_key(where: str, key: str | int, first: int, second: int) -> Problem:
    """Problem of a ``key`` on the lines ``first`` and ``second``."""
    return Problem(
        code="config-duplicate-key",
        got=f"{key!r} on line {first} and again on line {second}",
        expected="every key once",
        fix="remove one of the two",
        where=where,
    )
