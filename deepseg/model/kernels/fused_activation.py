"""Normalisation, PReLU and dropout of feature maps in one go, with their gradients.

Maps lie in memory voxel by voxel (channels last). All steps are taken on pieces that fit into a
core's cache, so that memory is read and written once; what the backward pass needs is computed
again from the input. Where the statistics come from is not known here, nor is padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.kernels.threads import map_on_threads

Result = TypeVar("Result")

PIECE = 1 << 18  # numbers that one core works on at a time: a few of them fit into its cache
LONGEST_ROW = 64  # voxels
VOXELS = 1 << 11  # whose sums in float32 are exact enough
LEVELS = 1 << 16  # of a random number of 16 bits


def _alone(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Statistics:
    """Mean and biased variance ``(C,)`` of feature maps.

    Attributes:
        epsilon: Added to the variance.
        voxels: Of the batch from which they were computed, so that they move with it; 0 if they
            stay as they are.
        counts: Whether the maps that they normalise are among those.
        summed: Adds up what all processes have that hold a part of the batch.
    """

    mean: Tensor
    variance: Tensor
    epsilon: float
    voxels: int = 0
    counts: bool = True
    summed: Callable[[Tensor], Tensor] = _alone


def batch_statistics(x: Tensor, epsilon: float) -> Statistics:
    """Mean and biased variance of ``x`` ``(N, C, X, Y, Z)``, exact to float32's last digits.

    On the processor, torch's own sums over all voxels of channels-last maps lose three digits. So
    they are taken over pieces, whose statistics are put together in float64
    (doi:10.1080/00031305.1983.10483115).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x.to(dtype), (0, 2, 3, 4), correction=0)
        return Statistics(mean, variance, epsilon, x.numel() // x.shape[1])
    x = x.contiguous(memory_format=torch.channels_last_3d)
    voxels = x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
    pieces = torch.split(voxels, VOXELS)
    # The running averages that torch would move make it compute in their type.
    unused = torch.zeros(x.shape[1], dtype=dtype, device=x.device)

    def of(piece: Tensor) -> tuple[Tensor, Tensor]:
        return torch.batch_norm_update_stats(piece, unused, unused, 0.0)

    found = map_on_threads(of, pieces)
    means = torch.stack([mean for mean, _ in found]).double()
    variances = torch.stack([variance for _, variance in found]).double()
    counts = torch.tensor([[len(piece)] for piece in pieces], dtype=torch.float64)
    shares = (counts / counts.sum()).to(x.device)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return Statistics(mean.to(dtype), variance.to(dtype), epsilon, len(voxels))


def fused_activation(
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


def dropout_mask(x: Tensor, rate: float) -> Tensor:
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
        on_cpu = x.device.type == "cpu"
        self._step = max(1, PIECE // self._length) if on_cpu else self.count
        self._ones = torch.ones(self._step, dtype=self.dtype, device=x.device)

    def of(self, x: Tensor) -> Tensor:
        """``(rows, row length)``, a view of channels-last maps."""
        return x.permute(0, 2, 3, 4, 1).reshape(self.count, self._length)

    def each(self, values: Tensor) -> Tensor:
        """``(row length,)``: the values ``(C,)`` of every voxel in a row."""
        return values.to(self.dtype).repeat(self.together)

    def sum(self, rows: Tensor) -> Tensor:
        """``(row length,)``: sum over some rows, by the quickest routine that torch has."""
        return torch.mv(rows.t(), self._ones[: len(rows)])

    def by_map(self, row: Tensor) -> Tensor:
        """``(C,)``: sum of a row over its voxels."""
        return row.view(self.together, self.maps).sum(0)

    def over_pieces(self, work: Callable[[slice], Result]) -> list[Result]:
        """What ``work`` makes of the rows, a few at a time."""
        begins = range(0, self.count, self._step)
        return map_on_threads(work, [slice(begin, begin + self._step) for begin in begins])


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
        left = None if kept is None else rows.of(kept)

        def activate(piece: slice) -> None:
            z = torch.addcmul(shift, source[piece] - mean, scale)
            z = F.prelu(z, slopes)
            if left is not None:
                z *= left[piece].to(rows.dtype)
            target[piece] = z

        rows.over_pieces(activate)
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
        source, given = rows.of(x), rows.of(gradient)
        found = torch.empty_like(x)  # of the normalised maps at first, then of x
        target = rows.of(found)
        left = None if kept is None else rows.of(kept)

        def go_back(piece: slice) -> Tensor:
            g = given[piece].to(rows.dtype)
            if left is not None:
                g = g * left[piece].to(rows.dtype)
            centred = source[piece] - mean
            z = torch.addcmul(biases, centred, scale)
            positive = torch.ops.aten.threshold_backward(g, z, 0)
            of_slope = rows.sum(z.clamp_(max=0).mul_(g))
            positive.lerp_(g, slopes)
            of_bias = rows.sum(positive)
            target[piece] = positive
            return torch.stack([of_bias, rows.sum(centred.mul_(positive)), of_slope])

        sums = torch.stack(rows.over_pieces(go_back)).sum(0)
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
    found: Statistics = ctx.statistics
    scale = weight / ctx.deviation
    each = rows.each(scale)
    if found.voxels > 0:
        of_bias, of_weight = found.summed(torch.stack([of_bias, of_weight])) / found.voxels
    if found.voxels == 0 or not found.counts:

        def stretch(piece: slice) -> None:
            target[piece] = target[piece] * each

        rows.over_pieces(stretch)
        return
    mean, linear = rows.each(found.mean), rows.each(-scale * of_weight / ctx.deviation)
    constant = rows.each(-scale * of_bias)

    def follow(piece: slice) -> None:
        offset = torch.addcmul(constant, source[piece] - mean, linear)
        target[piece] = offset.addcmul_(target[piece].to(rows.dtype), each)

    rows.over_pieces(follow)
