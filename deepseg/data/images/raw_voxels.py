"""The numbers that a file stores, and the intensities or labels they stand for.

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
    """The numbers of a file before they are given a meaning; a voxel is array * slope + offset."""

    array: Array
    slope: float
    offset: float
    grid: Grid


def as_float32(stored: RawVoxels) -> npt.NDArray[np.float32]:
    """The voxels of an image; scaled in float64, one sagittal slice at a time to save memory."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found as infinite
        if (stored.slope, stored.offset) == (1, 0):
            return np.array(stored.array, dtype=np.float32, order="C")
        array = np.empty(stored.array.shape, dtype=np.float32)
        for x, plane in enumerate(stored.array):
            array[x] = plane.astype(np.float64) * stored.slope + stored.offset
    return array


def _scaled(stored: RawVoxels) -> Array:
    if (stored.slope, stored.offset) == (1, 0):
        return stored.array
    return stored.array.astype(np.float64) * stored.slope + stored.offset


def whole_numbers(stored: RawVoxels) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Every voxel as the nearest integer, and where that is further than rounding explains."""
    values = _scaled(stored)
    if values.dtype.kind in "iub":
        return values, np.zeros(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        fits = (np.abs(values - nearest) <= _ROUNDING) & (np.abs(values) < 2.0**53)
    return np.where(fits, nearest, 0).astype(np.int64), ~fits


def smallest_integers(array: Array) -> Array:
    """``array`` in the smallest integer type that holds it, unsigned if nothing is negative."""
    low, high = int(array.min()), int(array.max())
    signs = "iu"[low >= 0]
    sizes = (np.dtype(f"{signs}{n}") for n in (1, 2, 4, 8))
    smallest = next(t for t in sizes if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.ascontiguousarray(array, dtype=smallest)


def relabelled(labels: Array, label_map: Mapping[int, int]) -> Array:
    """``labels`` with every old label of ``label_map`` made the new one, all at once."""
    if not label_map:
        return labels
    renamed = labels.astype(np.int64)
    for old, new in label_map.items():
        renamed[labels == old] = new
    return renamed


def how_many(found: npt.NDArray[np.bool_]) -> str:
    """The beginning of a sentence about the voxels that were found."""
    number = int(found.sum())
    return "1 voxel that is" if number == 1 else f"{number} voxels that are"


def _first_index(found: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(found)), found.shape))


def first_place(found: npt.NDArray[np.bool_]) -> str:
    """The first voxel that was found."""
    return f"voxel {_first_index(found)}"


def first_value(stored: RawVoxels, found: npt.NDArray[np.bool_]) -> str:
    """The number that the first voxel found stands for."""
    number = float(stored.array[_first_index(found)]) * stored.slope + stored.offset
    return f"{number:.6g}"


def dtype_problem(path: Path, dtype: str) -> Problem:
    """What to say about voxels that are no plain numbers."""
    return Problem(
        code="image-dtype",
        got=f"voxels of type {dtype}",
        expected="one integer of at most 32 bits (64 if signed, or in labels) or one float of at "
        "most 64 bits per voxel",
        fix="convert the image, with one file per channel",
        where=str(path),
    )
