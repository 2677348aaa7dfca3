"""Intensity normalisation of whole images: z-scores inside the region of interest."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import ZScore

SLAB = 1 << 18  # voxels that are float64 at the same time


def normalise(
    image: NDArray[np.float32],
    roi: NDArray[np.bool_] | None,
    settings: ZScore | Literal["none"],
    name: str,
) -> None:
    """Normalise a channel in place, if that is wanted of it.

    Args:
        image: ``(X, Y, Z)``.
        roi: Voxels that count; None for all.
        settings: Which voxels give mean and deviation, and which channels are normalised.
        name: Of the channel.
    """
    if settings != "none" and (settings.channels is None or name in settings.channels):
        z_score(image, roi, settings, out=image)


def z_score(
    image: NDArray[np.float32],
    roi: NDArray[np.bool_] | None,
    settings: ZScore,
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """``(I - mean) / deviation`` for all voxels; 0 where the ROI is constant.

    The mean and the population deviation are those of the voxels that `statistics_voxels` keeps,
    or of the whole ROI where these are none or all the same. An empty ROI counts as none given.

    Args:
        image: ``(X, Y, Z)``.
        roi: Voxels that count; None for all.
        settings: Which voxels give mean and deviation.
        out: Where the scores go, ``image`` itself perhaps; None for a new array.
    """
    inside = image[roi] if roi is not None and roi.any() else image.ravel()
    kept = inside
    if settings.cutoff_percentiles or settings.cutoff_deviations or settings.above_mean:
        kept = inside[statistics_voxels(inside, image, settings)]
    if kept.size == 0 or kept.min() == kept.max():
        kept = inside
    scores = np.empty_like(image) if out is None else out
    if kept.min() == kept.max():
        scores[:] = 0
        return scores
    mean, deviation = mean_and_deviation(kept)
    for x, plane in enumerate(image):  # one plane at a time in float64, to save memory
        scores[x] = np.subtract(plane, mean, dtype=np.float64) / deviation
    return scores


def mean_and_deviation(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Mean and population deviation of all values, added up in float64 slab by slab."""
    flat = values.ravel()
    slabs = [flat[begin : begin + SLAB] for begin in range(0, flat.size, SLAB)]
    mean = sum(float(slab.sum(dtype=np.float64)) for slab in slabs) / flat.size
    squares = (np.square(np.subtract(slab, mean, dtype=np.float64)) for slab in slabs)
    return mean, (sum(float(one.sum()) for one in squares) / flat.size) ** 0.5


def statistics_voxels(
    inside: NDArray[np.float32], image: NDArray[np.float32], settings: ZScore
) -> NDArray[np.bool_]:
    """Which of the voxels ``inside`` the ROI pass all cut-offs; every comparison is strict."""
    kept = np.ones(inside.shape, bool)
    if settings.cutoff_percentiles is not None:
        low, high = np.percentile(inside, settings.cutoff_percentiles)
        kept &= (inside > low) & (inside < high)
    if settings.cutoff_deviations is not None:
        below, above = settings.cutoff_deviations
        mean, deviation = mean_and_deviation(inside)
        kept &= (inside > mean - below * deviation) & (inside < mean + above * deviation)
    if settings.above_mean:
        kept &= (inside > image.mean(dtype=np.float64)) & (inside < image.max())
    return kept
