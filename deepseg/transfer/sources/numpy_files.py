"""Arrays by name, as ``numpy.savez`` writes them: a zip of ``.npy`` files.

Objects are refused, and no size is believed before it is held against the file.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from deepseg.errors import DeepsegError, Problem, did_you_mean

SUFFIX = ".npz"
_GARBLED = (  # what zipfile and numpy raise for bytes that are none of theirs
    *(OSError, EOFError, ValueError, RuntimeError, SyntaxError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


def read_numpy(file: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a ``.npz`` by their names; nothing in it is ever unpickled.

    Raises:
        DeepsegError: ``tensors-damaged`` or ``tensors-refused``.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return {
                member.filename.removesuffix(".npy"): _array(archive, member, file)
                for member in archive.infolist()
            }
    except FileNotFoundError as error:
        raise DeepsegError(_missing(file)) from error
    except _GARBLED as error:
        raise _problem("tensors-damaged", "content that cannot be read", file) from error


def _missing(file: Path) -> Problem:
    folder = file.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return Problem(
        code="tensors-missing",
        got="no such file",
        expected="a .npz of arrays",
        fix="correct the path" + did_you_mean(file.name, names),
        where=str(file),
    )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> NDArray[Any]:
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _header(stream)
        if dtype.hasobject:
            raise _problem("tensors-refused", f"objects in {member.filename}", file)
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - stream.tell():
            raise _problem("tensors-damaged", f"{member.filename} of another length", file)
        flat = np.frombuffer(stream.read(), dtype)
        if stream.read(1):  # the checksum is compared at the end of the stream
            raise _problem("tensors-damaged", f"{member.filename} of another length", file)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    return tuple(shape), bool(is_fortran), dtype


def _problem(code: str, got: str, file: Path) -> DeepsegError:
    return DeepsegError(
        Problem(
            code,
            got,
            expected="a .npz of arrays of numbers",
            fix="write it again with numpy.savez(FILE, **arrays)",
            where=str(file),
        )
    )
