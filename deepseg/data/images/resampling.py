"""One volume on another grid of voxels.

Only arrays and geometries are known here: neither files, nor the meaning of values beyond the order
of interpolation. Millimetres are RAS, as in `deepseg.data.images.volumes`.

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

from deepseg.data.images.volumes import Geometry
from deepseg.geometry.boxes import Box, Int3

_SAME_GRID = 1e-3  # in voxels; grids that differ by less, by rounding in headers, are one
_SMOOTHED_FROM = 1.5  # a smaller loss of resolution is left to the linear interpolation
_SIGMAS = 4.0  # how far the smoothing reaches
_WIDTH_PER_SIGMA = 2 * sqrt(2 * log(2))  # full width of a Gaussian at half its maximum


def resampled_geometry(
    geometry: Geometry, spacing_mm: float | tuple[float, float, float]
) -> Geometry:
    """The grid with voxels of ``spacing_mm`` over the same field of view, axes and centre.

    The field of view is rounded to whole voxels, at least one along each axis.

    Args:
        spacing_mm: One side for cubes, or the sides along the axes of the volume.

    >>> coarser = resampled_geometry(Geometry((10, 10, 5), np.diag([1, 1, 2, 1])), 2.0)
    >>> coarser.shape, coarser.spacing_mm
    ((5, 5, 5), (2.0, 2.0, 2.0))
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
    smooth: npt.NDArray[np.float32] = ndimage.gaussian_filter(
        image, [_sigma(f) for f in factors], mode="nearest", truncate=_SIGMAS
    )
    return smooth


def _sigma(factor: float) -> float:
    return sqrt(factor**2 - 1) / _WIDTH_PER_SIGMA if factor > _SMOOTHED_FROM else 0.0


def voxels_read(
    mask: npt.NDArray[np.bool_], source: Geometry, target: Geometry
) -> npt.NDArray[np.bool_]:
    """Every voxel of ``source`` that linear resampling reads for those of ``target`` in ``mask``.

    Args:
        mask: ``(X, Y, Z)`` on the grid of ``target``, whose axes are those of ``source``.

    Returns:
        ``(X, Y, Z)`` of ``source``.
    """
    read = mask
    for axis, (first, last) in enumerate(_spans(source, target)):
        before = np.moveaxis(read, axis, 0)
        after = np.zeros((source.shape[axis], *before.shape[1:]), bool)
        for plane, begin, end in zip(before, first, last, strict=True):
            after[begin : end + 1] |= plane
        read = np.moveaxis(after, 0, axis)
    return np.ascontiguousarray(read)


def box_read(box: Box, source: Geometry, target: Geometry) -> Box:
    """The box of ``source`` that linear resampling reads for a ``box`` of ``target``."""
    ends = [
        (int(first[a]), int(last[b - 1]) + 1)
        for (first, last), a, b in zip(_spans(source, target), box.start, box.stop, strict=True)
    ]
    (x0, x1), (y0, y1), (z0, z1) = ends
    return Box((x0, y0, z0), (x1 - x0, y1 - y0, z1 - z0))


def cropped_geometry(geometry: Geometry, box: Box) -> Geometry:
    """The grid of the voxels of ``box`` alone.

    >>> geometry = Geometry((9, 9, 9), np.diag([2, 2, 2, 1]))
    >>> crop = cropped_geometry(geometry, Box((1, 2, 3), (4, 5, 6)))
    >>> crop.shape, crop.affine[:3, 3].tolist()
    ((4, 5, 6), [2.0, 4.0, 6.0])
    """
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(box.start)
    return Geometry(box.size, affine)


def _spans(
    source: Geometry, target: Geometry
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Along each axis: the first and the last voxel of ``source`` read for each of ``target``."""
    to_source = np.linalg.inv(source.affine) @ target.affine
    spans = []
    for axis, n in enumerate(source.shape):
        factor, offset = to_source[axis, axis], to_source[axis, 3]
        places = np.round(factor * np.arange(target.shape[axis]) + offset, 6).clip(0, n - 1)
        reach = int(_SIGMAS * _sigma(abs(factor)) + 0.5)
        first, last = np.floor(places).astype(int) - reach, np.ceil(places).astype(int) + reach
        spans.append((first.clip(0, n - 1), last.clip(0, n - 1)))
    return spans


def _is_same_grid(first: Geometry, second: Geometry) -> bool:
    if first.shape != second.shape:
        return False
    return first.distance_mm(second) <= _SAME_GRID * min(first.spacing_mm)


def _centre(shape: Int3) -> npt.NDArray[np.float64]:
    """Index of the middle of the volume; it may lie between two voxels."""
    return np.array(shape) / 2 - 0.5
