"""Data elements of a DICOM file, with those inside sequences, which SimpleITK does not tell.

Their meaning is not known here. Nothing is read beyond the file or beyond the voxels in it.

Source: DICOM PS3.5, "Data Structures and Encoding", chapter 7,
https://dicom.nema.org/medical/dicom/current/output/html/part05.html
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from deepseg.data.images.integrity import damage_named, damaged
from deepseg.errors import DeepsegError

IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{ending}" for ending in ("", ".1", ".2"))
DEFLATED = "1.2.840.10008.1.2.1.99"

_ByteOrder: TypeAlias = Literal["<", ">"]

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DEEPEST = 16  # sequences inside each other; more are no medical image
_LONGEST_TEXT = 1 << 16  # bytes of a value that is kept
_LONG_TYPES = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_BYTES = ("OB", "OD", "OF", "OL", "OV", "OW", "UN", "AT", "SV", "UV")

# Types of elements that implicit files do not name, as far as frames need them.
_IMPLICIT_TYPES = {
    **dict.fromkeys((0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280101), "US"),
    **dict.fromkeys((0x00280102, 0x00280103), "US"),
    **dict.fromkeys((0x00209057, 0x00209128, 0x00209157), "UL"),
    **dict.fromkeys((0x00189082, 0x00189087, 0x00209153), "FD"),
    **dict.fromkeys((0x52009229, 0x52009230, 0x00209111, 0x00209113, 0x00209116), "SQ"),
    **dict.fromkeys((0x00289110, 0x00289145, 0x00189114, 0x00189117, 0x00189118), "SQ"),
    **dict.fromkeys((0x00189226, 0x00189329, 0x00189732, 0x0062000A, 0x00209310), "SQ"),
}


@dataclass(frozen=True)
class DataSet:
    """Elements of a file, or of an item of a sequence, by tags such as ``0020|0032``.

    Attributes:
        texts: Values of elements; numbers and texts with several are separated by backslashes.
        sequences: Items of every sequence.
        pixels: First byte and number of bytes of the voxels; None without any, or if they are
            compressed.
    """

    texts: Mapping[str, str]
    sequences: Mapping[str, Sequence[DataSet]]
    pixels: tuple[int, int] | None = None


def read_data_set(path: Path, syntax: str, *, begin: int) -> DataSet:
    """The elements of a file, to its voxels.

    Args:
        path: The file.
        syntax: Its transfer syntax.
        begin: Byte at which the elements begin.

    Raises:
        DeepsegError: ``image-damaged``.
    """
    with (
        damage_named(path),
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        parser = _Parser(content, ">" if syntax == BIG_ENDIAN else "<")
        try:
            return parser.data_set(begin, len(content), is_explicit=syntax != IMPLICIT, depth=0)[0]
        except (struct.error, ValueError) as error:
            got = f"a DICOM file whose elements do not fit into each other ({error})"
            raise DeepsegError(damaged(path, got)) from error


@dataclass(frozen=True)
class _Element:
    """Head of an element: its tag, type, and the place and size of its value."""

    tag: int
    value_type: str
    begin: int
    size: int


class _Parser:
    """Reads elements out of the bytes of a file.

    Args:
        content: The whole file.
        order: Of the bytes of numbers.
    """

    def __init__(self, content: mmap.mmap, order: _ByteOrder) -> None:
        self._content = content
        self._order = order

    def data_set(
        self, begin: int, end: int, *, is_explicit: bool, depth: int
    ) -> tuple[DataSet, int]:
        """The elements from one byte to another or to an end mark, and the byte after them."""
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} sequences inside each other")
        texts: dict[str, str] = {}
        sequences: dict[str, Sequence[DataSet]] = {}
        pixels = None
        place = begin
        while place + 8 <= end:
            element = self._element(place, is_explicit=is_explicit)
            if element.tag in (_ITEM_END, _SEQUENCE_END):
                place = element.begin
                break
            if depth == 0 and element.tag in _PIXEL_DATA:
                is_plain = element.size != _UNDEFINED
                pixels = (element.begin, element.size) if is_plain else None
                break
            name = f"{element.tag >> 16:04x}|{element.tag & 0xFFFF:04x}"
            if element.value_type == "SQ" or element.size == _UNDEFINED:
                explicit = is_explicit and element.value_type == "SQ"
                sequences[name], place = self._items(element, end, explicit, depth)
                continue
            place = element.begin + element.size
            if place > end:
                raise ValueError(f"{name} ends at byte {place} of {end}")
            text = self._text(element)
            if text is not None:
                texts[name] = text
        return DataSet(texts, sequences, pixels), place

    def _element(self, place: int, *, is_explicit: bool) -> _Element:
        group, number = struct.unpack_from(f"{self._order}HH", self._content, place)
        tag = group << 16 | number
        if group == 0xFFFE or not is_explicit:
            (size,) = struct.unpack_from(f"{self._order}I", self._content, place + 4)
            return _Element(tag, _IMPLICIT_TYPES.get(tag, ""), place + 8, size)
        value_type = self._content[place + 4 : place + 6].decode("ascii", "replace")
        if value_type in _LONG_TYPES:
            (size,) = struct.unpack_from(f"{self._order}I", self._content, place + 8)
            return _Element(tag, value_type, place + 12, size)
        (size,) = struct.unpack_from(f"{self._order}H", self._content, place + 6)
        return _Element(tag, value_type, place + 8, size)

    def _items(
        self, element: _Element, end: int, is_explicit: bool, depth: int
    ) -> tuple[list[DataSet], int]:
        """The items of a sequence, and the byte after it."""
        is_open = element.size == _UNDEFINED
        stop = end if is_open else element.begin + element.size
        if stop > end:
            raise ValueError(f"a sequence ends at byte {stop} of {end}")
        items: list[DataSet] = []
        place = element.begin
        while place + 8 <= stop:
            item = self._element(place, is_explicit=False)
            if item.tag == _SEQUENCE_END:
                return items, item.begin
            if item.tag != _ITEM:
                raise ValueError(f"a sequence with {item.tag:08x} in place of an item")
            item_end = stop if item.size == _UNDEFINED else item.begin + item.size
            if item_end > stop:
                raise ValueError(f"an item ends at byte {item_end} of {stop}")
            content, after = self.data_set(
                item.begin, item_end, is_explicit=is_explicit, depth=depth + 1
            )
            items.append(content)
            place = after if item.size == _UNDEFINED else item_end
        return items, stop

    def _text(self, element: _Element) -> str | None:
        """The value of an element as text; None for bytes and for very long ones."""
        if element.size > _LONGEST_TEXT or element.value_type in _BYTES:
            return None
        value = self._content[element.begin : element.begin + element.size]
        code = _NUMBERS.get(element.value_type)
        if code is None:
            return value.decode("latin-1").strip("\0 ")
        count = len(value) // struct.calcsize(f"{self._order}{code}")
        numbers = struct.unpack_from(f"{self._order}{count}{code}", value)
        return "\\".join(f"{number:.17g}" if code in "fd" else str(number) for number in numbers)
