"""Fields of protocol buffers, and the numbers of variable length that they are made of.

Messages are not known here, only their encoding. Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from deepseg.transfer.sources.checkpoint_problems import damaged, refused


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields: signed integers, or bytes for all that has a length.

    >>> list(fields(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69])))
    [(1, 150), (2, b'hi')]
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = varint(message, position)
                value = value - (1 << 64) if value >> 63 else value
            case 2:
                length, position = varint(message, position)
                value, position = cut(message, position, length)
            case 5:
                fixed, position = cut(message, position, 4)
                value = int.from_bytes(fixed, "little")
            case wire:
                raise refused(f"a field of wire type {wire}")
        yield tag >> 3, value


def varints(content: bytes) -> Iterator[int]:
    """Numbers that follow one another.

    >>> list(varints(bytes([3, 0x96, 0x01])))
    [3, 150]
    """
    position = 0
    while position < len(content):
        value, position = varint(content, position)
        yield value


def varint(content: bytes, position: int) -> tuple[int, int]:
    """An unsigned number of 64 bits, seven in each byte, and the position after it.

    >>> varint(bytes([0x96, 0x01]), 0)  # 0x16 + 1 * 128
    (150, 2)
    """
    value = 0
    for step, byte in enumerate(content[position : position + 10]):
        value |= (byte & 0x7F) << (7 * step)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + step + 1
    raise damaged("an index with a number that does not end")


def cut(content: bytes, position: int, length: int) -> tuple[bytes, int]:
    """``length`` bytes of ``content``, and the position after them.

    >>> cut(b"deepseg", 4, 3)
    (b'seg', 7)
    """
    end = position + length
    if end > len(content):
        raise damaged(f"an index with {length} bytes where {len(content) - position} are left")
    return content[position:end], end
