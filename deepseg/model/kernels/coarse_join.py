"""Maps of several resolutions joined in training, without repeating the coarse ones.

Repeating, joining, normalising and convolving come to the same when norm, activation and
convolution act on the coarse maps, and only their results are repeated; batch statistics count
every coarse voxel as often as it would have been repeated. Gradients are those of the plain way, up
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from deepseg.geometry.boxes import Int3, per_axis
from deepseg.geometry.context import coarse_size
from deepseg.geometry.repetition import Border, TapGroup, groups
from deepseg.model.kernels.convolution import LAST, Convolution, convolved, zero_maps
from deepseg.model.kernels.fused_activation import Statistics, fused_activation
from deepseg.model.kernels.repeated_convolution import add_runs, repeated_sums
from deepseg.model.layers import Layer, Norm, crop_offset, padded

ALL = (slice(None), slice(None))  # of the axes in front of X, Y and Z
Groups = tuple[list[TapGroup], list[TapGroup], list[TapGroup]]


def can_join(layer: Layer) -> bool:
    """Whether coarse maps can be joined in front of the first FC layer, and are known to gain time.

    Dropout treats copies of a voxel differently. Where other processes have parts of the batch,
    voxels count once. Whether many small convolutions gain time on a GPU has not been measured.
    """
    has_part = isinstance(layer.norm, Norm) and layer.norm.sync_statistics is not None
    on_cpu = next(layer.parameters()).device.type == "cpu"
    return isinstance(layer.conv, Convolution) and not layer.drops_now and not has_part and on_cpu


class MultiScaleInput:
    """The input of the first FC layer: outputs of the parallel pathways, the normal one first.

    Args:
        outputs: ``(N, C, X, Y, Z)`` of each pathway, at its own resolution.
        factors: Of each pathway.
    """

    def __init__(self, outputs: Sequence[Tensor], factors: Sequence[Int3]) -> None:
        self.size = size_of(outputs[0])
        self.factors = factors
        self.parts = [
            y[:, :, :a, :b, :c]
            for y, (a, b, c) in zip(
                outputs, (coarse_size(self.size, f) for f in factors), strict=True
            )
        ]

    def convolved(self, layer: Layer) -> Tensor:
        """What ``layer`` makes of the joined maps."""
        assert isinstance(layer.conv, Convolution)
        norms = self._norms(layer)
        y: Tensor | None = None
        begin = 0
        for part, factor, norm in zip(self.parts, self.factors, norms, strict=True):
            maps = slice(begin, begin + part.shape[1])
            begin += part.shape[1]
            weight = layer.conv.weight[:, maps]
            values = _activated(part, layer, norm, maps)
            if y is None:
                values = padded(values, layer.plan.kernel, layer.plan.padding)
                y = convolved(values.contiguous(memory_format=LAST), weight.to(part.dtype))
            else:
                y = with_repeated_convolution(
                    y, values, weight, factor, layer.plan.padding, self.size
                )
        assert y is not None
        return y

    def added_to(self, y: Tensor) -> Tensor:
        """``y`` plus the middle of the joined maps, in place; surplus maps are cut."""
        begin = 0
        for part, factor in zip(self.parts, self.factors, strict=True):
            y = with_middle(y, part, begin, factor, self.size)
            begin += part.shape[1]
        return y

    def _norms(self, layer: Layer) -> list[Statistics]:
        """The statistics with which each part is normalised."""
        norm = layer.norm
        if not isinstance(norm, Norm):
            zeros = [
                part.new_zeros(part.shape[1], dtype=layer.input_bias.dtype) for part in self.parts
            ]
            return [Statistics(zero, zero + 1, 0.0) for zero in zeros]
        if not norm.uses_batch:
            ends = [0]
            for part in self.parts:
                ends.append(ends[-1] + part.shape[1])
            return [norm.gathered(slice(a, b)) for a, b in pairwise(ends)]
        found = [
            norm.statistics(part)
            if factor == (1, 1, 1) and layer.activates_quickly(part)
            else _weighted(part, copies(self.size, factor, part), norm.settings.epsilon)
            for part, factor in zip(self.parts, self.factors, strict=True)
        ]
        mean = torch.cat([one.mean for one in found]).detach()
        variance = torch.cat([one.variance for one in found]).detach()
        norm.gather(Statistics(mean, variance, norm.settings.epsilon))
        return found


def with_middle(y: Tensor, x: Tensor, first: int, factor: Int3, size: Int3) -> Tensor:
    """``y`` plus the middle of the repeated ``x``, in place; surplus maps are cut.

    Args:
        y: ``(N, F, X, Y, Z)``.
        x: ``(N, C, X', Y', Z')``.
        first: The map of ``y`` to which the first of ``x`` is added.
        factor: How often a voxel of ``x`` is repeated along each axis.
        size: Of the repeated map.
    """
    maps = min(x.shape[1], y.shape[1] - first)
    if maps <= 0:
        return y
    offset = per_axis(crop_offset, size, size_of(y))
    where = _groups(offset, size_of(y), factor, size, (1, 1, 1), "none")
    apply: Callable[..., Tensor] = _AddedRepeated.apply
    return apply(y, x[:, :maps], first, where, factor)


def size_of(x: Tensor) -> Int3:
    """Voxels of a map along each axis."""
    return x.shape[2], x.shape[3], x.shape[4]


def copies(size: Int3, factor: Int3, like: Tensor) -> Tensor:
    """``(X, Y, Z)``: how many of ``size`` fine voxels lie in each coarse one."""
    x, y, z = (
        torch.tensor([min(f, n - a) for a in range(0, n, f)])
        for n, f in zip(size, factor, strict=True)
    )
    counts = x[:, None, None] * y[:, None] * z
    return counts.to(like.device, torch.promote_types(like.dtype, torch.float32))


def _weighted(x: Tensor, weights: Tensor, epsilon: float) -> Statistics:
    """Mean and biased variance of ``x`` with every voxel counted as often as ``weights`` says."""
    count = len(x) * weights.sum()
    x = x.to(weights.dtype)
    mean = (x * weights).sum((0, 2, 3, 4)) / count
    centred = x - mean.view(-1, 1, 1, 1)
    variance = (centred.square() * weights).sum((0, 2, 3, 4)) / count
    return Statistics(mean, variance, epsilon, int(count))


def _activated(x: Tensor, layer: Layer, found: Statistics, maps: slice) -> Tensor:
    """What norm and activation of ``layer`` make of some of its maps."""
    norm = layer.norm
    if isinstance(norm, Norm):
        weight, bias = norm.weight[maps], norm.bias[maps]
    else:
        bias = layer.input_bias[maps]
        weight = torch.ones_like(bias)
    if found.mean.requires_grad or not layer.activates_quickly(x):
        scale = weight / torch.sqrt(found.variance + found.epsilon)
        centred = x - found.mean.view(-1, 1, 1, 1)
        y = centred * scale.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)
        y = layer.activation_of(y, maps).to(x.dtype)
    else:
        y = fused_activation(x, found, weight, bias, layer.slopes[maps])
    return y if layer.plan.dropout == 0 else y * (1 - layer.plan.dropout)


def _groups(
    start: Int3, size: Int3, factor: Int3, whole: Int3, kernel: Int3, border: Border
) -> Groups:
    x, y, z = (
        groups(a, a + m, factor=f, size=n, kernel=k, border=border)
        for a, m, f, n, k in zip(start, size, factor, whole, kernel, strict=True)
    )
    return x, y, z


def with_repeated_convolution(
    y: Tensor, x: Tensor, kernel: Tensor, factor: Int3, border: Border, size: Int3
) -> Tensor:
    """``y`` plus the convolution of the repeated ``x``, in place.

    Args:
        y: ``(N, F, X, Y, Z)``.
        x: ``(N, C, X', Y', Z')`` coarse voxels.
        kernel: ``(F, C, kx, ky, kz)``.
        factor: How often a coarse voxel is repeated along each axis.
        border: What is around the repeated map.
        size: Of the repeated map.
    """
    k: Int3 = (kernel.shape[2], kernel.shape[3], kernel.shape[4])
    where = _groups((0, 0, 0), size_of(y), factor, size, k, border)
    merged = kernel
    for axis, own in enumerate(where, start=2):
        sums = merging(own, kernel.shape[axis]).to(kernel)
        merged = torch.tensordot(merged, sums, dims=([axis], [1])).movedim(-1, axis)
    merged = merged.to(x.dtype)
    apply: Callable[..., Tensor] = _AddedConvolution.apply
    return apply(y, x, merged, where, factor)


def merging(found: Sequence[TapGroup], taps: int) -> Tensor:
    """``(all taps of all groups, taps)``: which taps of a kernel each merged tap is the sum of."""
    rows = []
    for group in found:
        for seen in range(group.first_offset, group.first_offset + group.taps):
            rows.append([float(offset == seen) for offset in group.offsets])
    assert len(rows[0]) == taps
    return torch.tensor(rows)


@dataclass(frozen=True)
class _Small:
    """One of the small convolutions: where its kernel lies, and what it reads."""

    where: tuple[TapGroup, TapGroup, TapGroup]
    taps: tuple[slice, ...]
    seen: tuple[slice, ...]

    @property
    def begin(self) -> tuple[int, ...]:
        return tuple(group.coarse.start for group in self.where)


def _small_convolutions(where: Groups) -> Iterator[_Small]:
    placed = []
    for own in where:
        begin = 0
        row = []
        for group in own:
            seen = group.coarse.start + group.first_offset
            row.append(
                (
                    group,
                    slice(begin, begin + group.taps),
                    slice(seen, seen + len(group.coarse) + group.taps - 1),
                )
            )
            begin += group.taps
        placed.append(row)
    for x, y, z in product(*placed):
        yield _Small((x[0], y[0], z[0]), (*ALL, x[1], y[1], z[1]), (*ALL, x[2], y[2], z[2]))


class _AddedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, merged: Tensor, where: Groups, factor: Int3
    ) -> Tensor:
        x = x.contiguous(memory_format=LAST)
        for small in _small_convolutions(where):
            kernel = merged[small.taps].contiguous(memory_format=LAST)
            part = x[small.seen].contiguous(memory_format=LAST)
            add_runs(y, convolved(part, kernel), small.where, factor, small.begin)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, merged)
        ctx.where, ctx.factor = where, factor
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, merged = ctx.saved_tensors
        g = g.contiguous(memory_format=LAST)
        of_x = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        of_merged = torch.empty_like(merged)
        for small in _small_convolutions(ctx.where):
            kernel = merged[small.taps].contiguous(memory_format=LAST)
            part = x[small.seen].contiguous(memory_format=LAST)
            own = repeated_sums(g, small.where, ctx.factor)
            of_part, of_kernel, _ = torch.ops.aten.convolution_backward(
                own, part, kernel, None, (1, 1, 1), (0, 0, 0), (1, 1, 1), False, (0, 0, 0), 1,
                (True, True, False),
            )  # fmt: skip
            of_x[small.seen] += of_part
            of_merged[small.taps] = of_kernel
        return g, of_x.to(x.dtype), of_merged, None, None


class _AddedRepeated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, first: int, where: Groups, factor: Int3) -> Tensor:
        (a,), (b,), (c,) = where
        add_runs(y[:, first : first + x.shape[1]], x, (a, b, c), factor, (0, 0, 0))
        ctx.mark_dirty(y)
        ctx.settings = first, where, factor, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        first, where, factor, shape = ctx.settings
        (a,), (b,), (c,) = where
        own = g[:, first : first + shape[1]]
        x, y, z = (slice(group.coarse.start, group.coarse.stop) for group in (a, b, c))
        found = zero_maps(shape, own.dtype, own.device)
        is_repeated = factor != (1, 1, 1)
        found[:, :, x, y, z] = repeated_sums(own, (a, b, c), factor) if is_repeated else own
        return g, found, None, None, None
