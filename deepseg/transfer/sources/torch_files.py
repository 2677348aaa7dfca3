"""Files of torch: named tensors out of state dicts, checkpoints, pickled modules and TorchScript.

Nothing of a file is run: `inert_pickle` says what it describes, and the values of its tensors are
read from where they lie.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseg.transfer.sources.inert_pickle import (
    Foreign,
    StoredStorage,
    StoredTensor,
    read_pickle,
)

MAGIC = 0x1950A86A20F9469CFC6C  # how torch.save began before its 1.6
UNREAD = ("code", "extra")  # folders of a TorchScript file, which nobody needs for its weights

_TYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_TYPES |= {str(dtype).removeprefix("torch."): dtype for dtype in _TYPES.values()}
_TYPES |= {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
}
_HOLDERS = (
    "state_dict",
    "model_state_dict",
    "network_weights",  # nnU-Net
    "model",
    "network",
    "net",
    "model_state",
    "weights",
    "ema",
    "model_ema",
    "ema_state_dict",
)
_TRAINING_STATE = (
    "optim",
    "sched",
    "lr_",
    "callback",
    "loop",
    "hyper_param",
    "scaler",
    "logging",
    "amp",
)


class GarbledFile(ValueError):
    """A file of torch whose content does not fit together."""


@dataclass(frozen=True)
class TorchFile:
    """The content of a file of torch.

    Attributes:
        value: What it describes.
        read: Gives the bytes of storages, by key.
        is_script: A TorchScript file, of which only the weights are read.
    """

    value: Any
    read: Callable[[Collection[str]], Mapping[str, bytes]]
    is_script: bool = False

    def tensors(self) -> tuple[str, dict[str, Tensor]]:
        """The entry of the file in which weights were found, and the tensors by name."""
        entry, stored = _weights(self.value)
        storages = {tensor.storage.key: tensor.storage for tensor in stored.values()}
        _check_size(stored.values(), storages.values())
        contents = {key: bytearray(values) for key, values in self.read(storages.keys()).items()}
        return entry, {name: _tensor(tensor, contents) for name, tensor in stored.items()}

    def foreign(self) -> list[str]:
        """Classes and functions of the objects that it holds at its top, each once."""
        top = self.value.values() if isinstance(self.value, dict) else [self.value]
        return list(dict.fromkeys(entry.kind for entry in top if isinstance(entry, Foreign)))


def _check_size(tensors: Iterable[StoredTensor], storages: Iterable[StoredStorage]) -> None:
    """Refuse tensors that repeat few values so often that they would fill the memory.

    Networks share weights among some layers, and expand a few small tensors.
    """
    values = sum(prod(tensor.shape) for tensor in tensors)
    if values > (1 << 24) + 16 * sum(storage.count for storage in storages):
        raise GarbledFile("tensors that are larger than their values")


def _tensor(stored: StoredTensor, contents: Mapping[str, bytearray]) -> Tensor:
    dtype = _TYPES.get(stored.kind)
    if dtype is None:
        raise GarbledFile(f"values of type {stored.kind}")
    content = contents[stored.storage.key]
    if len(content) < stored.last * dtype.itemsize:
        raise GarbledFile("a tensor without all of its values")
    if stored.last == 0:
        return torch.empty(stored.shape, dtype=dtype)
    values = torch.frombuffer(content, dtype=dtype, count=stored.last)
    return values.as_strided(stored.shape, stored.strides, stored.offset).clone()


def read_container(file: Path) -> TorchFile | None:
    """The content of a zip container; None if torch has not written it."""
    with zipfile.ZipFile(file) as container:
        names = container.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            return None
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in names and container.read(order) != b"little":
            raise GarbledFile("values of a big-endian machine")
        described = read_pickle(io.BytesIO(container.read(pickles[0])))

    def read(keys: Collection[str]) -> Mapping[str, bytes]:
        with zipfile.ZipFile(file) as container:
            return {key: container.read(f"{root}data/{key}") for key in keys}

    return TorchFile(described.value, read, is_script=f"{root}constants.pkl" in names)


def read_old_file(file: Path) -> TorchFile | None:
    """The content of a file from before torch 1.6; None if it is another pickle."""
    stream = io.BytesIO(file.read_bytes())
    first = read_pickle(stream)
    if first.value != MAGIC:
        return TorchFile(first.value, _no_values)
    read_pickle(stream)  # version of the format
    read_pickle(stream)  # of the machine
    described = read_pickle(stream)
    contents = dict(_contents(stream, described.storages))
    return TorchFile(described.value, lambda _: contents)


def _no_values(keys: Collection[str]) -> Mapping[str, bytes]:
    if keys:
        raise GarbledFile("tensors without values")
    return {}


def _contents(
    stream: io.BytesIO, storages: Mapping[str, StoredStorage]
) -> Iterator[tuple[str, bytes]]:
    """The values of all storages, which follow one another."""
    for key in map(str, read_pickle(stream).value):
        storage = storages[key]
        (count,) = struct.unpack("<q", stream.read(8))
        dtype = _TYPES[storage.kind]
        content = stream.read(count * dtype.itemsize) if count == storage.count else b""
        if len(content) < storage.count * dtype.itemsize:
            raise GarbledFile("a tensor without all of its values")
        yield key, content


def _weights(value: Any, path: str = "") -> tuple[str, dict[str, StoredTensor]]:
    """The entry that holds weights, and its tensors by name."""
    for holder in _HOLDERS if isinstance(value, dict) else ():
        if isinstance(value.get(holder), (dict, Foreign)):
            entry, tensors = _weights(value[holder], f"{path}.{holder}".strip("."))
            if tensors:
                return entry, tensors
    return path, dict(_named(value, "", depth=0))


def _named(value: Any, name: str, *, depth: int) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors within dictionaries and modules, named by the path to them."""
    if isinstance(value, StoredTensor):
        if name:
            yield name, value
        return
    entries = _members(value) if isinstance(value, Foreign) else value
    if not isinstance(entries, dict) or depth > 50:
        return
    for key, entry in entries.items():
        if isinstance(key, str) and not (depth == 0 and key.startswith(_TRAINING_STATE)):
            yield from _named(entry, f"{name}.{key}".strip("."), depth=depth + 1)


def _members(module: Foreign) -> dict[str, Any]:
    """Parameters, buffers and parts of a pickled module, or of one of TorchScript."""
    groups = [module.state.get(key) for key in ("_parameters", "_buffers", "_modules")]
    if all(group is None for group in groups):
        return module.state
    return {
        key: entry for group in groups if isinstance(group, dict) for key, entry in group.items()
    }
