"""Tiles that overlap, averaged with weights that fall off towards their borders.

For networks with padding in their pathways: their voxels near the border of a tile see less than
those in its middle, and count less here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Box, Int3, add, per_axis
from deepseg.geometry.context import NetworkGeometry
from deepseg.geometry.tiles import starts

DEVIATION = 1 / 8  # of the Gaussian, as a share of the tile; doi:10.1038/s41592-020-01008-z
LEAST = 1e-3  # weight of a corner, so that voxels of one tile alone are kept


def overlapping_tiles(
    shape: Int3, tile: Int3, geometry: NetworkGeometry, overlap: float
) -> list[Box]:
    """Segments whose predictions share at least ``overlap`` of their edge with the next one.

    Args:
        shape: Of the image.
        tile: Size of a segment; cut down to the image with its margin.
        geometry: Which voxels the network reads and predicts.
        overlap: From 0 to below 1.
    """
    low, _ = geometry.margin
    padded = add(shape, geometry.shrink)
    size = geometry.tile(shape, tile)
    predicted = geometry.prediction(Box((0, 0, 0), size)).size
    stride = per_axis(lambda n: max(1, int(n * (1 - overlap))), predicted)
    x, y, z = (starts(n, t, s) for n, t, s in zip(padded, size, stride, strict=True))
    return [Box((a - low[0], b - low[1], c - low[2]), size) for c, b, a in product(z, y, x)]


def predicted_size(shape: Int3, tile: Int3, geometry: NetworkGeometry) -> Int3:
    """Voxels that a tile predicts of an image that may be smaller than the tile."""
    size = geometry.tile(shape, tile)
    return geometry.prediction(Box((0, 0, 0), size)).size


def window(size: Int3) -> NDArray[np.float32]:
    """``size``: a Gaussian that is 1 in the middle of a tile and never below a thousandth.

    Of 8 voxels, the deviation is one voxel: exp(-1) and exp(-3) follow beside the middle.

    >>> [round(float(weight), 2) for weight in window((1, 1, 8)).ravel()]
    [0.0, 0.05, 0.37, 1.0, 1.0, 0.37, 0.05, 0.0]
    """
    axes = []
    for n in size:
        distance = (np.arange(n) - (n - 1) / 2) / (n * DEVIATION)
        axes.append(np.exp(-0.5 * distance**2))
    x, y, z = axes
    weights = x[:, None, None] * y[:, None] * z
    return np.asarray(np.maximum(weights / weights.max(), LEAST), np.float32)


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
