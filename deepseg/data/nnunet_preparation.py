"""Preparation of images as nnU-Net does it: crop, normalisation, resampling, and the way back.

Arrays are ``(X, Y, Z)``; all rules act along axes alike, so that their order does not matter. The
two passes of resampling are those of its ``default_resampling``: cubic splines for images, linear
for scores; along an axis whose voxels are more than three times as long as the others, the nearest.

Source: F. Isensee et al., "nnU-Net", Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepseg.config.blocks.nnunet_preparation import IntensityRule
from deepseg.data.images.volumes import Geometry
from deepseg.geometry.boxes import Box, Int3

ANISOTROPIC = 3.0  # longest over shortest side of voxels from which one axis is resampled by itself
_SMALL = 1e-8  # least deviation

Image = NDArray[np.float32]


def nonzero_mask(channels: Iterable[NDArray[np.generic]]) -> NDArray[np.bool_]:
    """Voxels that are not 0 in any channel, and the holes that they enclose."""
    inside = np.zeros((), bool)
    for channel in channels:
        inside = inside | (channel != 0)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(inside)
    return filled


def box_of(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around the voxels of a mask; the whole of an empty one.

    >>> mask = np.zeros((4, 3, 2), bool)
    >>> mask[1:3, 2, 0] = True
    >>> box_of(mask)
    Box(start=(1, 2, 0), size=(2, 1, 1))
    """
    if not mask.any():
        return Box((0, 0, 0), (mask.shape[0], mask.shape[1], mask.shape[2]))
    starts, sizes = [], []
    for axis in range(3):
        other_axes = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask.any(other_axes))
        starts.append(int(places[0]))
        sizes.append(int(places[-1] - places[0] + 1))
    return Box((starts[0], starts[1], starts[2]), (sizes[0], sizes[1], sizes[2]))


def normalised(image: Image, inside: NDArray[np.bool_], rule: IntensityRule) -> Image:
    """Intensities of a channel as its rule has them.

    >>> image = np.array([[[-2000.0, 0.0, 40.0, 900.0]]], np.float32)
    >>> rule = IntensityRule(channel="CT", scheme="ct", limits=(-100, 100), mean=20, deviation=40)
    >>> normalised(image, image > -1, rule).ravel().tolist()
    [-3.0, -0.5, 0.5, 2.0]

    Args:
        image: The cropped channel.
        inside: Voxels that are not 0.
        rule: The scheme, and its values.
    """
    image = image.astype(np.float32)
    match rule.scheme:
        case "z_score":
            return _z_score(image, inside if rule.inside else None)
        case "ct":
            assert rule.limits is not None
            np.clip(image, *rule.limits, out=image)
            image -= rule.mean
            image /= max(rule.deviation, _SMALL)
        case "rescale":
            image -= image.min()
            image /= max(float(image.max()), _SMALL)
        case "rgb":
            image /= 255.0
        case "none":
            pass
    return image


def _z_score(image: Image, inside: NDArray[np.bool_] | None) -> Image:
    values = image if inside is None else image[inside]
    if values.size == 0:
        return image
    scores = (values - values.mean()) / max(values.std(), np.float32(_SMALL))
    if inside is None:
        return np.asarray(scores, np.float32)
    image[inside] = scores
    return image


def resized_shape(
    shape: Int3, spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]
) -> Int3:
    """Voxels along each axis after resampling.

    >>> resized_shape((10, 10, 5), (1, 1, 2.5), (2, 1, 1))
    (5, 10, 12)
    """
    x, y, z = (
        max(1, round(old / new * n))
        for old, new, n in zip(spacing_mm, new_spacing_mm, shape, strict=True)
    )
    return x, y, z


def resized_geometry(geometry: Geometry, shape: Int3) -> Geometry:
    """The grid of ``shape`` voxels over the same field of view.

    >>> finer = resized_geometry(Geometry((2, 1, 1), np.eye(4)), (4, 1, 1))
    >>> finer.spacing_mm, float(finer.affine[0, 3])
    ((0.5, 1.0, 1.0), -0.25)
    """
    ratios = np.array(geometry.shape) / np.array(shape)
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((ratios - 1) / 2)
    affine[:3, :3] *= ratios
    return Geometry(shape, affine)


def separate_axis(spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]) -> int | None:
    """The axis of long voxels, along which the nearest is taken; None if there is no such one.

    >>> separate_axis((1, 1, 5), (1, 1, 1)), separate_axis((1, 5, 5), (1, 1, 1))
    (2, None)
    """
    for spacing in (spacing_mm, new_spacing_mm):
        longest = max(spacing)
        if longest / min(spacing) > ANISOTROPIC:
            axes = [axis for axis, mm in enumerate(spacing) if longest / mm == 1]
            return axes[0] if len(axes) == 1 else None
    return None


def resized(image: Image, shape: Int3, separate: int | None) -> Image:
    """An image by cubic splines; along the axis ``separate``, if there is one, the nearest."""
    if image.shape == shape:
        return image
    values = image.astype(np.float64)
    if separate is None:
        return np.asarray(_cubic(values, shape), np.float32)
    slices = np.moveaxis(values, separate, 0)
    size = tuple(n for axis, n in enumerate(shape) if axis != separate)
    planes = np.stack([_cubic(plane, size) for plane in slices])
    places = _places(len(planes), shape[separate])
    nearest = np.floor(places + 0.5).astype(int).clip(0, len(planes) - 1)
    return np.asarray(np.moveaxis(planes[nearest], 0, separate), np.float32)


def interpolated(values: Image, source: Geometry, target: Geometry, separate: int | None) -> Image:
    """Scores on another grid with the same axes, linear but for the axis ``separate``."""
    to_source = np.linalg.inv(source.affine) @ target.affine
    for axis in range(3):
        places = to_source[axis, axis] * np.arange(target.shape[axis]) + to_source[axis, 3]
        places = np.round(places, 9).clip(0, source.shape[axis] - 1)
        values = _along(values, axis, places, is_nearest=axis == separate)
    return values


def _along(values: Image, axis: int, places: NDArray[np.float64], *, is_nearest: bool) -> Image:
    if is_nearest:
        return values.take(np.floor(places + 0.5).astype(int).clip(0, values.shape[axis] - 1), axis)
    low = np.floor(places).astype(int)
    share = (places - low).astype(np.float32)
    if not share.any():
        return values.take(low, axis)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    form = [-1 if other == axis else 1 for other in range(3)]
    share = share.reshape(form)
    return np.asarray(values.take(low, axis) * (1 - share) + values.take(high, axis) * share)


def _places(count: int, new_count: int) -> NDArray[np.float64]:
    """Places of the new voxels in the old ones, of one field of view."""
    places = (np.arange(new_count) + 0.5) * (count / new_count) - 0.5
    return np.asarray(places, np.float64)


def _cubic(image: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """By cubic splines, between the values that are there."""
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    result = ndimage.zoom(image, factors, order=3, mode="nearest", grid_mode=True)
    return np.asarray(np.clip(result, image.min(), image.max()), np.float64)
