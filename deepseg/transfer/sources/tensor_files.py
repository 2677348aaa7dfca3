"""Files of named tensors: safetensors, and state dicts that torch has written.

They know names and shapes only. Wrappers of torch leave their names in front; these are taken off.
"""

from __future__ import annotations

import pickle
import re
import warnings
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

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", NPZ)

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # DataParallel, torch.compile
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"  # how torch.save began before its 1.6
_HOLDERS = ("state_dict", "model_state_dict", "network_weights", "model")


def is_tensor_file(file: Path) -> bool:
    """The name is that of a file of named tensors, there or not.

    >>> is_tensor_file(Path("unet.pth")), is_tensor_file(Path("unet.save"))
    (True, False)
    """
    return file.suffix in SUFFIXES


def read_tensors(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Kind of file, and its tensors by name without the names of wrappers.

    Raises:
        DeepsegError: ``tensors-missing``, ``file-unreadable``, ``tensors-damaged`` or
            ``tensors-refused``.
    """
    raise_if_unreadable(file)
    if not file.is_file():
        raise _missing(file)
    if file.suffix == ".safetensors":
        return "safetensors", _without_wrappers(_safetensors(file))
    if file.suffix == NPZ:
        return "numpy arrays", {name: _tensor(array) for name, array in read_numpy(file).items()}
    return "torch state dict", _without_wrappers(_state_dict(file))


def _tensor(array: NDArray[Any]) -> Tensor:
    """The values in the machine's own order of bytes; fractions as float32."""
    is_fraction = np.issubdtype(array.dtype, np.floating)
    dtype = np.dtype(np.float32) if is_fraction else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype))


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names as the network itself has them, unless two would become one."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else dict(tensors)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
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
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error
    return tensors


def _state_dict(file: Path) -> dict[str, Tensor]:
    _raise_if_not_of_torch(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch cannot read is refused below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(file, "objects that are not plain data") from error
    except (OSError, *GARBLED) as error:
        raise _damaged(file, "content that cannot be read") from error
    tensors = _tensors_in(content)
    if not tensors:
        raise _damaged(file, "no named tensors")
    return tensors


def _raise_if_not_of_torch(file: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(len(_ZIP))
    if start == _ZIP:
        fault = container_fault(file)
        if fault is not None:
            raise _damaged(file, fault.got) if fault.is_damage else _refused(file, fault.got)
    elif not start.startswith(_PICKLE):
        raise _damaged(file, "content that torch did not write")


def _tensors_in(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the first entry that is one."""
    if not isinstance(content, Mapping):
        return {}
    for holder in _HOLDERS:
        if isinstance(content.get(holder), Mapping):
            content = content[holder]
            break
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _missing(file: Path) -> DeepsegError:
    near = sorted(path.name for path in file.parent.glob("*") if path.suffix in SUFFIXES)
    return DeepsegError(
        Problem(
            code="tensors-missing",
            got="a folder" if file.is_dir() else "no such file",
            expected="a file of named tensors",
            fix="correct the path" + did_you_mean(file.name, near),
            where=str(file),
        )
    )


def _refused(file: Path, got: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="tensors-refused",
            got=got,
            expected="a state dict: named tensors only",
            fix="save it again with torch.save(model.state_dict(), FILE), or as safetensors",
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
