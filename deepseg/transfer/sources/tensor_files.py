"""Files of named tensors: safetensors, and whatever torch has written.

They know names and shapes only. Wrappers of torch leave their names in front; these are taken off.
A file that is neither is refused with what it is.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.storage.container import GARBLED, container_fault
from deepseg.storage.readable import raise_if_unreadable
from deepseg.transfer.sources.numpy_files import SUFFIX as NPZ
from deepseg.transfer.sources.numpy_files import read_numpy
from deepseg.transfer.sources.torch_files import UNREAD, read_container, read_old_file

_TAR = (".pth.tar", ".pt.tar", ".ckpt.tar")  # of torch too, in spite of their names
SAFETENSORS = ".safetensors"
SUFFIXES = (SAFETENSORS, ".pt", ".pth", ".bin", ".ckpt", ".ts", NPZ, *_TAR)

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # DataParallel, torch.compile
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"  # how a pickle begins, and torch.save before its 1.6
_OTHER_FILES = (  # how they begin, in small letters; what they are; what to do
    (b"\x89hdf", "an HDF5 file, as Keras writes", "save its weights by name, as safetensors"),
    (b"\x1f\x8b", "a gzip archive", "unpack it, and name the file of weights in it"),
    (b"\x93numpy", "an array of numpy", "save the weights by name, as safetensors"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
)


def is_tensor_file(file: Path) -> bool:
    """The name is that of a file of named tensors, there or not.

    >>> is_tensor_file(Path("unet.pth")), is_tensor_file(Path("unet.save"))
    (True, False)
    """
    return file.name.endswith(SUFFIXES)


def read_tensors(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Kind of file, and its tensors by name without the names of wrappers.

    Raises:
        DeepsegError: ``tensors-missing``, ``file-unreadable``, ``tensors-damaged`` or
            ``tensors-refused``.
    """
    raise_if_unreadable(file)
    if not file.is_file():
        raise _missing(file)
    if file.suffix == SAFETENSORS:
        return "safetensors", _without_wrappers(_safetensors(file))
    if file.suffix == NPZ:
        return "numpy arrays", {name: _tensor(array) for name, array in read_numpy(file).items()}
    kind, tensors = _of_torch(file)
    return kind, _without_wrappers(tensors)


def _tensor(array: NDArray[Any]) -> Tensor:
    """The values in the machine's own order of bytes; fractions as float32."""
    is_fraction = np.issubdtype(array.dtype, np.floating)
    dtype = np.dtype(np.float32) if is_fraction else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype))


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names as the network itself has them, unless two would become one."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else dict(tensors)


def safetensors_metadata(file: Path) -> dict[str, str]:
    """Notes of the program that wrote a safetensors file, by key.

    Raises:
        DeepsegError: ``tensors-damaged`` or ``safetensors-extra-missing``.
    """
    safetensors = _package(file)
    try:
        with safetensors.safe_open(file, "pt") as content:
            metadata = content.metadata()
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error
    return {} if metadata is None else dict(metadata)


def _safetensors(file: Path) -> dict[str, Tensor]:
    safetensors = _package(file)
    try:
        with safetensors.safe_open(file, "pt") as content:
            names: list[str] = content.keys()
            return {name: content.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _package(file: Path) -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="safetensors-extra-missing",
                got="no package safetensors",
                expected="the package, to read this file",
                fix="pip install 'deepseg-pathways[safetensors]'",
                where=str(file),
            )
        ) from error
    return safetensors


def _of_torch(file: Path) -> tuple[str, dict[str, Tensor]]:
    _raise_if_not_of_torch(file)
    try:
        with file.open("rb") as stream:
            is_container = stream.read(len(_ZIP)) == _ZIP
        content = read_container(file) if is_container else read_old_file(file)
        if content is None:
            raise _refused(file, "an archive that torch has not written", fix="unpack it")
        entry, tensors = content.tensors()
    except (OSError, zipfile.BadZipFile, OverflowError, MemoryError, *GARBLED) as error:
        raise _damaged(file, "content that cannot be read") from error
    if not tensors:
        objects = content.foreign()
        besides = f", but objects of {', '.join(objects[:3])}" if objects else ""
        raise _refused(file, f"no named tensors{besides}")
    if content.is_script:
        return "TorchScript, of which the weights are read", tensors
    return "torch state dict" + (f", entry {entry}" if entry else ""), tensors


def _raise_if_not_of_torch(file: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(512)
    for signature, kind, fix in _OTHER_FILES:
        if start.lower().startswith(signature):
            raise _refused(file, kind, fix=fix)
    if start[257:262] == b"ustar":
        raise _refused(file, "a tar archive", fix="unpack it, and name the file of weights in it")
    if start.startswith(_ZIP):
        fault = container_fault(file, unread=UNREAD)
        if fault is not None:
            raise _damaged(file, fault.got) if fault.is_damage else _refused(file, fault.got)
    elif not start.startswith(_PICKLE):
        raise _damaged(file, "content that torch did not write")


def _missing(file: Path) -> DeepsegError:
    near = sorted(path.name for path in file.parent.glob("*") if is_tensor_file(path))
    return DeepsegError(
        Problem(
            code="tensors-missing",
            got="a folder" if file.is_dir() else "no such file",
            expected="a file of named tensors",
            fix="correct the path" + did_you_mean(file.name, near),
            where=str(file),
        )
    )


_SAVE_AGAIN = "save it again with torch.save(model.state_dict(), FILE), or as safetensors"


def _refused(file: Path, got: str, *, fix: str = _SAVE_AGAIN) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="tensors-refused",
            got=got,
            expected="a state dict: named tensors only",
            fix=fix,
            where=str(file),
        )
    )


def _damaged(file: Path, got: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="tensors-damaged",
            got=got,
            expected="a file of named tensors",
            fix="copy the file again",
            where=str(file),
        )
    )
