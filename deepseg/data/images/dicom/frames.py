"""Frames of an enhanced DICOM file, each with the tags and the voxels of a slice of its own.

Such a file says once what all frames share, and of every frame what is different: its place, its
direction, its scale. Flattened into one record per frame, they are slices like any others.

Source: DICOM PS3.3, "Information Object Definitions", C.7.6.16 (Multi-frame Functional Groups
Module), https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from deepseg.data.images.dicom.data_set import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    DataSet,
    read_data_set,
)
from deepseg.data.images.integrity import damage_named, damaged
from deepseg.data.images.raw_voxels import dtype_problem
from deepseg.errors import DeepsegError, Problem

sitk: Any = SimpleITK  # not annotated

SHARED_GROUPS, FRAME_GROUPS = "5200|9229", "5200|9230"
_ROWS, _COLUMNS, _SAMPLES, _FRAMES = "0028|0010", "0028|0011", "0028|0002", "0028|0008"
_BITS, _STORED_BITS, _SIGNED = "0028|0100", "0028|0101", "0028|0103"
_INTERCEPT, _SLOPE = "0028|1052", "0028|1053"
_READ_BITS = (8, 16, 32)


@dataclass(frozen=True)
class Frames:
    """The frames of one file.

    Attributes:
        path: The file.
        syntax: Its transfer syntax.
        tags: Of every frame: of the file, of all frames and of this one.
        pixels: First byte and number of bytes of the voxels; None if they are compressed.
    """

    path: Path
    syntax: str
    tags: tuple[Mapping[str, str], ...]
    pixels: tuple[int, int] | None

    def voxels(self, index: int) -> npt.NDArray[Any]:
        """The values ``(X, Y)`` of a frame counted from 0, scaled as its own groups say.

        Raises:
            DeepsegError: ``image-damaged``, ``image-truncated``, ``image-dtype``, or
                ``file-format`` for compressed frames with scales of their own.
        """
        if self.pixels is None:
            return self._unpacked[:, :, index]
        stored = self._stored(index, self.pixels[0])
        slope, intercept = self._scale(index)
        if (slope, intercept) == (1.0, 0.0):
            return stored
        return np.asarray(stored * slope + intercept)

    def _scale(self, index: int) -> tuple[float, float]:
        try:
            slope = float(self.tags[index].get(_SLOPE) or 1)
            intercept = float(self.tags[index].get(_INTERCEPT) or 0)
        except ValueError:
            slope, intercept = float("nan"), float("nan")
        if not np.isfinite([slope, intercept]).all() or slope == 0:
            got = f"frame {index + 1} with a scale that is no number, or 0"
            raise DeepsegError(damaged(self.path, got, "a finite slope that is not 0"))
        return slope, intercept

    def _number(self, tag: str, default: int) -> int:
        text = self.tags[0].get(tag, "")
        return int(text) if text.isdigit() else default

    def _stored(self, index: int, begin: int) -> npt.NDArray[Any]:
        """The stored values ``(X, Y)`` of a frame that is not compressed."""
        bits, rows, columns = (self._number(tag, 0) for tag in (_BITS, _ROWS, _COLUMNS))
        if bits not in _READ_BITS or self._number(_SAMPLES, 1) != 1:
            samples = self._number(_SAMPLES, 1)
            name = f"{samples} x {bits} bits" if samples != 1 else f"{bits} bits"
            raise DeepsegError(dtype_problem(self.path, name))
        is_signed = self._number(_SIGNED, 0) == 1
        order = ">" if self.syntax == BIG_ENDIAN else "<"
        dtype = np.dtype(f"{order}u{bits // 8}")
        count = rows * columns
        place = begin + index * count * dtype.itemsize
        with damage_named(self.path):
            present = self.path.stat().st_size
            needed = place + count * dtype.itemsize
            if present < needed:
                got, expected = f"{present} bytes", f"{needed} bytes, to frame {index + 1}"
                raise DeepsegError(damaged(self.path, got, expected, code="image-truncated"))
            values = np.fromfile(self.path, dtype, count, offset=place)
        stored = _without_overlay(
            values.astype(np.int64), self._number(_STORED_BITS, bits), is_signed=is_signed
        )
        return stored.reshape(rows, columns).T

    @cached_property
    def _unpacked(self) -> npt.NDArray[Any]:
        """All values ``(X, Y, N)`` of compressed frames, which SimpleITK scales alike."""
        if len({self._scale(index) for index in range(len(self.tags))}) > 1:
            raise DeepsegError(
                Problem(
                    code="file-format",
                    got="compressed frames with slopes or intercepts of their own",
                    expected="one scale for all frames, or frames that are not compressed",
                    fix="write the file again without compression (gdcmconv --raw does)",
                    where=str(self.path),
                )
            )
        try:
            image = sitk.ReadImage(str(self.path))
        except RuntimeError:
            raise DeepsegError(damaged(self.path, "a DICOM file that is damaged")) from None
        if image.GetNumberOfComponentsPerPixel() > 1:
            raise DeepsegError(dtype_problem(self.path, image.GetPixelIDTypeAsString()))
        values = np.asarray(sitk.GetArrayFromImage(image).T)
        return values.reshape(*values.shape[:2], -1)


def _without_overlay(
    values: npt.NDArray[np.int64], stored_bits: int, *, is_signed: bool
) -> npt.NDArray[np.int64]:
    """Values of the stored bits alone, with their sign; overlays may lie in those above.

    >>> _without_overlay(np.array([0x8001, 0x0FFF]), 12, is_signed=False).tolist()
    [1, 4095]
    >>> _without_overlay(np.array([0x8001, 0x0FFF]), 12, is_signed=True).tolist()
    [1, -1]
    """
    masked = values & ((1 << stored_bits) - 1)
    if is_signed:
        masked = np.where(masked >= 1 << (stored_bits - 1), masked - (1 << stored_bits), masked)
    return masked


def frames_of(path: Path, syntax: str, begin: int) -> Frames | None:
    """The frames of a file with functional groups; None for one without.

    Args:
        path: The file.
        syntax: Its transfer syntax.
        begin: Byte at which its elements begin.

    Raises:
        DeepsegError: ``image-damaged``.
    """
    content = read_data_set(path, syntax, begin=begin)
    frames = content.sequences.get(FRAME_GROUPS, ())
    if not frames:
        return None
    count = content.texts.get(_FRAMES, "1")
    if count != str(len(frames)):
        got = f"{count} frames in the header, and functional groups of {len(frames)}"
        raise DeepsegError(damaged(path, got, "functional groups of every frame"))
    shared = [tags for item in content.sequences.get(SHARED_GROUPS, ()) for tags in _groups(item)]
    tags = tuple(_merged(content, shared, item) for item in frames)
    is_plain = syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN)
    return Frames(path, syntax, tags, content.pixels if is_plain else None)


def _merged(content: DataSet, shared: list[Mapping[str, str]], frame: DataSet) -> dict[str, str]:
    merged = dict(content.texts)
    for tags in (*shared, *_groups(frame)):
        merged.update(tags)
    return merged


def _groups(item: DataSet) -> Iterator[Mapping[str, str]]:
    """The tags of every functional group of an item."""
    for group in item.sequences.values():
        for tags in group[:1]:
            yield tags.texts
