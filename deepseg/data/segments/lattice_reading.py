"""Reading voxels of an image at the points of a lattice, inside and beyond its border.

The rule of the border: as far as ``margin`` voxels beyond the image, it is mirrored (the edge is
not repeated, as numpy's ``reflect``); further out, every channel has its ``outside`` value, the
mean of the eight corners of the image mirrored that far. Arrays are ``(C, X, Y, Z)``.

Images are read through flat indices, by `numpy.take`: for single voxels of a large image, mapped
from a file perhaps, nothing is quicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Int3
from deepseg.geometry.context import Lattice

CHUNK = 16384  # points between voxels: what is computed of them stays in the processor's cache

Margin = tuple[Int3, Int3]
Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class AxisPermutation:
    """Axes exchanged and reversed: image axis ``a`` runs along lattice axis ``axes[a]``.

    Attributes:
        axes: A permutation of (0, 1, 2).
        signs: 1, or -1 where the direction is reversed.

    >>> mirror_x = AxisPermutation(signs=(-1, 1, 1))
    >>> exchange_xy = AxisPermutation(axes=(1, 0, 2))
    >>> mirror_x.then(exchange_xy)
    AxisPermutation(axes=(1, 0, 2), signs=(1, -1, 1))
    >>> mirror_x.then(mirror_x) == AxisPermutation()
    True
    """

    axes: Int3 = (0, 1, 2)
    signs: Int3 = (1, 1, 1)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """``(3, 3)``: image offset = matrix @ lattice offset.

        >>> AxisPermutation(axes=(1, 0, 2), signs=(1, 1, -1)).matrix @ [10, 20, 30]
        array([ 20.,  10., -30.])
        """
        matrix = np.zeros((3, 3))
        for row, (axis, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            matrix[row, axis] = sign
        return matrix

    def then(self, later: AxisPermutation) -> AxisPermutation:
        """The permutation that applies this one first and ``later`` to its result."""
        x, y, z = (self.axes[axis] for axis in later.axes)
        i, j, k = (
            sign * self.signs[axis] for axis, sign in zip(later.axes, later.signs, strict=True)
        )
        return AxisPermutation((x, y, z), (i, j, k))


IDENTITY_AXES = AxisPermutation()


def mirrored(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Voxel of an axis of ``size`` that stands at ``position`` when it is mirrored for ever.

    >>> mirrored(np.array([-2, -1, 0, 1, 2, 3, 4]), 3)
    array([2, 1, 0, 1, 2, 1, 0])
    """
    if size == 1:
        return np.zeros_like(position)
    period = 2 * (size - 1)
    inside = position % period
    return np.minimum(inside, period - inside)


def outside_values(image: NDArray[np.float32], margin: Margin) -> NDArray[np.float32]:
    """``(C,)``: the mean of the eight corners of ``image`` mirrored by ``margin``.

    >>> image = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    >>> outside_values(image, ((0, 0, 0), (0, 0, 0)))
    array([3.5], dtype=float32)
    """
    ends = [
        mirrored(np.array([-low, n - 1 + high]), n)
        for low, high, n in zip(*margin, image.shape[1:], strict=True)
    ]
    corners = [image[:, x, y, z] for x, y, z in product(*ends)]
    return np.asarray(np.mean(corners, axis=0, dtype=np.float64), dtype=np.float32)


def read(
    image: NDArray[np.float32],
    points: Lattice,
    margin: Margin,
    *,
    permutation: AxisPermutation = IDENTITY_AXES,
    doubled_centre: Int3 = (0, 0, 0),
) -> NDArray[np.float32]:
    """``(C, *points.count)``: the voxels of ``image`` at ``points``.

    Args:
        image: ``(C, X, Y, Z)``.
        points: Where to read.
        margin: Voxels before and after the image that are mirrored.
        permutation: Applied to the points about the centre before reading.
        doubled_centre: Twice the centre of the permutation, so that it may lie between voxels.

    >>> image = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    >>> points = Lattice(start=(-1, 0, 0), step=(2, 1, 1), count=(4, 1, 1))
    >>> read(image, points, ((1, 0, 0), (0, 0, 0))).ravel()  # 5 is outside: mean of 1 and 3
    array([1., 1., 3., 2.], dtype=float32)
    """
    if permutation == IDENTITY_AXES and _is_inside(points, image.shape[1:]):
        x, y, z = (
            slice(a, a + s * n, s)
            for a, s, n in zip(points.start, points.step, points.count, strict=True)
        )
        return np.ascontiguousarray(image[:, x, y, z])
    positions = permuted_positions(points, permutation, doubled_centre)
    voxels = [mirrored(p, n) for p, n in zip(positions, image.shape[1:], strict=True)]
    block = _at(image, _flat(_along_lattice(voxels, permutation), image.shape[1:]))
    beyond = [
        (p < -low) | (p >= n + high)
        for p, n, low, high in zip(positions, image.shape[1:], *margin, strict=True)
    ]
    if any(b.any() for b in beyond):
        out_x, out_y, out_z = _along_lattice(beyond, permutation)
        block[:, out_x | out_y | out_z] = outside_values(image, margin)[:, None]
    return block


def read_labels(
    labels: NDArray[np.integer],
    points: Lattice,
    *,
    permutation: AxisPermutation = IDENTITY_AXES,
    doubled_centre: Int3 = (0, 0, 0),
) -> NDArray[np.int16]:
    """``points.count``: labels at ``points``, -1 (unknown) beyond the image.

    >>> labels = np.array([5, 6, 7]).reshape(3, 1, 1)
    >>> read_labels(labels, Lattice((1, 0, 0), (1, 1, 1), (3, 1, 1))).ravel()
    array([ 6,  7, -1], dtype=int16)
    """
    positions = permuted_positions(points, permutation, doubled_centre)
    voxels = [p.clip(0, n - 1) for p, n in zip(positions, labels.shape, strict=True)]
    block = _labels_at(labels, _flat(_along_lattice(voxels, permutation), labels.shape))
    unknown = [(p < 0) | (p >= n) for p, n in zip(positions, labels.shape, strict=True)]
    x, y, z = _along_lattice(unknown, permutation)
    block[x | y | z] = -1
    return block


def permuted_positions(
    points: Lattice, permutation: AxisPermutation, doubled_centre: Int3
) -> list[NDArray[np.int64]]:
    """Voxels along each image axis, in the order in which the permuted lattice visits them."""
    positions = []
    for image_axis in range(3):
        axis, sign = permutation.axes[image_axis], permutation.signs[image_axis]
        straight = points.start[axis] + points.step[axis] * np.arange(points.count[axis])
        doubled = sign * (2 * straight - doubled_centre[axis]) + doubled_centre[image_axis]
        positions.append(doubled // 2)
    return positions


def _along_lattice(
    arrays: Sequence[NDArray[Value]], permutation: AxisPermutation
) -> list[NDArray[Value]]:
    """The array of each image axis, in shapes that broadcast to the permuted lattice."""
    shapes = np.where(np.array(permutation.axes)[:, None] == np.arange(3), -1, 1)
    return [array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)]


def _flat(voxels: Sequence[NDArray[np.number[Any]]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Flat indices into an image of ``shape`` from whole voxels along X, Y and Z."""
    x, y, z = voxels
    return ((x * shape[1] + y) * shape[2] + z).astype(np.int64, copy=False)


def _at(image: NDArray[np.float32], flat: NDArray[np.int64]) -> NDArray[np.float32]:
    """``(C, *flat.shape)``: the voxels of all channels at flat indices."""
    block = np.empty((len(image), *flat.shape), np.float32)
    for channel, values in zip(image, block, strict=True):
        channel.reshape(-1).take(flat, out=values, mode="clip")  # unbuffered, unlike "raise"
    return block


def _labels_at(labels: NDArray[np.integer], flat: NDArray[np.int64]) -> NDArray[np.int16]:
    """``flat.shape``: the labels at flat indices."""
    return np.asarray(labels.reshape(-1).take(flat), dtype=np.int16)


def _is_inside(points: Lattice, shape: tuple[int, ...]) -> bool:
    return all(
        a >= 0 and last < n for a, last, n in zip(points.start, points.last, shape, strict=True)
    )


def interpolated(
    image: NDArray[np.float32],
    coordinates: NDArray[np.float64],
    margin: Margin,
    *,
    chunk: int = CHUNK,
) -> NDArray[np.float32]:
    """``(C, *count)``: ``image`` at fractional ``coordinates``, linearly, with the border rule.

    Args:
        image: ``(C, X, Y, Z)``; only the voxels needed are touched, so it may be a file on disk.
        coordinates: ``(3, *count)`` in voxels.
        margin: Voxels before and after the image that are mirrored.
        chunk: Points that are computed together; it changes no bit of the result.

    >>> image = np.array([0, 10, 30], np.float32).reshape(1, 3, 1, 1)
    >>> places = np.array([[0.5, 1.25], [0, 0], [0, 0]])
    >>> interpolated(image, places, ((0, 0, 0), (0, 0, 0)))
    array([[ 5., 15.]], dtype=float32)
    """
    points = coordinates.reshape(3, -1)
    channels = [channel.reshape(-1) for channel in np.asarray(image)]
    block = np.empty((len(image), points.shape[1]), np.float32)
    for begin in range(0, points.shape[1], chunk):
        piece = slice(begin, begin + chunk)
        _interpolate(channels, image.shape[1:], points[:, piece], out=block[:, piece])
    beyond = _beyond(points, image.shape[1:], margin)
    if beyond is not None:
        block[:, beyond] = outside_values(image, margin)[:, None]
    return block.reshape(-1, *coordinates.shape[1:])


def _interpolate(
    channels: Sequence[NDArray[np.float32]],
    shape: tuple[int, ...],
    points: NDArray[np.float64],
    *,
    out: NDArray[np.float32],
) -> None:
    """Write flat ``channels`` at ``points (3, N)`` into ``out (C, N)``, mirrored at the borders."""
    folded = [_folded(position, n) for position, n in zip(points, shape, strict=True)]
    # The last voxel of an axis is met as the upper neighbour of the one before it.
    lower = [np.minimum(np.floor(a), max(n - 2, 0)) for a, n in zip(folded, shape, strict=True)]
    weights = [(a - b).astype(np.float32) for a, b in zip(folded, lower, strict=True)]
    flat, steps = _flat(lower, shape), _steps(shape)
    for channel, values in zip(channels, out, strict=True):
        values[:] = _between(channel, flat, weights, steps)


def _folded(position: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Distance from ``position``, which may lie between voxels, to the nearest mirrored voxel 0."""
    if size == 1:
        return np.zeros_like(position)
    if position.min() >= 0 and position.max() <= size - 1:
        return position
    period = 2.0 * (size - 1)
    return np.abs(position - period * np.rint(position / period))


def _steps(shape: tuple[int, ...]) -> list[int]:
    """Step from a flat index to the next voxel along X, Y, Z; 0 where there is only one."""
    strides = (shape[1] * shape[2], shape[2], 1)
    return [step if n > 1 else 0 for step, n in zip(strides, shape, strict=True)]


def _between(
    voxels: NDArray[np.float32],
    flat: NDArray[np.int64],
    weights: Sequence[NDArray[np.float32]],
    steps: Sequence[int],
) -> NDArray[np.float32]:
    """Linear interpolation from ``flat`` one voxel on, along all axes that are left."""
    if not steps:
        return voxels.take(flat)
    here = _between(voxels, flat, weights[1:], steps[1:])
    there = _between(voxels[steps[0] :], flat, weights[1:], steps[1:])
    there -= here
    there *= weights[0]
    there += here
    return there


def _beyond(
    coordinates: NDArray[np.float64], shape: tuple[int, ...], margin: Margin
) -> NDArray[np.bool_] | None:
    """``count``: True for points that lie further out than the margin; None if none does."""
    beyond = None
    for position, n, low, high in zip(coordinates, shape, *margin, strict=True):
        if position.min() < -low or position.max() > n - 1 + high:
            out = (position < -low) | (position > n - 1 + high)
            beyond = out if beyond is None else beyond | out
    return beyond


def nearest_labels(
    labels: NDArray[np.integer], coordinates: NDArray[np.float64]
) -> NDArray[np.int16]:
    """``count``: the labels nearest to ``coordinates (3, *count)``, -1 beyond the image.

    >>> labels = np.array([5, 6, 7]).reshape(3, 1, 1)
    >>> nearest_labels(labels, np.array([[0.4, 0.6, 2.6], [0, 0, 0], [0, 0, 0]]))
    array([ 5,  6, -1], dtype=int16)
    """
    nearest = [np.rint(position) for position in coordinates]
    voxels = [position.clip(0, n - 1) for position, n in zip(nearest, labels.shape, strict=True)]
    block = _labels_at(labels, _flat(voxels, labels.shape))
    for position, voxel in zip(nearest, voxels, strict=True):
        block[position != voxel] = -1
    return block
