"""One volume on another grid of voxels.

Only arrays and geometries are known here: not files, and not what the numbers mean beyond the order
of interpolation. Millimetres are RAS, as in `deepseg.data.volumes`.

Where an image becomes coarser, details that the new grid cannot hold would fold into false ones
(aliasing), so it is smoothed before. A voxel of size s blurs about like a Gaussian whose full width
at half maximum is s; the blur that is missing between a voxel of size 1 and one of size f has the
variance of their difference, hence sigma = sqrt(f^2 - 1) / (2 sqrt(2 ln 2)) source voxels.

Source: M. J. Cardoso, M. Modat, T. Vercauteren, S. Ourselin, "Scale Factor Point Spread Function
Matching: Beyond Aliasing in Image Resampling", MICCAI 2015, doi:10.1007/978-3-319-24571-3_81.
"""

from __future__ import annotations

from math import floor, log, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepseg.data.volumes import Geometry
from deepseg.geometry.boxes import Int3

_SAME_GRID = 1e-3  # in voxels; grids that differ by less, by rounding in headers, are one
_SMOOTHED_FROM = 1.5  # a smaller loss of resolution is left to the linear interpolation
_WIDTH_PER_SIGMA = 2 * sqrt(2 * log(2))  # full width of a Gaussian at half its maximum


def resampled_geometry(
    geometry: Geometry, spacing_mm: float | tuple[float, float, float]
) -> Geometry:
    """The grid with voxels of ``spacing_mm`` over the same field of view, axes and centre.

    The field of view is rounded to whole voxels, at least one along each axis.

    Args:
        spacing_mm: One side for cubes, or the sides along the axes of the volume.
    """
    sides = spacing_mm if isinstance(spacing_mm, tuple) else (spacing_mm,) * 3
    ratios = np.array(sides) / geometry.spacing_mm
    x, y, z = (
        max(1, floor(round(n / ratio, 6) + 0.5))
        for n, ratio in zip(geometry.shape, ratios, strict=True)
    )
    matrix = geometry.affine[:3, :3]
    centre_mm = matrix @ _centre(geometry.shape)
    affine = geometry.affine.copy()
    affine[:3, :3] = matrix * ratios
    affine[:3, 3] += centre_mm - affine[:3, :3] @ _centre((x, y, z))
    return Geometry((x, y, z), affine)


def resample(
    array: npt.NDArray[Any], source: Geometry, target: Geometry, *, order: Literal[0, 1]
) -> npt.NDArray[Any]:
    """``array`` on the grid of ``target``; voxels outside the source take the nearest edge.

    Args:
        array: ``(X, Y, Z)`` or ``(C, X, Y, Z)`` on the grid of ``source``.
        order: 0 takes the nearest voxel, for labels and masks; 1 interpolates linearly, for images
            and probabilities, and smooths before where the target is coarser.

    Returns:
        ``(X, Y, Z)`` or ``(C, X, Y, Z)`` of ``target``; float32 for order 1, else of the same type.
    """
    values = array if order == 0 else array.astype(np.float32)
    if _is_same_grid(source, target):
        return values.copy()
    if array.ndim == 4:
        return np.stack([resample(channel, source, target, order=order) for channel in values])
    to_source = np.linalg.inv(source.affine) @ target.affine
    if order > 0:
        values = _smoothed(values, np.linalg.norm(to_source[:3, :3], axis=1))
    # Rounded, so that a voxel half way between two others goes the same way along a whole axis.
    matrix, offset = np.round(to_source[:3, :3], 9), np.round(to_source[:3, 3], 9)
    is_diagonal = np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    resampled: npt.NDArray[Any] = ndimage.affine_transform(
        values,
        np.diag(matrix) if is_diagonal else matrix,  # axis by axis is much faster
        offset,
        output_shape=target.shape,
        order=order,
        mode="nearest",
    )
    return resampled


def _smoothed(
    image: npt.NDArray[np.float32], factors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """``image`` with the blur of voxels ``factors`` times as large, along axes that need it."""
    sigmas = [sqrt(f**2 - 1) / _WIDTH_PER_SIGMA if f > _SMOOTHED_FROM else 0.0 for f in factors]
    smooth: npt.NDArray[np.float32] = ndimage.gaussian_filter(image, sigmas, mode="nearest")
    return smooth


def _is_same_grid(one: Geometry, other: Geometry) -> bool:
    return one.shape == other.shape and one.distance_mm(other) <= _SAME_GRID * min(one.spacing_mm)


def _centre(shape: Int3) -> npt.NDArray[np.float64]:
    """Index of the middle of the volume; it may lie between two voxels."""
    return np.array(shape) / 2 - 0.5
