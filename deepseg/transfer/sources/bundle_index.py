"""The index of a tensor bundle: type, shape, place and checksum of every tensor by its name.

What is not understood, and what cannot be, is refused. Files are not known here. Sources:
TensorFlow's ``tensor_bundle.proto``, ``types.proto`` and ``versions.proto``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from deepseg.transfer.sources.checkpoint_problems import damaged, first_five, refused
from deepseg.transfer.sources.protocol_buffers import fields, varints
from deepseg.transfer.sources.sorted_table import table_records

_VERSION = 1  # of the format; since 2016 there is no other
_MOST_AXES = 32  # of an array of numpy 1

# TensorFlow's types.proto. Text is skipped; a type that stands in neither table has only a number.
NUMBERS = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
_TEXT = 7
_REFUSED = {
    8: "DT_COMPLEX64",
    11: "DT_QINT8",
    12: "DT_QUINT8",
    13: "DT_QINT32",
    14: "DT_BFLOAT16",
    15: "DT_QINT16",
    16: "DT_QUINT16",
    18: "DT_COMPLEX128",
    20: "DT_RESOURCE",
    21: "DT_VARIANT",
}


@dataclass(frozen=True)
class BundleEntry:
    """The place and the type of one tensor, as the index has them.

    Attributes:
        dtype: Number of the type in TensorFlow's types.proto.
        shard: Number of the data file, from 0.
        offset: First byte in that file.
        size: Bytes there.
        checksum: Masked CRC-32C of those bytes.
        is_partitioned: The tensor lies in several pieces, each with an entry of its own.
    """

    name: str
    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    is_partitioned: bool = False

    @property
    def end(self) -> int:
        """First byte after the tensor."""
        return self.offset + self.size

    @property
    def shown(self) -> str:
        """The name as it may stand in a message."""
        return repr(self.name if len(self.name) <= 100 else f"{self.name[:100]}...")


def bundle_entries(content: bytes) -> tuple[int, list[BundleEntry]]:
    """The number of shards, and the tensors of numbers in the order of their names.

    Raises:
        DeepsegError: ``checkpoint-damaged`` or ``checkpoint-refused``, without a place.
    """
    records = list(table_records(content))
    if not records or records[0][0] != b"":
        raise damaged("an index without a header")
    if any(name >= other for (name, _), (other, _) in pairwise(records)):
        raise damaged("an index whose names are not in order")
    shards = _shards(records[0][1])
    entries = [_entry(key.decode("utf-8", "surrogateescape"), value) for key, value in records[1:]]
    partitioned = [entry.shown for entry in entries if entry.is_partitioned]
    if partitioned:  # before all else, because the names of their pieces are no text
        raise refused(f"partitioned tensors: {first_five(partitioned)}")
    entries = [entry for entry in entries if entry.dtype != _TEXT]
    strange = [reason for entry in entries if (reason := _strangeness(entry))]
    if strange:
        raise refused(first_five(strange))
    impossible = [reason for entry in entries if (reason := _impossibility(entry, shards))]
    if impossible:
        raise damaged(first_five(impossible))
    return shards, entries


def _strangeness(entry: BundleEntry) -> str:
    if not entry.name.isprintable():
        return f"{entry.shown}, which is no text, as a name"
    if entry.dtype not in NUMBERS:
        return f"{entry.shown} of {_REFUSED.get(entry.dtype, f'type {entry.dtype}')}"
    return ""


def _impossibility(entry: BundleEntry, shards: int) -> str:
    if len(entry.shape) > _MOST_AXES:
        return f"{entry.shown} of {len(entry.shape)} axes"
    width = np.dtype(NUMBERS[entry.dtype]).itemsize
    if min(entry.shape, default=0) < 0 or width * math.prod(max(n, 1) for n in entry.shape) >> 63:
        return f"{entry.shown} of shape {entry.shape}"
    needed = width * math.prod(entry.shape)
    if entry.size != needed:
        return f"{entry.size} bytes instead of {needed} for {entry.shown} of shape {entry.shape}"
    if not 0 <= entry.shard < shards:
        return f"{entry.shown} in data file {entry.shard}, counted from 0, of {shards}"
    if entry.offset < 0:
        return f"{entry.shown} at byte {entry.offset}"
    return ""


def _shards(header: bytes) -> int:
    """Number of data files, from a BundleHeaderProto."""
    shards = 0
    for number, value in fields(header):
        match number, value:
            case 1, int():
                shards = value
            case 2, 0:
                pass
            case 2, int():
                raise refused("numbers in the byte order of a big-endian machine")
            case 3, bytes():
                _raise_if_newer(value)
            case _:
                raise refused(f"an unknown field {number} in the header")
    if shards < 1:
        raise damaged(f"an index of {shards} data files")
    return shards


def _raise_if_newer(version: bytes) -> None:
    """Refuse a VersionDef that does not admit readers of format `_VERSION`."""
    oldest_reader, barred = 0, set()
    for number, value in fields(version):
        match number, value:
            case 1, int():
                pass  # the format's version of its writer
            case 2, int():
                oldest_reader = value
            case 3, int():
                barred.add(value)
            case 3, bytes():
                barred.update(varints(value))
            case _:
                raise refused(f"an unknown field {number} in the version")
    if oldest_reader > _VERSION or _VERSION in barred:
        raise refused(f"a format that readers of version {_VERSION} may not read")


_ENTRY_FIELDS = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "checksum"}


def _entry(name: str, message: bytes) -> BundleEntry:
    """One tensor, from a BundleEntryProto."""
    values: dict[str, Any] = {}
    for number, value in fields(message):
        match number, value:
            case 2, bytes():
                values["shape"] = _shape(value)
            case 7, bytes():
                values["is_partitioned"] = True
            case n, int() if n in _ENTRY_FIELDS:
                values[_ENTRY_FIELDS[n]] = value
            case _:
                raise refused(f"an unknown field {number} in an entry, {BundleEntry(name).shown}")
    return BundleEntry(name, **values)


def _shape(message: bytes) -> tuple[int, ...]:
    """Sizes along the axes, from a TensorShapeProto."""
    sizes = []
    for number, value in fields(message):
        match number, value:
            case 2, bytes():
                sizes.append(_size(value))
            case _:
                raise refused(f"an unknown field {number} in a shape")
    return tuple(sizes)


def _size(axis: bytes) -> int:
    size = 0
    for number, value in fields(axis):
        match number, value:
            case 1, int():
                size = value
            case 2, bytes():
                pass  # a name of the axis
            case _:
                raise refused(f"an unknown field {number} in an axis")
    return size
