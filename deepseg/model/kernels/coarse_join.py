"""Maps of several resolutions joined in training, without repeating the coarse ones.

Repeating, joining, normalising and convolving come to the same when norm, activation and
convolution act on the coarse maps, and only their results are repeated; batch statistics count
every coarse voxel as often as it would have been repeated. Gradients are those of the plain way, up
to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from deepseg.config.blocks.pathways import Padding
from deepseg.geometry.boxes import Int3, per_axis
from deepseg.geometry.context import Alignment, coarse_size
from deepseg.model.feature_maps import crop_offset, map_size, padded
from deepseg.model.kernels.convolution import LAST, convolved
from deepseg.model.kernels.fused_activation import Preactivation
from deepseg.model.kernels.repeated_convolution import add_repeated_convolution, add_repeated_middle
from deepseg.model.kernels.statistics import (
    Statistics,
    batch_statistics,
    weighted_statistics,
)


class MultiScaleMaps:
    """Outputs of the parallel pathways, which stand for the maps that are joined of them.

    Args:
        outputs: ``(N, C, X, Y, Z)`` of each pathway at its own resolution, the normal one first.
        factors: Of each pathway.

    Attributes:
        pieces: The outputs, without coarse voxels that lie beyond the joined maps.
        slices: Which of the joined maps each of them stands for.
    """

    def __init__(self, outputs: Sequence[Tensor], factors: Sequence[Int3]) -> None:
        self._size = map_size(outputs[0])
        self._factors = factors
        sizes = [coarse_size(self._size, factor) for factor in factors]
        self.pieces = [y[:, :, :a, :b, :c] for y, (a, b, c) in zip(outputs, sizes, strict=True)]
        ends = accumulate((y.shape[1] for y in outputs), initial=0)
        self.slices = [slice(begin, end) for begin, end in pairwise(ends)]

    def statistics(self, epsilon: float, preactivation: Preactivation) -> list[Statistics]:
        """Mean and variance of each piece, as they are in the joined maps."""
        return [
            batch_statistics(piece.detach(), epsilon)
            if factor == (1, 1, 1) and preactivation.is_fused(piece)
            else weighted_statistics(piece, _copies(self._size, factor, piece), epsilon)
            for piece, factor in zip(self.pieces, self._factors, strict=True)
        ]

    def convolved(self, values: Sequence[Tensor], kernel: Tensor, padding: Padding) -> Tensor:
        """Convolution of the joined maps.

        Args:
            values: The pieces as they are convolved: normalised and activated.
            kernel: ``(F, C, kx, ky, kz)``.
            padding: What is around the joined maps.
        """
        normal, *coarse = (
            (x, kernel[:, maps], factor)
            for x, maps, factor in zip(values, self.slices, self._factors, strict=True)
        )
        x, weight, _ = normal
        x = padded(x, map_size(kernel), padding).contiguous(memory_format=LAST)
        y = convolved(x, weight.to(x.dtype))
        for x, weight, factor in coarse:
            y = add_repeated_convolution(y, x, weight, factor, padding, self._size)
        return y

    def added_to(self, y: Tensor, alignment: Alignment) -> Tensor:
        """``y`` plus the middle of the joined maps, in place; surplus maps are cut."""
        offset = per_axis(partial(crop_offset, alignment=alignment), self._size, map_size(y))
        for piece, maps, factor in zip(self.pieces, self.slices, self._factors, strict=True):
            y = add_repeated_middle(y, piece, maps.start, factor, offset)
        return y


def joined_statistics(statistics: Sequence[Statistics]) -> Statistics:
    """Mean and variance of maps of which each item describes some, without gradients."""
    return Statistics(
        torch.cat([piece.mean for piece in statistics]).detach(),
        torch.cat([piece.variance for piece in statistics]).detach(),
        statistics[0].epsilon,
    )


def _copies(size: Int3, factor: Int3, like: Tensor) -> Tensor:
    """``(X, Y, Z)``: how many of ``size`` fine voxels lie in each coarse one."""
    x, y, z = (
        torch.tensor([min(f, n - a) for a in range(0, n, f)])
        for n, f in zip(size, factor, strict=True)
    )
    counts = x[:, None, None] * y[:, None] * z
    return counts.to(like.device, torch.promote_types(like.dtype, torch.float32))
