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
    """Normalise a channel in place, if ``settings`` include it.

    Args:
        image: ``(X, Y, Z)``.
        roi: Voxels that count; None for all.
        settings: Which voxels give mean and deviation, and which channels are normalised.
        name: Of the channel.

    >>> image = np.array([[[1, 3]]], np.float32)
    >>> normalise(image, None, ZScore(channels=("T1",)), "FLAIR")  # of T1 only
    >>> image
    array([[[1., 3.]]], dtype=float32)
    >>> normalise(image, None, ZScore(channels=("T1",)), "T1")
    >>> image
    array([[[-1.,  1.]]], dtype=float32)
    """
    if settings != "none" and (settings.channels is None or name in settings.channels):
        z_score(image, roi, settings, out=image)


def z_score(
    image: NDArray[np.float32],
    roi: NDArray[np.bool_] | None,
    settings: ZScore,
    *,
    out: NDArray[np.float32] | None = None,
    slab: int = SLAB,
) -> NDArray[np.float32]:
    """``(I - mean) / deviation`` for all voxels; 0 where the ROI is constant.

    The mean and the population deviation are those of the voxels that `statistics_voxels` keeps,
    or of the whole ROI where these are none or all the same. An empty ROI counts as none given.

    Args:
        image: ``(X, Y, Z)``.
        roi: Voxels that count; None for all.
        settings: Which voxels give mean and deviation.
        out: Array for the scores, ``image`` itself perhaps; None for a new one.
        slab: Voxels that are float64 at the same time.

    >>> image = np.array([[[0, 0, 10, 20]]], np.float32)
    >>> z_score(image, image > 0, ZScore())  # mean 15 and deviation 5 of the last two
    array([[[-3., -3., -1.,  1.]]], dtype=float32)
    """
    inside = image[roi] if roi is not None and roi.any() else image.ravel()
    values = inside
    if settings.cutoff_percentiles or settings.cutoff_deviations or settings.above_mean:
        values = inside[statistics_voxels(inside, image, settings)]
    if values.size == 0 or values.min() == values.max():
        values = inside
    scores = np.empty_like(image) if out is None else out
    if values.min() == values.max():
        scores[:] = 0
        return scores
    mean, deviation = mean_and_deviation(values, slab=slab)
    for x, plane in enumerate(image):  # one plane at a time in float64, to save memory
        scores[x] = np.subtract(plane, mean, dtype=np.float64) / deviation
    return scores


def mean_and_deviation(
    values: NDArray[np.floating[Any]], *, slab: int = SLAB
) -> tuple[float, float]:
    """Mean and population deviation of all values, added up in float64 slab by slab.

    >>> mean_and_deviation(np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]))
    (5.0, 2.0)
    """
    flat = values.ravel()
    slabs = [flat[begin : begin + slab] for begin in range(0, flat.size, slab)]
    mean = sum(float(piece.sum(dtype=np.float64)) for piece in slabs) / flat.size
    squares = (np.square(np.subtract(piece, mean, dtype=np.float64)) for piece in slabs)
    return mean, (sum(float(square.sum()) for square in squares) / flat.size) ** 0.5


def statistics_voxels(
    inside: NDArray[np.float32], image: NDArray[np.float32], settings: ZScore
) -> NDArray[np.bool_]:
    """``(N,)``: True for voxels that pass all cut-offs; every comparison is strict.

    Args:
        inside: ``(N,)``, the voxels of the ROI.
        image: ``(X, Y, Z)``, all voxels.
        settings: The cut-offs.

    >>> image = np.array([[[0, 4, 6, 9]]], np.float32)  # mean 4.75, maximum 9
    >>> statistics_voxels(image.ravel(), image, ZScore(above_mean=True))
    array([False, False,  True, False])
    """
    passes = np.ones(inside.shape, bool)
    if settings.cutoff_percentiles is not None:
        low, high = np.percentile(inside, settings.cutoff_percentiles)
        passes &= (inside > low) & (inside < high)
    if settings.cutoff_deviations is not None:
        below, above = settings.cutoff_deviations
        mean, deviation = mean_and_deviation(inside)
        passes &= (inside > mean - below * deviation) & (inside < mean + above * deviation)
    if settings.above_mean:
        passes &= (inside > image.mean(dtype=np.float64)) & (inside < image.max())
    return passes
