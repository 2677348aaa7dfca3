"""Tiles that overlap, averaged with weights that fall off towards their borders.

For networks with padding in their pathways: their voxels near the border of a tile see less than
those in its middle, and count less here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Box, Int3, add, floor_div, per_axis, sub
from deepseg.geometry.context import NetworkGeometry
from deepseg.geometry.tiles import starts, tiles

DEVIATION = 1 / 8  # of the Gaussian, as a share of the tile; doi:10.1038/s41592-020-01008-z
LEAST = 1e-3  # weight of a corner, so that voxels of one tile alone are kept


@dataclass(frozen=True)
class WindowGrid:
    """Where the windows of a case lie, and what surrounds a case that is smaller than one.

    Attributes:
        overlap: Share of the edge of a prediction that it has in common with the next, from 0 to
            below 1; without one, tiles follow each other.
        is_even: All windows lie at about the same distance, as in nnU-Net; otherwise the last one
            is flush with the end of the image, as in MONAI.
        pads_with_zeros: An image smaller than the prediction of a window lies in the middle of one,
            among zeros; otherwise windows are cut down to the image.
        axes: Along which the case is mirrored: windows lie where they do in the case itself.
    """

    overlap: float = 0.0
    is_even: bool = False
    pads_with_zeros: bool = False
    axes: tuple[int, ...] = ()

    def border(self, shape: Int3, tile: Int3, geometry: NetworkGeometry) -> tuple[Int3, Int3]:
        """Voxels of zeros before and after an image.

        Args:
            shape: Of the image.
            tile: Size of a segment.
            geometry: Which voxels the network reads and predicts.
        """
        if not self.pads_with_zeros:
            return (0, 0, 0), (0, 0, 0)
        predicted = geometry.prediction(Box((0, 0, 0), tile)).size
        lacking = per_axis(lambda n, m: max(n - m, 0), predicted, shape)
        half = floor_div(lacking, 2)
        rest = sub(lacking, half)
        low = tuple(rest[a] if a in self.axes else half[a] for a in range(3))
        return (low[0], low[1], low[2]), sub(lacking, (low[0], low[1], low[2]))

    def predicted_size(self, shape: Int3, tile: Int3, geometry: NetworkGeometry) -> Int3:
        """Voxels that a tile predicts of an image that may be smaller than the tile."""
        size = geometry.tile(add(shape, *self.border(shape, tile, geometry)), tile)
        return geometry.prediction(Box((0, 0, 0), size)).size

    def tiles(self, shape: Int3, tile: Int3, geometry: NetworkGeometry) -> list[Box]:
        """Segments whose predictions cover an image, in its voxels; X varies fastest.

        Args:
            shape: Of the image, with its border.
            tile: Size of a segment; cut down to the image with its margin.
            geometry: Which voxels the network reads and predicts.
        """
        if not self.overlap:
            return tiles(shape, tile, geometry)
        low, _ = geometry.margin
        size = geometry.tile(shape, tile)
        predicted = geometry.prediction(Box((0, 0, 0), size)).size
        places = even_starts if self.is_even else regular_starts
        lines = [places(n, m, self.overlap) for n, m in zip(shape, predicted, strict=True)]
        for axis in self.axes:
            lines[axis] = [shape[axis] - predicted[axis] - start for start in lines[axis]]
        x, y, z = lines
        return [Box((a - low[0], b - low[1], c - low[2]), size) for c, b, a in product(z, y, x)]


NO_WINDOWS = WindowGrid()
"""Tiles that follow each other, and no more than that."""


def regular_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First voxels of windows along an axis, the last one flush with the end.

    >>> regular_starts(10, 4, 0.25)
    [0, 3, 6]
    """
    return starts(length, tile, max(1, int(tile * (1 - overlap))))


def even_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First voxels of windows along an axis, all at about the same distance.

    Of three windows, the middle one lies half way between the others; `regular_starts` gives 0, 4
    and 6 here.

    >>> even_starts(14, 8, 0.5)
    [0, 3, 6]
    """
    most = max(length - tile, 0)
    count = math.ceil(most / (tile * (1 - overlap))) + 1
    step = most / max(count - 1, 1)
    return [round(step * n) for n in range(count)]


def window(size: Int3) -> NDArray[np.float32]:
    """``size``: a Gaussian around the middle of a tile that is never below a thousandth.

    Of 8 voxels, the deviation is one voxel: those beside the middle have exp(-1/8), the next ones
    exp(-9/8).

    >>> [round(float(weight), 2) for weight in window((1, 1, 8)).ravel()]
    [0.0, 0.04, 0.32, 0.88, 0.88, 0.32, 0.04, 0.0]
    """
    axes = []
    for n in size:
        distance = (np.arange(n) - (n - 1) / 2) / (n * DEVIATION)
        axes.append(np.exp(-0.5 * distance**2))
    x, y, z = axes
    weights = x[:, None, None] * y[:, None] * z
    return np.asarray(np.maximum(weights, LEAST), np.float32)


class WeightedSum:
    """Class probabilities of tiles, added up with their weights.

    Args:
        classes: Number K of classes.
        shape: Of the image.

    >>> total = WeightedSum(1, (1, 1, 3))
    >>> for start, value, weight in ((0, 0.5, 1), (1, 1, 3)):
    ...     values = np.full((1, 1, 2), value, np.float32)
    ...     total.add(Box((0, 0, start), (1, 1, 2)), [values], np.full_like(values, weight))
    >>> total.finalise()[0].ravel().tolist()  # in the middle: (0.5 + 3 x 1) / 4
    [0.5, 0.875, 1.0]
    """

    def __init__(self, classes: int, shape: Int3) -> None:
        self._sums = [np.zeros(shape, np.float32) for _ in range(classes)]
        self._weights = np.zeros(shape, np.float32)

    def add(
        self, box: Box, probabilities: Sequence[NDArray[np.float32]], weights: NDArray[np.float32]
    ) -> None:
        """Add the maps of all classes, each ``box.size``, with weights of the same size."""
        for total, probability in zip(self._sums, probabilities, strict=True):
            total[box.slices] += probability * weights
        self._weights[box.slices] += weights

    def finalise(self) -> list[NDArray[np.float32]]:
        """``(X, Y, Z)`` means by label, 0 where no tile was; made in place, nothing can follow."""
        np.maximum(self._weights, LEAST, out=self._weights)
        for label in range(len(self._sums)):
            self._sums[label] /= self._weights
        return self._sums
