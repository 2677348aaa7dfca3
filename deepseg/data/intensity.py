"""Intensity normalisation of whole images: z-scores inside the region of interest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import ZScore
from deepseg.geometry.boxes import Int3


def normalised(
    images: Iterable[NDArray[np.float32] | None],
    roi: NDArray[np.bool_] | None,
    settings: ZScore | Literal["none"],
    names: Sequence[str],
    shape: Int3,
) -> NDArray[np.float32]:
    """``(C, X, Y, Z)``: the channels, normalised; a missing one is 0, the mean of normalised ones.

    Args:
        images: ``(X, Y, Z)`` each, or None for a channel that the case lacks.
        roi: Voxels that count; None for all.
        settings: Which voxels give mean and deviation, and which channels are normalised.
        names: Of the channels.
        shape: Of the images.
    """
    channels = np.zeros((len(names), *shape), np.float32)
    for channel, image, name in zip(channels, images, names, strict=True):
        if image is None:
            continue
        wanted = settings != "none" and (settings.channels is None or name in settings.channels)
        channel[:] = z_score(image, roi, settings) if wanted and settings != "none" else image
    return channels


def z_score(
    image: NDArray[np.float32], roi: NDArray[np.bool_] | None, settings: ZScore
) -> NDArray[np.float32]:
    """``(I - mean) / deviation`` for all voxels; 0 where the ROI is constant.

    The mean and the population deviation are those of the voxels that `statistics_voxels` keeps,
    or of the whole ROI where these are none or all the same. An empty ROI counts as none given.
    """
    inside = image[roi] if roi is not None and roi.any() else image.ravel()
    kept = inside[statistics_voxels(inside, image, settings)].astype(np.float64)
    if kept.size == 0 or kept.min() == kept.max():
        kept = inside.astype(np.float64)
    if kept.min() == kept.max():
        return np.zeros_like(image)
    mean, deviation = kept.mean(), kept.std()
    del kept
    scores = np.empty(image.shape, np.float32)
    for x, plane in enumerate(image):  # one plane at a time in float64, to save memory
        scores[x] = np.subtract(plane, mean, dtype=np.float64) / deviation
    return scores


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
        mean, deviation = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
        kept &= (inside > mean - below * deviation) & (inside < mean + above * deviation)
    if settings.above_mean:
        kept &= (inside > image.mean(dtype=np.float64)) & (inside < image.max())
    return kept
