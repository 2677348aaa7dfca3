"""Slices of a volume as pixels: grey values, and classes in colour above them.

Volumes are ``(X, Y, Z)`` and taken as RAS+: X grows to the right of the patient, Y to the front, Z
to the top. They are shown as in radiology: front and top of the patient upwards, their right at the
left of the picture, the front at the left of a sagittal slice. Only numpy is used here.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Spacing: TypeAlias = tuple[float, float, float]
Plane: TypeAlias = Literal["axial", "coronal", "sagittal"]
Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]

# The axis at right angles to a plane.
AXES: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}

# Sides of the patient at the left, right, top and bottom of a slice.
SIDES: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}

# One after the other for the classes 1, 2, ...: bright on grey, different for colour-blind eyes.
COLOURS = (
    (230, 85, 13),
    (86, 180, 233),
    (240, 228, 66),
    (0, 178, 125),
    (221, 119, 190),
    (255, 176, 60),
    (70, 110, 255),
)
FILL = 0.35
SAMPLED_VOXELS = 1_000_000


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of class ``label``; the colours repeat after the last.

    >>> colour(1), colour(1 + len(COLOURS))
    ((230, 85, 13), (230, 85, 13))
    """
    return COLOURS[(label - 1) % len(COLOURS)]


def grey_window(image: Array) -> tuple[float, float]:
    """The values of a volume to show as black and as white, with few extreme voxels beyond them.

    White is sought among the voxels above the minimum, as most of a scan may be air. Of a large
    volume a regular sample of the voxels is looked at.
    """
    step = max(1, round((image.size / SAMPLED_VOXELS) ** (1 / 3)))
    sample = image[::step, ::step, ::step]
    values = sample[np.isfinite(sample)].astype(np.float64)
    if values.size == 0 or values.min() == values.max():
        return (0.0, 0.0)
    low = np.percentile(values, 0.5)
    high = np.percentile(values[values > values.min()], 99.5)
    return float(low), float(high)


def grey_levels(values: Array, window: tuple[float, float]) -> npt.NDArray[np.float64]:
    """``values`` from 0 (black) to 1 (white); black where a value is undefined.

    >>> grey_levels(np.array([0, 15, 20, 99, np.nan]), (10, 20)).tolist()
    [0.0, 0.5, 1.0, 1.0, 0.0]
    """
    low, high = window
    if not low < high:
        return np.zeros(values.shape)
    finite = np.nan_to_num(values.astype(np.float64), nan=low)
    return np.clip((finite - low) / (high - low), 0.0, 1.0)


def slice_of(volume: Array, plane: Plane, index: int) -> Array:
    """Slice ``index`` of ``volume`` as it is looked at, ``(rows, columns)`` from the upper left.

    The patient's right is at the left of an axial slice, and the front is above:

    >>> volume = np.array([[["right back"], ["right front"]], [["left back"], ["left front"]]])
    >>> slice_of(volume, "axial", 0).tolist()
    [['left front', 'right front'], ['left back', 'right back']]
    """
    rows: Array = volume.take(index, axis=AXES[plane]).T[::-1, ::-1]
    return rows


def slice_size(
    shape: tuple[int, ...], spacing_mm: Spacing, plane: Plane, size: int
) -> tuple[int, int]:
    """Height and width in pixels of a slice, with the longest edge of the volume at ``size``.

    So all planes have one scale, and their pixels are square. For a volume of 100 x 200 x 100 mm:

    >>> slice_size((100, 100, 20), (1, 2, 5), "axial", 240)
    (240, 120)
    """
    extent = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    across, up = (axis for axis in range(3) if axis != AXES[plane])
    return (
        max(1, round(size * extent[up] / max(extent))),
        max(1, round(size * extent[across] / max(extent))),
    )


def resized(values: Array, height: int, width: int) -> npt.NDArray[np.float64]:
    """A slice of grey values in another size: interpolated where it grows, averaged where not.

    >>> resized(np.array([[1.0, 3.0], [5.0, 7.0]]), 1, 1).tolist()
    [[4.0]]
    """
    down, across = _weights(values.shape[0], height), _weights(values.shape[1], width)
    result: npt.NDArray[np.float64] = down @ values @ across.T
    return result


def resized_labels(labels: Array, height: int, width: int) -> npt.NDArray[np.int64]:
    """A slice of classes in another size: every pixel takes the class of the voxel below it.

    >>> resized_labels(np.array([[1, 2]]), 1, 4).tolist()
    [[1, 1, 2, 2]]
    """
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(labels.shape, (height, width), strict=True)
    )
    return labels[np.ix_(rows, columns)].astype(np.int64)


def overlay(grey: Array, labels: Array) -> Pixels:
    """A grey slice with each class as a transparent area with an opaque border.

    Args:
        grey: ``(height, width)``, 0 to 1.
        labels: ``(height, width)``, whole numbers; 0 stays grey, and so do negative ones.

    Returns:
        ``(height, width, 3)``.
    """
    labels = np.maximum(labels, 0)
    colours = np.asarray(COLOURS, dtype=np.float64)[(labels - 1) % len(COLOURS)]
    opacity = np.where(labels == 0, 0.0, np.where(_is_border(labels), 1.0, FILL))[..., None]
    mixed = (1 - opacity) * 255 * grey[..., None] + opacity * colours
    pixels: Pixels = np.round(mixed).astype(np.uint8)
    return pixels


def _is_border(labels: Array) -> npt.NDArray[np.bool_]:
    """Mask of the pixels beside another class; the edge of the slice is no border."""
    framed = np.pad(labels, 1, mode="edge")
    neighbours = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    border: npt.NDArray[np.bool_] = np.any([n != labels for n in neighbours], axis=0)
    return border


def _weights(old: int, new: int) -> npt.NDArray[np.float64]:
    """Share of each of ``old`` pixels in each of ``new``: ``(new, old)``, rows sum to 1."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    distance = np.abs(centres[:, None] - np.arange(old))
    weights = np.maximum(0.0, 1 - distance / max(1.0, old / new))
    result: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return result
