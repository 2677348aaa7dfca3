"""LevelDB's sorted table: keys and values in blocks, each with its checksum.

Every checksum is compared, and every size is held against the content before it is used. What keys
and values mean is not known here. Source: LevelDB's ``doc/table_format.md``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepseg.transfer.sources.checkpoint_problems import damaged, refused
from deepseg.transfer.sources.crc32c import crc32c, masked
from deepseg.transfer.sources.protocol_buffers import cut, varint

_NAMES_PER_BYTE = 16  # TensorFlow writes every 16th name in full, so its names grow no more
_MAGIC = 0xDB47_7524_8B80_FB57.to_bytes(8, "little")
_FOOTER = 48  # bytes: two handles of blocks, zeros up to 40 bytes, the magic number
_TRAILER = 5  # bytes after a block: how it is compressed, and its checksum


def table_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, block by block, as they lie in the table."""
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise damaged("no end of an index")
    footer = content[-_FOOTER:]
    _, _, position = _handle(footer, 0)  # of the block on filters; a checkpoint has none
    offset, size, _ = _handle(footer, position)
    block_end = 0
    for _, handle in _records(_block(content, offset, size)):
        offset, size, _ = _handle(handle, 0)
        if offset < block_end:  # a block that is named often would be read often
            raise damaged("an index whose blocks are not in order")
        block_end = offset + size
        yield from _records(_block(content, offset, size))


def _handle(content: bytes, position: int) -> tuple[int, int, int]:
    """Offset and size of a block, and the position after the handle."""
    offset, position = varint(content, position)
    size, position = varint(content, position)
    return offset, size, position


def _block(content: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(content) - _FOOTER:
        raise damaged(f"an index with a block behind its end, at byte {offset}")
    checked = np.frombuffer(content, np.uint8)[offset : end + 1]
    if masked(crc32c(checked)) != int.from_bytes(content[end + 1 : end + _TRAILER], "little"):
        raise damaged(f"a wrong checksum of the block at byte {offset}")
    compression = content[end]
    if compression:
        name = "snappy" if compression == 1 else f"method {compression}"
        raise refused(f"an index compressed with {name}")
    return content[offset:end]


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key is stored as what differs from the key before."""
    restarts = int.from_bytes(block[-4:], "little")
    entries = block[: max(0, len(block) - 4 * (restarts + 1))]
    if len(entries) + 4 * (restarts + 1) != len(block):
        raise damaged(f"a block of {len(block)} bytes with {restarts} restart points")
    key, position, written = b"", 0, 0
    while position < len(entries):
        shared, position = varint(entries, position)
        fresh, position = varint(entries, position)
        length, position = varint(entries, position)
        if shared > len(key):
            raise damaged("an index with a name that continues no other")
        ending, position = cut(entries, position, fresh)
        value, position = cut(entries, position, length)
        written += shared + fresh
        if written > _NAMES_PER_BYTE * len(block):
            raise damaged("an index whose names are far longer than itself")
        key = key[:shared] + ending
        yield key, value
