"""Reading voxels of an image at the points of a lattice, inside and beyond its border.

The rule of the border: as far as ``margin`` voxels beyond the image, it is mirrored (the edge is
not repeated, as numpy's ``reflect``); further out, every channel has its ``outside`` value, the
mean of the eight corners of the image mirrored that far. Arrays are ``(C, X, Y, Z)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from deepseg.geometry.boxes import Int3
from deepseg.geometry.context import Lattice

Margin = tuple[Int3, Int3]


@dataclass(frozen=True)
class Turn:
    """Axes exchanged and reversed: image axis ``a`` runs along lattice axis ``axes[a]``.

    Attributes:
        axes: A permutation of (0, 1, 2).
        signs: 1, or -1 where the direction is reversed.
    """

    axes: Int3 = (0, 1, 2)
    signs: Int3 = (1, 1, 1)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The same as ``(3, 3)``: image offset = matrix @ lattice offset."""
        matrix = np.zeros((3, 3))
        for row, (axis, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            matrix[row, axis] = sign
        return matrix

    def then(self, later: Turn) -> Turn:
        """This turn applied first, ``later`` to its result."""
        x, y, z = (self.axes[axis] for axis in later.axes)
        i, j, k = (
            sign * self.signs[axis] for axis, sign in zip(later.axes, later.signs, strict=True)
        )
        return Turn((x, y, z), (i, j, k))


NO_TURN = Turn()


def mirrored(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Voxel of an axis of ``size`` that stands at ``position`` when it is mirrored for ever."""
    if size == 1:
        return np.zeros_like(position)
    period = 2 * (size - 1)
    inside = position % period
    return np.minimum(inside, period - inside)


def outside_values(image: NDArray[np.float32], margin: Margin) -> NDArray[np.float32]:
    """``(C,)``: the mean of the eight corners of ``image`` mirrored by ``margin``."""
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
    turn: Turn = NO_TURN,
    centre2: Int3 = (0, 0, 0),
) -> NDArray[np.float32]:
    """``(C, *points.count)``: the voxels of ``image`` at ``points``.

    Args:
        image: ``(C, X, Y, Z)``.
        points: Where to read.
        margin: Voxels before and behind the image that are mirrored.
        turn: Applied to the points about the centre before reading.
        centre2: Twice the centre of the turn, so that it may lie between voxels.
    """
    if turn == NO_TURN and _is_inside(points, image.shape[1:]):
        x, y, z = (
            slice(a, a + s * n, s)
            for a, s, n in zip(points.start, points.step, points.count, strict=True)
        )
        return np.ascontiguousarray(image[:, x, y, z])
    positions = turned_positions(points, turn, centre2)
    taken = [mirrored(p, n) for p, n in zip(positions, image.shape[1:], strict=True)]
    block = image[:, taken[0][:, None, None], taken[1][:, None], taken[2]]
    beyond = [
        (p < -low) | (p >= n + high)
        for p, n, low, high in zip(positions, image.shape[1:], *margin, strict=True)
    ]
    if any(b.any() for b in beyond):
        outside = beyond[0][:, None, None] | beyond[1][:, None] | beyond[2]
        block[:, outside] = outside_values(image, margin)[:, None]
    return np.ascontiguousarray(block.transpose(0, *(1 + _order(turn))))


def read_labels(
    labels: NDArray[np.integer],
    points: Lattice,
    *,
    turn: Turn = NO_TURN,
    centre2: Int3 = (0, 0, 0),
) -> NDArray[np.int16]:
    """``points.count``: labels at ``points``, -1 (unknown) beyond the image."""
    positions = turned_positions(points, turn, centre2)
    taken = [p.clip(0, n - 1) for p, n in zip(positions, labels.shape, strict=True)]
    block = labels[taken[0][:, None, None], taken[1][:, None], taken[2]].astype(np.int16)
    unknown = [(p < 0) | (p >= n) for p, n in zip(positions, labels.shape, strict=True)]
    block[unknown[0][:, None, None] | unknown[1][:, None] | unknown[2]] = -1
    return np.ascontiguousarray(block.transpose(_order(turn)))


def turned_positions(points: Lattice, turn: Turn, centre2: Int3) -> list[NDArray[np.int64]]:
    """Voxels along each image axis, in the order in which the turned lattice visits them."""
    positions = []
    for image_axis in range(3):
        axis, sign = turn.axes[image_axis], turn.signs[image_axis]
        straight = points.start[axis] + points.step[axis] * np.arange(points.count[axis])
        doubled = sign * (2 * straight - centre2[axis]) + centre2[image_axis]
        positions.append(doubled // 2)
    return positions


def _order(turn: Turn) -> NDArray[np.int64]:
    """Transposition from image axes back to lattice axes."""
    return np.argsort(turn.axes)


def _is_inside(points: Lattice, shape: tuple[int, ...]) -> bool:
    return all(
        a >= 0 and last < n for a, last, n in zip(points.start, points.last, shape, strict=True)
    )


def interpolated(
    image: NDArray[np.float32], coordinates: NDArray[np.float64], margin: Margin
) -> NDArray[np.float32]:
    """``(C, *count)``: ``image`` at fractional ``coordinates``, linearly, with the border rule.

    Args:
        image: ``(C, X, Y, Z)``; only the voxels needed are touched, so it may be a file on disk.
        coordinates: ``(*count, 3)`` in voxels.
        margin: Voxels before and behind the image that are mirrored.
    """
    shape = np.array(image.shape[1:])
    scaled = coordinates * (2.0 / np.maximum(shape - 1, 1)) - 1.0
    grid = torch.from_numpy(np.ascontiguousarray(scaled[..., ::-1], dtype=np.float32))
    found = F.grid_sample(
        torch.from_numpy(image)[None], grid[None], mode="bilinear", padding_mode="reflection",
        align_corners=True,
    )  # fmt: skip
    block = found[0].numpy()
    beyond = ((coordinates < -np.array(margin[0])) | (coordinates > shape - 1 + margin[1])).any(-1)
    if beyond.any():
        block[:, beyond] = outside_values(image, margin)[:, None]
    return np.asarray(block)


def nearest_labels(
    labels: NDArray[np.integer], coordinates: NDArray[np.float64]
) -> NDArray[np.int16]:
    """``count``: the labels nearest to ``coordinates (*count, 3)``, -1 beyond the image."""
    nearest = np.rint(coordinates).astype(np.int64)
    shape = np.array(labels.shape)
    x, y, z = np.moveaxis(nearest.clip(0, shape - 1), -1, 0)
    block = labels[x, y, z].astype(np.int16)
    block[((nearest < 0) | (nearest >= shape)).any(-1)] = -1
    return np.asarray(block)
