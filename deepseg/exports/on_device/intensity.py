"""Z-scores as in the sessions of deepseg, and masks with the holes that they enclose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

Mask: TypeAlias = NDArray[np.bool_]


def with_holes(inside: Mask) -> Mask:
    """The mask and the holes that it encloses: all that is not reached from the border.

    >>> ring = np.ones((3, 3, 3), bool)
    >>> ring[1, 1, 1] = False
    >>> int(with_holes(ring).sum())
    27
    """
    free = np.pad(~inside, 1, constant_values=True)
    reached = np.zeros_like(free)
    reached[0] = True
    count = 0
    while (wider := int(reached.sum())) > count:
        count = wider
        for axis in range(3):
            planes, gates = np.moveaxis(reached, axis, 0), np.moveaxis(free, axis, 0)
            for n in range(1, len(planes)):
                planes[n] |= planes[n - 1] & gates[n]
            for n in range(len(planes) - 2, -1, -1):
                planes[n] |= planes[n + 1] & gates[n]
    return np.asarray(~reached[1:-1, 1:-1, 1:-1])


def normalised(image: Floats, roi: Mask | None, settings: Any, channel: str) -> Floats:
    """The z-score of a channel over the voxels that ``settings`` choose, or the image as it is."""
    if settings == "none" or (
        settings["channels"] is not None and channel not in settings["channels"]
    ):
        return image
    inside = image[roi] if roi is not None and roi.any() else image.ravel()
    values = inside[_counting(inside, image, settings)]
    if values.size == 0 or values.min() == values.max():
        values = inside
    if values.min() == values.max():
        return np.zeros_like(image)
    mean = values.mean(dtype=np.float64)
    deviation = math.sqrt(np.square(values - mean, dtype=np.float64).mean())
    return np.asarray((image - mean) / deviation, np.float32)


def _counting(inside: Floats, image: Floats, settings: Mapping[str, Any]) -> Mask:
    """Voxels that mean and deviation are taken of; every comparison is strict."""
    passes = np.ones(inside.shape, bool)
    if settings["cutoff_percentiles"] is not None:
        low, high = np.percentile(inside, settings["cutoff_percentiles"])
        passes &= (inside > low) & (inside < high)
    if settings["cutoff_deviations"] is not None:
        below, above = settings["cutoff_deviations"]
        mean = inside.mean(dtype=np.float64)
        deviation = math.sqrt(np.square(inside - mean, dtype=np.float64).mean())
        passes &= (inside > mean - below * deviation) & (inside < mean + above * deviation)
    if settings["above_mean"]:
        passes &= (inside > image.mean(dtype=np.float64)) & (inside < image.max())
    return passes
