"""Convolutions of three axes with fewer multiplications, as matrix products.

Along an axis, a kernel of r voxels makes m results from m + r - 1 products instead of m r: image
and kernel are evaluated at so many points, multiplied there, and the results are read off. Each of
these steps is a matrix along one axis, and between them stands one matrix product over the feature
maps for every point. Runtimes have quick matrix products, but no quick convolutions of three axes
whose kernels change from step to step.

Inside, axes are in the order ``(X, Y, Z, N, C)``, so that what a product reads is contiguous.

Sources: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
doi:10.1109/CVPR.2016.435; of the points: B. Barabasz et al., "Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks", ACM TOMS 46(4), 2020,
doi:10.1145/3412380.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.gradients.arithmetic import reshape, transpose
from deepseg.exports.gradients.resampling import along_axis
from deepseg.exports.gradients.tape import Tape, Variable
from deepseg.model.graph.operators.window import SlidingWindow

POINTS = {
    4: (0.0, 1.0, -1.0),
    5: (0.4, -0.4, 1.25, -1.25),
    6: (0.0, 0.75, -0.75, 1.5, -1.5),
}
"""Points by their number, with infinity as the last of them; rounding errors are small there."""

FEWEST_MAPS = 8  # fewer make matrix products too thin to gain anything


@dataclass(frozen=True)
class MinimalFiltering:
    """``y = results @ ((kernel @ w) * (image @ x))``: m results of r taps from n products.

    Attributes:
        kernel: ``(n, r)``.
        image: ``(n, n)``.
        results: ``(m, n)``.
    """

    kernel: NDArray[np.float64]
    image: NDArray[np.float64]
    results: NDArray[np.float64]

    @classmethod
    def of(cls, results: int, taps: int) -> MinimalFiltering:
        """The algorithm for ``results`` values of a kernel of ``taps`` voxels.

        >>> rule = MinimalFiltering.of(2, 3)
        >>> products = (rule.kernel @ [1, 10, 100]) * (rule.image @ [1, 2, 3, 4])
        >>> (rule.results @ products).round(9).tolist()  # 1 + 20 + 300, 2 + 30 + 400
        [321.0, 432.0]
        """
        count = results + taps - 1
        kernel, values = _powers(count, taps), _powers(count, results)
        image = np.linalg.inv(_powers(count, count)).T
        ratio = np.linalg.norm(image, axis=1) / np.linalg.norm(kernel, axis=1)
        balance = 2.0 ** np.round(np.log2(ratio) / 2)[:, None]  # factors of 2 cost no precision
        return cls(kernel * balance, image / balance, values.T)


def _powers(count: int, degrees: int) -> NDArray[np.float64]:
    """``(count, degrees)``: the powers of every point; of infinity, the highest one counts."""
    powers = np.zeros((count, degrees))
    powers[:-1] = np.power.outer(POINTS[count], range(degrees))
    powers[-1, -1] = 1
    return powers


@dataclass(frozen=True)
class AxisTiles:
    """Tiles of one axis, which overlap in the image and follow each other in the result.

    Attributes:
        image: ``(n tiles, voxels)``: the products of every tile from the image, borders included.
        kernel: ``(n, taps)``.
        results: ``(size, n tiles)``.
        tiles: Their number.
    """

    image: NDArray[np.float32]
    kernel: NDArray[np.float32]
    results: NDArray[np.float32]
    tiles: int

    @property
    def points(self) -> int:
        """Products of a tile."""
        return len(self.kernel)

    @classmethod
    def of(cls, voxels: int, taps: int, low: int, high: int) -> AxisTiles:
        """The tiles with the fewest products.

        Args:
            voxels: Of the image along the axis.
            taps: Of the kernel.
            low: Zeros before the image.
            high: Zeros after it.

        >>> AxisTiles.of(9, 3, 0, 0).tiles, AxisTiles.of(9, 3, 0, 0).points  # 7 results: 4 + 3
        (2, 6)
        """
        size = voxels + low + high - taps + 1
        if taps == 1:
            whole = np.eye(low + voxels + high, dtype=np.float32)
            inside = slice(low, low + voxels)
            return cls(whole[:, inside], np.ones((1, 1), np.float32), whole, size)
        lengths = (points - taps + 1 for points in POINTS if points > taps)
        length = min(lengths, key=lambda m: -(-size // m) * (m + taps - 1))
        rule, tiles = MinimalFiltering.of(length, taps), -(-size // length)
        points = len(rule.kernel)
        image = np.zeros((points, tiles, low + voxels + high + length))
        results = np.zeros((tiles * length, points, tiles))
        for tile in range(tiles):
            begin = tile * length
            image[:, tile, begin : begin + points] = rule.image
            results[begin : begin + length, :, tile] = rule.results
        return cls(
            image[:, :, low : low + voxels].reshape(-1, voxels).astype(np.float32),
            rule.kernel.astype(np.float32),
            results[:size].reshape(size, -1).astype(np.float32),
            tiles,
        )


def is_suited(weight: Variable, window: SlidingWindow) -> bool:
    """True of dense kernels ``(F, C, X, Y, Z)`` for which the matrix products are quicker."""
    features, maps, *kernel = weight.shape
    is_dense = all(n == 1 for n in (*window.stride, *window.dilation))
    is_small = max(kernel) < max(POINTS) and sum(n > 1 for n in kernel) > 1
    return len(kernel) == 3 and is_dense and is_small and min(features, maps) >= FEWEST_MAPS


def winograd_convolution(
    tape: Tape, x: Variable, weight: Variable, window: SlidingWindow
) -> Variable:
    """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')`` with a kernel ``(F, C, …)`` that is suited."""
    batch, maps, *size = x.shape
    borders = zip(window.low, window.high, strict=True)
    axes = [
        AxisTiles.of(voxels, taps, low, high)
        for voxels, taps, (low, high) in zip(size, window.kernel, borders, strict=True)
    ]
    rows = transpose(tape, reshape(tape, x, (batch * maps, prod(size))), (1, 0))
    image = reshape(tape, rows, (*size, batch, maps))
    kernel = transpose(tape, weight, (2, 3, 4, 1, 0))
    for axis, tiles in enumerate(axes):
        image = along_axis(tape, image, axis, tiles.image)
        kernel = along_axis(tape, kernel, axis, tiles.kernel)
    y = _products(tape, image, kernel, axes)
    for axis, tiles in reversed(list(enumerate(axes))):
        y = along_axis(tape, y, axis, tiles.results)
    features, size = y.shape[4], list(y.shape[:3])
    columns = transpose(tape, reshape(tape, y, (prod(size), batch * features)), (1, 0))
    return reshape(tape, columns, (batch, features, *size))


def _products(tape: Tape, image: Variable, kernel: Variable, axes: list[AxisTiles]) -> Variable:
    """The product over the maps, for every point of every tile: ``(…, N, C)`` to ``(…, N, F)``."""
    a, b, c = (tiles.points for tiles in axes)
    i, j, k = (tiles.tiles for tiles in axes)
    maps, features = kernel.shape[3:]
    rows = k * image.shape[3]
    left = reshape(tape, image, (a, i, b, j, c, rows, maps))
    right = reshape(tape, kernel, (a, 1, b, 1, c, maps, features))
    y = tape.call("MatMul", [left, right], (a, i, b, j, c, rows, features))

    def by_point(x: Variable) -> Variable:
        ordered = transpose(tape, x, (0, 2, 4, 1, 3, 5, 6))
        return reshape(tape, ordered, (a * b * c, i * j * rows, x.shape[6]))

    def back_to_image(g: Variable) -> Variable:
        turned = transpose(tape, right, (0, 1, 2, 3, 4, 6, 5))
        g = reshape(tape, g, y.shape)
        return reshape(tape, tape.call("MatMul", [g, turned], left.shape), image.shape)

    def back_to_kernel(g: Variable) -> Variable:
        turned = transpose(tape, by_point(left), (0, 2, 1))
        g = by_point(reshape(tape, g, y.shape))
        return reshape(
            tape, tape.call("MatMul", [turned, g], (a * b * c, maps, features)), kernel.shape
        )

    result = reshape(tape, y, (*image.shape[:4], features))
    return tape.record(result, (image, back_to_image), (kernel, back_to_kernel))
