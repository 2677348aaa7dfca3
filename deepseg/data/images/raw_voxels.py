"""Values as a file stores them, and the intensities or labels they stand for.

Formats of files are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepseg.data.images.grid import Array, Grid
from deepseg.errors import Problem

_ROUNDING = 1e-3  # largest distance from a whole number that storing a label as a float can cause


@dataclass(frozen=True)
class RawVoxels:
    """Values of a file before they are given a meaning; a voxel is array * slope + offset."""

    array: Array
    slope: float
    offset: float
    grid: Grid


def as_float32(raw: RawVoxels) -> npt.NDArray[np.float32]:
    """The voxels of an image; scaled in float64, one sagittal slice at a time to save memory."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found as infinite
        if (raw.slope, raw.offset) == (1, 0):
            return np.array(raw.array, dtype=np.float32, order="C")
        array = np.empty(raw.array.shape, dtype=np.float32)
        for x, plane in enumerate(raw.array):
            array[x] = plane.astype(np.float64) * raw.slope + raw.offset
    return array


def _scaled(raw: RawVoxels) -> Array:
    if (raw.slope, raw.offset) == (1, 0):
        return raw.array
    return raw.array.astype(np.float64) * raw.slope + raw.offset


def whole_numbers(raw: RawVoxels) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Every voxel as the nearest integer, and True where that is further than rounding explains."""
    values = _scaled(raw)
    if values.dtype.kind in "iub":
        return values, np.zeros(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        fits = (np.abs(values - nearest) <= _ROUNDING) & (np.abs(values) < 2.0**53)
    return np.where(fits, nearest, 0).astype(np.int64), ~fits


def smallest_integers(array: Array) -> Array:
    """``array`` in the smallest integer type that holds it, unsigned if nothing is negative.

    >>> smallest_integers(np.array([0, 255])).dtype
    dtype('uint8')
    >>> smallest_integers(np.array([-1, 255])).dtype
    dtype('int16')
    """
    low, high = int(array.min()), int(array.max())
    signs = "iu"[low >= 0]
    sizes = (np.dtype(f"{signs}{n}") for n in (1, 2, 4, 8))
    smallest = next(t for t in sizes if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.ascontiguousarray(array, dtype=smallest)


def relabelled(labels: Array, label_map: Mapping[int, int]) -> Array:
    """``labels`` with every old label of ``label_map`` made the new one, all at once.

    >>> relabelled(np.array([0, 1, 2, 4]), {1: 2, 2: 1})
    array([0, 2, 1, 4])
    """
    if not label_map:
        return labels
    renamed = labels.astype(np.int64)
    for old, new in label_map.items():
        renamed[labels == old] = new
    return renamed


def voxel_phrase(mask: npt.NDArray[np.bool_]) -> str:
    """The beginning of a sentence about the voxels in ``mask``.

    >>> voxel_phrase(np.array([False, True])), voxel_phrase(np.array([True, True]))
    ('1 voxel that is', '2 voxels that are')
    """
    count = int(mask.sum())
    return "1 voxel that is" if count == 1 else f"{count} voxels that are"


def _first_index(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def first_place(mask: npt.NDArray[np.bool_]) -> str:
    """The first voxel in ``mask``, in C order.

    >>> first_place(np.array([[False, False], [True, True]]))
    'voxel (1, 0)'
    """
    return f"voxel {_first_index(mask)}"


def first_value(raw: RawVoxels, mask: npt.NDArray[np.bool_]) -> str:
    """Intensity or label of the first voxel in ``mask``."""
    value = float(raw.array[_first_index(mask)]) * raw.slope + raw.offset
    return f"{value:.6g}"


def dtype_problem(path: Path, dtype: str) -> Problem:
    """The problem of voxels that are not one integer or float each."""
    return Problem(
        code="image-dtype",
        got=f"voxels of type {dtype}",
        expected="one integer of at most 32 bits (64 if signed, or in labels) or one float of at "
        "most 64 bits per voxel",
        fix="convert the image, with one file per channel",
        where=str(path),
    )
