"""Normalisation, PReLU and dropout of feature maps in one go, with their gradients.

Maps lie in memory voxel by voxel (channels last). All steps are taken on pieces that fit into a
core's cache, so that memory is read and written once; what the backward pass needs is computed
again from the input. Where the statistics come from is not known here, nor is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PIECE = 1 << 16  # numbers that one core works on at a time: some of them fit into 2 MB of cache
LONGEST_ROW = 64  # voxels
LEVELS = 1 << 16  # of a random number of 16 bits


@dataclass(frozen=True)
class Statistics:
    """Mean and biased variance ``(C,)`` of feature maps.

    Attributes:
        are_of_batch: They were computed from the maps that they normalise, so that gradients also
            flow through them.
    """

    mean: Tensor
    variance: Tensor
    epsilon: float
    are_of_batch: bool


def preactivated(
    x: Tensor,
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor,
    kept: Tensor | None = None,
) -> Tensor:
    """``prelu((x - mean) / deviation * weight + bias) * kept``, computed in float32 at least.

    Args:
        x: ``(N, C, X, Y, Z)``.
        statistics: Of ``x``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        slope: ``(C,)``.
        kept: Like ``x``, bool: what dropout leaves; None for all.
    """
    apply: Callable[..., Tensor] = _PreActivation.apply
    return apply(
        x.contiguous(memory_format=torch.channels_last_3d), statistics, weight, bias, slope, kept
    )


def kept_by_dropout(x: Tensor, rate: float) -> Tensor:
    """Like ``x``, bool: False for a random share ``rate``, rounded to a multiple of 2^-16."""
    random = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    bits = random.random_(-(2**63), None).view(torch.int16)[: x.numel()]
    n, c, *size = x.shape
    kept = bits >= round(rate * LEVELS) - LEVELS // 2
    return kept.view(n, *size, c).permute(0, 4, 1, 2, 3)


class _Rows:
    """Maps as a matrix whose rows hold several voxels, and its pieces.

    Long rows keep vector units busy whatever the number of channels.
    """

    def __init__(self, x: Tensor) -> None:
        self.maps = x.shape[1]
        voxels = x.numel() // self.maps
        self.together = next(k for k in range(LONGEST_ROW, 0, -1) if voxels % k == 0)
        self.count = voxels // self.together
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self._length = self.together * self.maps

    def of(self, x: Tensor) -> Tensor:
        """``(rows, row length)``, a view of channels-last maps."""
        return x.permute(0, 2, 3, 4, 1).reshape(self.count, self._length)

    def each(self, values: Tensor) -> Tensor:
        """``(row length,)``: the values ``(C,)`` of every voxel in a row."""
        return values.to(self.dtype).repeat(self.together)

    def sum(self, rows: Tensor, ones: Tensor) -> Tensor:
        """``(row length,)``: sum over some rows; ``ones`` is a vector of 1 that is long enough."""
        return torch.mv(rows.t(), ones[: len(rows)])

    def by_map(self, row: Tensor) -> Tensor:
        """``(C,)``: sum of a row over its voxels."""
        return row.view(self.together, self.maps).sum(0)

    @property
    def step(self) -> int:
        """Rows of a piece."""
        return max(1, PIECE * torch.get_num_threads() // self._length)

    def pieces(self) -> Iterator[slice]:
        """The rows, a few at a time."""
        for begin in range(0, self.count, self.step):
            yield slice(begin, begin + self.step)


class _PreActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        statistics: Statistics,
        weight: Tensor,
        bias: Tensor,
        slope: Tensor,
        kept: Tensor | None,
    ) -> Tensor:
        rows = _Rows(x)
        deviation = torch.sqrt(statistics.variance + statistics.epsilon)
        mean, scale = rows.each(statistics.mean), rows.each(weight / deviation)
        shift, slopes = rows.each(bias), rows.each(slope)
        y = torch.empty_like(x)
        source, target = rows.of(x), rows.of(y)
        for piece in rows.pieces():
            z = torch.addcmul(shift, source[piece] - mean, scale)
            z = F.prelu(z, slopes)
            if kept is not None:
                z *= rows.of(kept)[piece].to(rows.dtype)
            target[piece] = z
        ctx.statistics, ctx.deviation = statistics, deviation
        ctx.save_for_backward(x, weight, bias, slope, kept)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, slope, kept = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        rows = _Rows(x)
        mean, scale = rows.each(ctx.statistics.mean), rows.each(weight / ctx.deviation)
        biases, slopes = rows.each(bias), rows.each(slope)
        ones = torch.ones(rows.step, dtype=rows.dtype)
        sums = torch.zeros(3, len(mean), dtype=rows.dtype)
        source, given = rows.of(x), rows.of(gradient)
        found = torch.empty_like(x)  # of the normalised maps at first, then of x
        target = rows.of(found)
        for piece in rows.pieces():
            g = given[piece].to(rows.dtype)
            if kept is not None:
                g = g * rows.of(kept)[piece].to(rows.dtype)
            centred = source[piece] - mean
            z = torch.addcmul(biases, centred, scale)
            positive = torch.ops.aten.threshold_backward(g, z, 0)
            sums[2] += rows.sum(z.clamp_(max=0).mul_(g), ones)
            positive.lerp_(g, slopes)
            sums[0] += rows.sum(positive, ones)
            sums[1] += rows.sum(centred.mul_(positive), ones)
            target[piece] = positive
        of_bias, of_centred, of_slope = (rows.by_map(row) for row in sums)
        of_weight = of_centred / ctx.deviation
        if ctx.needs_input_grad[0]:
            _finish(rows, source, target, ctx, weight, of_bias, of_weight)
        return (
            found,
            None,
            of_weight.to(weight.dtype),
            of_bias.to(bias.dtype),
            of_slope.to(slope.dtype),
            None,
        )


def _finish(
    rows: _Rows,
    source: Tensor,
    target: Tensor,
    ctx: Any,
    weight: Tensor,
    of_bias: Tensor,
    of_weight: Tensor,
) -> None:
    """Make gradients of the normalised maps those of the maps, in place; 10.48550/arXiv.1502.03167.

    Statistics of the batch move with it, by means over all its voxels.
    """
    scale = weight / ctx.deviation
    each = rows.each(scale)
    if not ctx.statistics.are_of_batch:
        for piece in rows.pieces():
            target[piece] = target[piece] * each
        return
    voxels = rows.count * rows.together
    linear = -scale * of_weight / ctx.deviation / voxels
    mean, linear = rows.each(ctx.statistics.mean), rows.each(linear)
    constant = rows.each(-scale * of_bias / voxels)
    for piece in rows.pieces():
        offset = torch.addcmul(constant, source[piece] - mean, linear)
        target[piece] = offset.addcmul_(target[piece].to(rows.dtype), each)
