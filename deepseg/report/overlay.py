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
View: TypeAlias = Literal["axial", "coronal", "sagittal"]
Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]

# The axis along which a view looks.
AXES: dict[View, int] = {"axial": 2, "coronal": 1, "sagittal": 0}

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
VOXELS_LOOKED_AT = 1_000_000


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of class ``label``; the colours repeat after the last."""
    return COLOURS[(label - 1) % len(COLOURS)]


def grey_window(image: Array) -> tuple[float, float]:
    """Which values of a volume to show as black and as white, with few extreme voxels beyond them.

    White is sought among the voxels above the minimum, as most of a scan may be air. Of a large
    volume a regular part of the voxels is looked at.
    """
    step = max(1, round((image.size / VOXELS_LOOKED_AT) ** (1 / 3)))
    part = image[::step, ::step, ::step]
    values = part[np.isfinite(part)].astype(np.float64)
    if values.size == 0 or values.min() == values.max():
        return (0.0, 0.0)
    low = np.percentile(values, 0.5)
    high = np.percentile(values[values > values.min()], 99.5)
    return float(low), float(high)


def grey_levels(values: Array, window: tuple[float, float]) -> npt.NDArray[np.float64]:
    """``values`` from 0 (black) to 1 (white); black where there is no number."""
    low, high = window
    if not low < high:
        return np.zeros(values.shape)
    known = np.nan_to_num(values.astype(np.float64), nan=low)
    return np.clip((known - low) / (high - low), 0.0, 1.0)


def plane(volume: Array, view: View, index: int) -> Array:
    """Slice ``index`` of ``volume`` as it is looked at, rows from top to bottom."""
    rows: Array = volume.take(index, axis=AXES[view]).T[::-1, ::-1]
    return rows


def plane_size(
    shape: tuple[int, ...], spacing_mm: Spacing, view: View, size: int
) -> tuple[int, int]:
    """Height and width in pixels of a ``view``, with the longest edge of the volume at ``size``.

    All views so have one scale, and their pixels are square.
    """
    extent = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    across, up = (axis for axis in range(3) if axis != AXES[view])
    return (
        max(1, round(size * extent[up] / max(extent))),
        max(1, round(size * extent[across] / max(extent))),
    )


def resized(values: Array, height: int, width: int) -> npt.NDArray[np.float64]:
    """A plane of grey values in another size: interpolated where it grows, averaged where not."""
    down, across = _weights(values.shape[0], height), _weights(values.shape[1], width)
    result: npt.NDArray[np.float64] = down @ values @ across.T
    return result


def resized_labels(labels: Array, height: int, width: int) -> npt.NDArray[np.int64]:
    """A plane of classes in another size: every pixel takes the class of the voxel below it."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(labels.shape, (height, width), strict=True)
    )
    return labels[np.ix_(rows, columns)].astype(np.int64)


def overlay(grey: Array, labels: Array) -> Pixels:
    """A grey slice with each class as a transparent area with an opaque border.

    Args:
        grey: ``(height, width)``, 0 to 1.
        labels: ``(height, width)``, whole numbers; 0 stays grey.

    Returns:
        ``(height, width, 3)``.
    """
    colours = np.asarray(COLOURS, dtype=np.float64)[(labels - 1) % len(COLOURS)]
    opacity = np.where(labels == 0, 0.0, np.where(_is_border(labels), 1.0, FILL))[..., None]
    mixed = (1 - opacity) * 255 * grey[..., None] + opacity * colours
    pixels: Pixels = np.round(mixed).astype(np.uint8)
    return pixels


def _is_border(labels: Array) -> npt.NDArray[np.bool_]:
    """Which pixels have a neighbour of another class; the edge of the plane is no border."""
    framed = np.pad(labels, 1, mode="edge")
    neighbours = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    border: npt.NDArray[np.bool_] = np.any([n != labels for n in neighbours], axis=0)
    return border


def _weights(old: int, new: int) -> npt.NDArray[np.float64]:
    """How much each of ``old`` pixels counts in each of ``new``: ``(new, old)``, rows sum to 1."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    distance = np.abs(centres[:, None] - np.arange(old))
    weights = np.maximum(0.0, 1 - distance / max(1.0, old / new))
    result: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return result
