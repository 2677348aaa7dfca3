"""TensorFlow checkpoints, read without TensorFlow: its "tensor bundle", version 2.

A checkpoint NAME is ``NAME.index`` and ``NAME.data-00000-of-00001``, or several such shards. The
index is a sorted table as LevelDB writes it; it leads from the name of each tensor to a protocol
buffer with type, shape, place and checksum. The shards hold the bare numbers, little-endian.

Reading runs nothing that is in a file. Every checksum is compared, every size is held against the
file before memory is taken for it, and what is not understood is refused. Tensors of text, such as
the object graph of TensorFlow 2, are left out. Layers and models are not known here.

Sources: TensorFlow's ``tensor_bundle.proto`` and ``versions.proto``; LevelDB's
``doc/table_format.md``; protobuf.dev, "Encoding". For the checksum see `crc32c`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.transfer.sources.crc32c import crc32c, masked

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint32]

_ENDING = re.compile(r"(?<=.)\.(index|data-[0-9]{5,}-of-[0-9]{5,})\Z")
_COPY_AGAIN = "copy the files of the checkpoint again, or use another checkpoint of the same run"
_LARGEST_INDEX = 1 << 24  # bytes; that of a network of 250 tensors has 13 kB
_NAMES_PER_BYTE = 16  # TensorFlow writes every 16th name in full, so its names grow no more
_VERSION = 1  # of the format; since 2016 there is no other
_MOST_AXES = 32  # of an array of numpy 1

# TensorFlow's types.proto. Text is skipped; a type that stands in neither table has only a number.
_NUMBERS = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1",
    9: "<i8", 10: "?", 17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip
_TEXT = 7
_REFUSED = {
    8: "DT_COMPLEX64", 11: "DT_QINT8", 12: "DT_QUINT8", 13: "DT_QINT32", 14: "DT_BFLOAT16",
    15: "DT_QINT16", 16: "DT_QUINT16", 18: "DT_COMPLEX128", 20: "DT_RESOURCE", 21: "DT_VARIANT",
}  # fmt: skip


# ---- Checkpoint ----


@dataclass(frozen=True)
class BundleEntry:
    """What the index says of one tensor.

    Attributes:
        dtype: Number of the type in TensorFlow's types.proto.
        shard: Number of the data file, from 0.
        offset: First byte in that file.
        size: Bytes there.
        checksum: Masked CRC-32C of those bytes.
        is_partitioned: Whether the tensor lies in several pieces, each with an entry of its own.
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
        return self.offset + self.size

    @property
    def shown(self) -> str:
        """The name as it may stand in a message."""
        return repr(self.name if len(self.name) <= 100 else f"{self.name[:100]}...")


def looks_like_bundle(path: Path) -> bool:
    """Whether ``path`` is named like a file of a checkpoint, or names one without its ending.

    Nothing is read, so that `read_bundle` can say what a broken checkpoint lacks.
    """
    return bool(_ENDING.search(path.name)) or (not _is_file(path) and bool(_files_of(path)))


def read_bundle(prefix: Path) -> dict[str, Array]:
    """All tensors of numbers, by name, in the order of their names.

    Args:
        prefix: The checkpoint without an ending, or its ``.index``, or one of its data files.

    Raises:
        DeepsegError: ``checkpoint-missing``, ``checkpoint-damaged`` or ``checkpoint-refused``.
    """
    prefix = _prefix_of(prefix)
    index = _with_ending(prefix, ".index")
    if not _is_file(index):
        raise _index_is_missing(prefix)
    try:
        shards, entries = _entries(_content(index))
    except DeepsegError as error:
        raise error.at(str(index)) from error
    files = {n: _with_ending(prefix, f".data-{n:05d}-of-{shards:05d}") for n in _shards_of(entries)}
    _raise_if_missing(index, list(files.values()))
    by_shard = {n: [entry for entry in entries if entry.shard == n] for n in files}
    arrays: dict[str, Array] = {}
    for n, file in files.items():
        try:
            arrays |= _arrays(file, by_shard[n])
        except OSError as error:
            raise _unreadable(error).at(str(file)) from error
        except DeepsegError as error:
            raise error.at(str(file)) from error
    return {entry.name: arrays[entry.name] for entry in entries}


def _prefix_of(path: Path) -> Path:
    return path.parent / _ENDING.sub("", path.name)


def _with_ending(prefix: Path, ending: str) -> Path:
    return prefix.parent / (prefix.name + ending)


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a forbidden folder, a name that is too long
        return path.is_file()
    return False


def _names_in(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return sorted(path.name for path in folder.iterdir())
    return []


def _files_of(prefix: Path) -> list[str]:
    """Names of those files of the checkpoint that are there."""
    endings = [n for n in _names_in(prefix.parent) if _ENDING.search(n)]
    return [name for name in endings if _ENDING.sub("", name) == prefix.name]


def _shards_of(entries: Iterable[BundleEntry]) -> list[int]:
    return sorted({entry.shard for entry in entries})


def _content(index: Path) -> bytes:
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise _refused(f"an index of more than {_LARGEST_INDEX >> 20} MiB")
        return index.read_bytes()
    except OSError as error:
        raise _unreadable(error) from error


def _arrays(file: Path, entries: Sequence[BundleEntry]) -> dict[str, Array]:
    """Tensors of one shard.

    Raises:
        DeepsegError: ``checkpoint-damaged``.
        OSError: The shard cannot be read.
    """
    _raise_if_outside(entries, file.stat().st_size)
    arrays, wrong = {}, []
    with file.open("rb") as stream:
        for entry in entries:
            stream.seek(entry.offset)
            content = np.fromfile(stream, dtype=np.uint8, count=entry.size)
            if len(content) != entry.size or masked(crc32c(content)) != entry.checksum:
                wrong.append(entry.shown)
            else:
                arrays[entry.name] = content.view(_NUMBERS[entry.dtype]).reshape(entry.shape)
    if wrong:
        raise _damaged(f"a wrong checksum of {_some(wrong)}")
    return arrays


def _raise_if_outside(entries: Sequence[BundleEntry], size: int) -> None:
    """Refuse tensors behind the end of their file, or on shared bytes, to be read many times."""
    behind = [entry.shown for entry in entries if entry.end > size]
    if behind:
        ends = max(entry.end for entry in entries)
        raise _damaged(f"{size} bytes, but tensors up to byte {ends}: {_some(behind)}")
    ordered = sorted((e for e in entries if e.size), key=lambda entry: entry.offset)
    shared = [f"{a.shown} and {b.shown}" for a, b in pairwise(ordered) if b.offset < a.end]
    if shared:
        raise _damaged(f"the same bytes for {_some(shared)}")


# ---- Problems ----


def _problem(code: str, got: str, *, expected: str, fix: str, where: str = "") -> DeepsegError:
    return DeepsegError(Problem(code, got, expected, fix, where))


def _damaged(got: str) -> DeepsegError:
    return _problem(
        "checkpoint-damaged", got, expected="a whole TensorFlow checkpoint", fix=_COPY_AGAIN
    )


def _refused(got: str) -> DeepsegError:
    return _problem(
        "checkpoint-refused",
        got,
        expected="an uncompressed little-endian TensorFlow checkpoint of whole tensors of numbers",
        fix="save the model again in such a form with the program that wrote it",
    )


def _unreadable(error: OSError) -> DeepsegError:
    return _problem(
        "checkpoint-damaged",
        f"'{error.strerror or error}' from the system",
        expected="a file that can be read",
        fix="make the file readable, or copy it again",
    )


def _index_is_missing(prefix: Path) -> DeepsegError:
    index, data = f"{prefix.name}.index", f"{prefix.name}.data-00000-of-00001"
    inside = [name for name in _names_in(prefix) if name.endswith(".index")]
    there = _files_of(prefix)
    if inside:
        got, expected = f"a folder with {_some(inside)}", "the name of one checkpoint"
    else:
        got = f"{_some(there)} without {index}" if there else f"no {index}"
        expected = f"{index} and {data} in one folder"
    near = [name for name in _names_in(prefix.parent) if name.endswith(".index")]
    return _problem(
        "checkpoint-missing",
        got,
        expected=expected,
        fix=f"name a file of a complete checkpoint{did_you_mean(index, near)}",
        where=str(prefix),
    )


def _raise_if_missing(index: Path, files: Sequence[Path]) -> None:
    missing = [file.name for file in files if not _is_file(file)]
    if not missing:
        return
    near = [name for name in _names_in(index.parent) if ".data-" in name]
    raise _problem(
        "checkpoint-missing",
        f"{index.name} without {_some(missing)}",
        expected=f"{_some([index.name, *(file.name for file in files)])} in one folder",
        fix=f"put all files of the checkpoint side by side{did_you_mean(missing[0], near)}",
        where=str(index),
    )


def _some(texts: Sequence[str]) -> str:
    """The first five, and how many there are besides."""
    more = [f"{len(texts) - 5} more"] if len(texts) > 5 else []
    return ", ".join([*texts[:5], *more])


# ---- Entries of the index ----


def _entries(content: bytes) -> tuple[int, list[BundleEntry]]:
    """How many shards there are, and the tensors of numbers in the order of their names.

    Raises:
        DeepsegError: ``checkpoint-damaged`` or ``checkpoint-refused``, without a place.
    """
    records = list(_table(content))
    if not records or records[0][0] != b"":
        raise _damaged("an index without a header")
    if any(name >= other for (name, _), (other, _) in pairwise(records)):
        raise _damaged("an index whose names are not in order")
    shards = _shards(records[0][1])
    entries = [_entry(key.decode("utf-8", "surrogateescape"), value) for key, value in records[1:]]
    partitioned = [entry.shown for entry in entries if entry.is_partitioned]
    if partitioned:  # before all else, because the names of their pieces are no text
        raise _refused(f"partitioned tensors: {_some(partitioned)}")
    entries = [entry for entry in entries if entry.dtype != _TEXT]
    strange = [why for entry in entries if (why := _strangeness(entry))]
    if strange:
        raise _refused(_some(strange))
    impossible = [why for entry in entries if (why := _impossibility(entry, shards))]
    if impossible:
        raise _damaged(_some(impossible))
    return shards, entries


def _strangeness(entry: BundleEntry) -> str:
    if not entry.name.isprintable():
        return f"{entry.shown}, which is no text, as a name"
    if entry.dtype not in _NUMBERS:
        return f"{entry.shown} of {_REFUSED.get(entry.dtype, f'type {entry.dtype}')}"
    return ""


def _impossibility(entry: BundleEntry, shards: int) -> str:
    if len(entry.shape) > _MOST_AXES:
        return f"{entry.shown} of {len(entry.shape)} axes"
    width = np.dtype(_NUMBERS[entry.dtype]).itemsize
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
    for number, value in _fields(header):
        match number, value:
            case 1, int():
                shards = value
            case 2, 0:
                pass
            case 2, int():
                raise _refused("numbers in the byte order of a big-endian machine")
            case 3, bytes():
                _raise_if_newer(value)
            case _:
                raise _refused(f"an unknown field {number} in the header")
    if shards < 1:
        raise _damaged(f"an index of {shards} data files")
    return shards


def _raise_if_newer(version: bytes) -> None:
    """Refuse a VersionDef that does not admit readers of format `_VERSION`."""
    oldest_reader, barred = 0, set()
    for number, value in _fields(version):
        match number, value:
            case 1, int():
                pass  # the format's version of its writer
            case 2, int():
                oldest_reader = value
            case 3, int():
                barred.add(value)
            case 3, bytes():
                barred.update(_varints(value))
            case _:
                raise _refused(f"an unknown field {number} in the version")
    if oldest_reader > _VERSION or _VERSION in barred:
        raise _refused(f"a format that readers of version {_VERSION} may not read")


_ENTRY_FIELDS = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "checksum"}


def _entry(name: str, message: bytes) -> BundleEntry:
    """One tensor, from a BundleEntryProto."""
    found: dict[str, Any] = {}
    for number, value in _fields(message):
        match number, value:
            case 2, bytes():
                found["shape"] = _shape(value)
            case 7, bytes():
                found["is_partitioned"] = True
            case n, int() if n in _ENTRY_FIELDS:
                found[_ENTRY_FIELDS[n]] = value
            case _:
                raise _refused(f"an unknown field {number} in an entry, {BundleEntry(name).shown}")
    return BundleEntry(name, **found)


def _shape(message: bytes) -> tuple[int, ...]:
    """Sizes along the axes, from a TensorShapeProto."""
    sizes = []
    for number, value in _fields(message):
        match number, value:
            case 2, bytes():
                sizes.append(_size(value))
            case _:
                raise _refused(f"an unknown field {number} in a shape")
    return tuple(sizes)


def _size(axis: bytes) -> int:
    size = 0
    for number, value in _fields(axis):
        match number, value:
            case 1, int():
                size = value
            case 2, bytes():
                pass  # a name of the axis
            case _:
                raise _refused(f"an unknown field {number} in an axis")
    return size


# ---- Protocol buffers ----


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields: signed integers, or bytes for all that has a length."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
                value = value - (1 << 64) if value >> 63 else value
            case 2:
                length, position = _varint(message, position)
                value, position = _cut(message, position, length)
            case 5:
                fixed, position = _cut(message, position, 4)
                value = int.from_bytes(fixed, "little")
            case wire:
                raise _refused(f"a field of wire type {wire}")
        yield tag >> 3, value


def _varints(content: bytes) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """An unsigned number of 64 bits, seven in each byte, and the position behind it."""
    value = 0
    for step, byte in enumerate(content[position : position + 10]):
        value |= (byte & 0x7F) << (7 * step)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + step + 1
    raise _damaged("an index with a number that does not end")


def _cut(content: bytes, position: int, length: int) -> tuple[bytes, int]:
    end = position + length
    if end > len(content):
        raise _damaged(f"an index with {length} bytes where {len(content) - position} are left")
    return content[position:end], end


# ---- Sorted table ----

_MAGIC = 0xDB47_7524_8B80_FB57.to_bytes(8, "little")
_FOOTER = 48  # bytes: two handles of blocks, zeros up to 40 bytes, the magic number
_TRAILER = 5  # bytes behind a block: how it is compressed, and its checksum


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, block by block, as they lie in the table."""
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise _damaged("no end of an index")
    footer = content[-_FOOTER:]
    _, _, position = _handle(footer, 0)  # of the block on filters; a checkpoint has none
    offset, size, _ = _handle(footer, position)
    behind = 0
    for _, handle in _records(_block(content, offset, size)):
        offset, size, _ = _handle(handle, 0)
        if offset < behind:  # a block that is named often would be read often
            raise _damaged("an index whose blocks are not in order")
        behind = offset + size
        yield from _records(_block(content, offset, size))


def _handle(content: bytes, position: int) -> tuple[int, int, int]:
    """Offset and size of a block, and the position behind the handle."""
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return offset, size, position


def _block(content: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(content) - _FOOTER:
        raise _damaged(f"an index with a block behind its end, at byte {offset}")
    checked = np.frombuffer(content, np.uint8)[offset : end + 1]
    if masked(crc32c(checked)) != int.from_bytes(content[end + 1 : end + _TRAILER], "little"):
        raise _damaged(f"a wrong checksum of the block at byte {offset}")
    compression = content[end]
    if compression:
        name = "snappy" if compression == 1 else f"method {compression}"
        raise _refused(f"an index compressed with {name}")
    return content[offset:end]


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key is stored as what differs from the key before."""
    restarts = int.from_bytes(block[-4:], "little")
    entries = block[: max(0, len(block) - 4 * (restarts + 1))]
    if len(entries) + 4 * (restarts + 1) != len(block):
        raise _damaged(f"a block of {len(block)} bytes with {restarts} restart points")
    key, position, written = b"", 0, 0
    while position < len(entries):
        shared, position = _varint(entries, position)
        fresh, position = _varint(entries, position)
        length, position = _varint(entries, position)
        if shared > len(key):
            raise _damaged("an index with a name that continues no other")
        ending, position = _cut(entries, position, fresh)
        value, position = _cut(entries, position, length)
        written += shared + fresh
        if written > _NAMES_PER_BYTE * len(block):
            raise _damaged("an index whose names are far longer than itself")
        key = key[:shared] + ending
        yield key, value
