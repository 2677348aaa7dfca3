"""Normalisation, PReLU and dropout of feature maps in one go, with their gradients.

Maps lie in memory voxel by voxel (channels last). All steps are taken on pieces that fit into a
core's cache, so that memory is read and written once; the backward pass computes again from the
input what it needs. Nothing here knows padding, nor where the statistics come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.kernels.convolution import LAST
from deepseg.model.kernels.statistics import Statistics
from deepseg.model.kernels.threads import map_on_threads
from deepseg.model.switch import are_used

Result = TypeVar("Result")

PIECE = 1 << 18  # values that one core works on at a time: a few of them fit into its cache
LONGEST_ROW = 64  # voxels
LEVELS = 1 << 16  # of a random number of 16 bits


@dataclass(frozen=True)
class Preactivation:
    """Norm (or bias) and activation of a layer: all that it does before it convolves.

    Attributes:
        weight: ``(C,)``, multiplied with what is normalised.
        bias: ``(C,)``, added to it.
        slopes: ``(C,)`` of a PReLU; None for other non-linearities.
        activation: The non-linearity, if it is no PReLU.
    """

    weight: Tensor
    bias: Tensor
    slopes: Tensor | None
    activation: Callable[[Tensor], Tensor]

    def of_maps(self, maps: slice) -> Preactivation:
        """Norm and activation of some of the feature maps."""
        slopes = None if self.slopes is None else self.slopes[maps]
        return replace(self, weight=self.weight[maps], bias=self.bias[maps], slopes=slopes)

    def is_fused(self, x: Tensor) -> bool:
        """True if the steps on ``x`` are taken in one go."""
        return self.slopes is not None and are_used(x)

    def __call__(self, x: Tensor, statistics: Statistics) -> Tensor:
        """``x`` ``(N, C, X, Y, Z)`` normalised and activated, with all gradients."""
        if self.is_fused(x) and not statistics.mean.requires_grad:
            assert self.slopes is not None
            return fused_preactivation(x, statistics, self.weight, self.bias, self.slopes)
        scale = self.weight / torch.sqrt(statistics.variance + statistics.epsilon)
        centred = x - statistics.mean.view(-1, 1, 1, 1)
        y = centred * scale.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)
        y = self.activation(y) if self.slopes is None else F.prelu(y, self.slopes)
        return y.to(x.dtype)


def fused_preactivation(
    x: Tensor,
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor,
    slopes: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """``prelu((x - mean) / deviation * weight + bias) * mask``, computed in float32 at least.

    Args:
        x: ``(N, C, X, Y, Z)``.
        statistics: Of ``x``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        slopes: ``(C,)``.
        mask: Like ``x``, bool: False where dropout switches off; None for nowhere.
    """
    apply: Callable[..., Tensor] = _FusedActivation.apply
    return apply(x.contiguous(memory_format=LAST), statistics, weight, bias, slopes, mask)


def prelu(x: Tensor, slopes: Tensor) -> Tensor:
    """PReLU of channels-last maps ``(N, C, X, Y, Z)`` without gradients, in their type."""
    if x.device.type != "cpu":
        return F.prelu(x, slopes)
    voxels = x.permute(0, 2, 3, 4, 1)
    length = _voxels_per_row(x, 16)
    rows = voxels.reshape(-1, length * x.shape[1])
    return F.prelu(rows, slopes.repeat(length)).view(voxels.shape).permute(0, 4, 1, 2, 3)


def dropout_mask(x: Tensor, rate: float) -> Tensor:
    """Like ``x``, bool: False for a random share ``rate``, rounded to a multiple of 2^-16."""
    random = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    bits = random.random_(-(2**63), None).view(torch.int16)[: x.numel()]
    n, c, *size = x.shape
    mask = bits >= round(rate * LEVELS) - LEVELS // 2
    return mask.view(n, *size, c).permute(0, 4, 1, 2, 3)


def _voxels_per_row(x: Tensor, longest: int) -> int:
    """Largest number of voxels, up to ``longest``, of which maps are a multiple."""
    voxels = x.numel() // x.shape[1]
    return next(length for length in range(longest, 0, -1) if voxels % length == 0)


class _Rows:
    """Maps as a matrix whose rows hold several voxels, and its pieces.

    Long rows keep vector units busy whatever the number of channels.
    """

    def __init__(self, x: Tensor) -> None:
        self.maps = x.shape[1]
        self.voxels = _voxels_per_row(x, LONGEST_ROW)
        self.count = x.numel() // self.maps // self.voxels
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self._length = self.voxels * self.maps
        on_cpu = x.device.type == "cpu"
        self._step = max(1, PIECE // self._length) if on_cpu else self.count
        self._weights = torch.ones(self._step, dtype=self.dtype, device=x.device)

    def view(self, x: Tensor) -> Tensor:
        """``(rows, row length)``, a view of channels-last maps."""
        return x.permute(0, 2, 3, 4, 1).reshape(self.count, self._length)

    def spread(self, values: Tensor) -> Tensor:
        """``(row length,)``: the values ``(C,)`` of every voxel in a row."""
        return values.to(self.dtype).repeat(self.voxels)

    def sum(self, rows: Tensor) -> Tensor:
        """``(row length,)``: sum over some rows, by the quickest routine that torch has."""
        return torch.mv(rows.t(), self._weights[: len(rows)])

    def by_map(self, row: Tensor) -> Tensor:
        """``(C,)``: sum of a row over its voxels."""
        return row.view(self.voxels, self.maps).sum(0)

    def over_pieces(self, work: Callable[[slice], Result]) -> list[Result]:
        """Results of ``work`` on a few rows at a time."""
        begins = range(0, self.count, self._step)
        return map_on_threads(work, [slice(begin, begin + self._step) for begin in begins])


class _FusedActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        statistics: Statistics,
        weight: Tensor,
        bias: Tensor,
        slopes: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        rows = _Rows(x)
        deviation = torch.sqrt(statistics.variance + statistics.epsilon)
        mean, scale = rows.spread(statistics.mean), rows.spread(weight / deviation)
        shift, slope = rows.spread(bias), rows.spread(slopes)
        y = torch.empty_like(x)
        source, target = rows.view(x), rows.view(y)
        masks = None if mask is None else rows.view(mask)

        def activate(piece: slice) -> None:
            z = torch.addcmul(shift, source[piece] - mean, scale)
            z = F.prelu(z, slope)
            if masks is not None:
                z *= masks[piece].to(rows.dtype)
            target[piece] = z

        rows.over_pieces(activate)
        ctx.statistics, ctx.deviation = statistics, deviation
        ctx.save_for_backward(x, weight, bias, slopes, mask)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, slopes, mask = ctx.saved_tensors
        of_y = gradients[0].contiguous(memory_format=LAST)
        rows = _Rows(x)
        mean, scale = rows.spread(ctx.statistics.mean), rows.spread(weight / ctx.deviation)
        biases, slope = rows.spread(bias), rows.spread(slopes)
        source, outer = rows.view(x), rows.view(of_y)
        of_x = torch.empty_like(x)  # of the normalised maps at first, then of x
        target = rows.view(of_x)
        masks = None if mask is None else rows.view(mask)

        def go_back(piece: slice) -> Tensor:
            g = outer[piece].to(rows.dtype)
            if masks is not None:
                g = g * masks[piece].to(rows.dtype)
            centred = source[piece] - mean
            z = torch.addcmul(biases, centred, scale)
            positive = torch.ops.aten.threshold_backward(g, z, 0)
            of_slope = rows.sum(z.clamp_(max=0).mul_(g))
            positive.lerp_(g, slope)
            of_bias = rows.sum(positive)
            target[piece] = positive
            return torch.stack([of_bias, rows.sum(centred.mul_(positive)), of_slope])

        sums = torch.stack(rows.over_pieces(go_back)).sum(0)
        of_bias, of_centred, of_slopes = (rows.by_map(row) for row in sums)
        of_weight = of_centred / ctx.deviation
        if ctx.needs_input_grad[0]:
            normalised = _Normalised(rows, ctx.statistics, weight / ctx.deviation, ctx.deviation)
            normalised.go_back(source, target, of_bias, of_weight)
        return (
            of_x,
            None,
            of_weight.to(weight.dtype),
            of_bias.to(bias.dtype),
            of_slopes.to(slopes.dtype),
            None,
        )


@dataclass(frozen=True)
class _Normalised:
    """Maps as they were normalised; scale and deviation are ``(C,)``."""

    rows: _Rows
    statistics: Statistics
    scale: Tensor
    deviation: Tensor

    def go_back(self, source: Tensor, target: Tensor, of_bias: Tensor, of_weight: Tensor) -> None:
        """Make gradients of the normalised maps those of the maps, in place.

        Statistics of the batch move with it, by means over all its voxels;
        doi:10.48550/arXiv.1502.03167.

        Args:
            source: Rows of the maps.
            target: Rows of the gradients.
            of_bias: ``(C,)`` gradient of the bias: the sum of those of the normalised maps.
            of_weight: ``(C,)`` gradient of the weight.
        """
        statistics, rows = self.statistics, self.rows
        scale = rows.spread(self.scale)
        if statistics.voxels > 0:
            sums = statistics.all_reduce_sum(torch.stack([of_bias, of_weight]))
            of_bias, of_weight = sums / statistics.voxels
        if statistics.voxels == 0 or not statistics.is_of_batch:

            def stretch(piece: slice) -> None:
                target[piece] = target[piece] * scale

            rows.over_pieces(stretch)
            return
        mean = rows.spread(statistics.mean)
        linear = rows.spread(-self.scale * of_weight / self.deviation)
        constant = rows.spread(-self.scale * of_bias)

        def follow(piece: slice) -> None:
            offset = torch.addcmul(constant, source[piece] - mean, linear)
            target[piece] = offset.addcmul_(target[piece].to(rows.dtype), scale)

        rows.over_pieces(follow)
