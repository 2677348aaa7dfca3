"""Convolutions of maps in which every voxel is repeated, computed at low resolution.

``conv(repeat(x, f), w)`` has, per axis, only as many different kernels as there are ways in which
its taps fall on coarse voxels: three for k = 3 and any f > 2, with 2, 1 and 2 taps. So 27 small
kernels with 125 taps in all, on coarse voxels, replace 27 taps on f^3 times as many; results are
exact up to rounding. Whatever acts on each voxel alone (norm, activation) may come first, at low
resolution too.

Training adds whole convolutions, with gradients; inference adds boxes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from deepseg.geometry.boxes import Box, Int3, ceil_div, mul, per_axis
from deepseg.geometry.repetition import Border, TapGroup, groups
from deepseg.model.feature_maps import map_size, repeated
from deepseg.model.kernels.convolution import LAST, convolved, zero_maps

Triple = tuple[TapGroup, TapGroup, TapGroup]  # a group along each axis
Groups = tuple[Sequence[TapGroup], Sequence[TapGroup], Sequence[TapGroup]]  # all along each axis
ALL = (slice(None), slice(None))  # of the axes in front of X, Y and Z


def tap_groups(output: Box, factor: Int3, size: Int3, kernel: Int3, border: Border) -> Groups:
    """Groups of output voxels whose taps fall alike on coarse voxels, along X, Y and Z.

    Args:
        output: Which voxels of the whole output.
        factor: How often a coarse voxel is repeated along each axis.
        size: Fine voxels of the whole input.
        kernel: Taps along each axis.
        border: What is around the input.
    """
    x, y, z = (
        groups(start, stop, factor=f, size=n, kernel=k, border=border)
        for start, stop, f, n, k in zip(
            output.start, output.stop, factor, size, kernel, strict=True
        )
    )
    return x, y, z


def merged_taps(kernel: Tensor, where: Groups) -> Tensor:
    """``(F, C, tx, ty, tz)``: the taps of all groups after each other, along each axis.

    Those taps of ``kernel`` ``(F, C, kx, ky, kz)`` that fall on one coarse voxel are summed.
    """
    for axis, along_axis in enumerate(where, start=2):
        falls = [
            [float(offset == group.first_offset + tap) for offset in group.offsets]
            for group in along_axis
            for tap in range(group.taps)
        ]
        sums = torch.tensor(falls).to(kernel)
        kernel = torch.tensordot(kernel, sums, dims=([axis], [1])).movedim(-1, axis)
    return kernel


def add_repeated_convolution(
    y: Tensor, x: Tensor, kernel: Tensor, factor: Int3, border: Border, size: Int3
) -> Tensor:
    """``y`` plus the convolution of the repeated ``x``, in place, with all gradients.

    Args:
        y: ``(N, F, X, Y, Z)``.
        x: ``(N, C, X', Y', Z')`` coarse voxels.
        kernel: ``(F, C, kx, ky, kz)``.
        factor: How often a coarse voxel is repeated along each axis.
        border: What is around the repeated map.
        size: Of the repeated map.
    """
    where = tap_groups(Box.whole(map_size(y)), factor, size, map_size(kernel), border)
    merged = merged_taps(kernel, where).to(x.dtype)
    apply: Callable[..., Tensor] = _RepeatedConvolution.apply
    return apply(y, x, merged, where, factor)


def add_repeated_middle(y: Tensor, x: Tensor, first: int, factor: Int3, offset: Int3) -> Tensor:
    """``y`` plus a part of the repeated ``x``, in place, with gradients; surplus maps are cut.

    Args:
        y: ``(N, F, X, Y, Z)``.
        x: ``(N, C, X', Y', Z')``.
        first: The map of ``y`` to which the first of ``x`` is added.
        factor: How often a voxel of ``x`` is repeated along each axis.
        offset: Of the first voxel of ``y`` in the repeated map.
    """
    maps = min(x.shape[1], y.shape[1] - first)
    if maps <= 0:
        return y
    middle = Box(offset, map_size(y))
    (a,), (b,), (c,) = tap_groups(middle, factor, middle.stop, (1, 1, 1), "none")
    apply: Callable[..., Tensor] = _RepeatedMiddle.apply
    return apply(y, x[:, :maps], first, (a, b, c), factor)


def add_repeated(y: Tensor, output: Box, x: Tensor, begin: Int3, factor: Int3) -> None:
    """Add to ``y`` the voxels of ``x``, repeated.

    Args:
        y: ``(N, F, X, Y, Z)``, the voxels of the box ``output`` of the repeated map.
        output: Counted in the whole repeated map.
        x: ``(N, F, X', Y', Z')`` coarse voxels, all that are needed at least.
        begin: The first coarse voxel of ``x``.
        factor: How often a coarse voxel is repeated along each axis.
    """
    if x.device.type != "cpu":
        y += repeated_box(x, output, begin, factor)
        return
    (a,), (b,), (c,) = tap_groups(output, factor, output.stop, (1, 1, 1), "none")
    _add_runs(y, x, (a, b, c), factor, begin)


def repeated_box(x: Tensor, box: Box, begin: Int3, factor: Int3) -> Tensor:
    """``(N, C, *box.size)``: a box of a map in which every voxel is repeated.

    Two coarse voxels, each repeated three times, of which the middle four are asked for:

    >>> x = torch.tensor([5.0, 7.0]).view(1, 1, 2, 1, 1)
    >>> repeated_box(x, Box((1, 0, 0), (4, 1, 1)), (0, 0, 0), (3, 1, 1)).flatten().tolist()
    [5.0, 5.0, 7.0, 7.0]

    Args:
        x: ``(N, C, X', Y', Z')`` coarse voxels, all that are needed at least.
        box: Counted in the whole repeated map.
        begin: The first coarse voxel of ``x``.
        factor: How often a coarse voxel is repeated along each axis.
    """
    first = per_axis(lambda start, f: start // f, box.start, factor)
    coarse = Box.between(first, ceil_div(box.stop, factor))
    x = x[(*ALL, *coarse.relative_to(begin).slices)]
    return repeated(x, factor, mul(coarse.size, factor))[
        (*ALL, *box.relative_to(mul(first, factor)).slices)
    ]


class RepeatedConvolution:
    """Adds boxes of the convolution of a repeated map, without gradients; keeps merged kernels.

    Args:
        weight: ``(F, C, kx, ky, kz)``.
        factor: How often a coarse voxel is repeated along each axis.
        border: What is around the input.
        dtype: Of the maps.
    """

    def __init__(self, weight: Tensor, factor: Int3, border: Border, *, dtype: torch.dtype) -> None:
        self._weight = weight
        self._dtype = dtype
        self._factor = factor
        self._border = border
        self._kernels: dict[tuple[tuple[int | None, ...], ...], Tensor] = {}

    def add_to(self, y: Tensor, output: Box, x: Tensor, begin: Int3, size: Int3) -> None:
        """Add to ``y`` what the convolution gives there.

        Args:
            y: ``(N, F, X, Y, Z)``, the output voxels of the box ``output``.
            output: Counted in the whole output.
            x: ``(N, C, X', Y', Z')`` coarse voxels, all that are needed at least.
            begin: The first coarse voxel of ``x``.
            size: Fine voxels of the whole input.
        """
        where = tap_groups(output, self._factor, size, map_size(self._weight), self._border)
        kernels = (self._kernel(triple) for triple in product(*where))
        _add_small_convolutions(y, x, where, kernels, self._factor, begin)

    def _kernel(self, triple: Triple) -> Tensor:
        a, b, c = triple
        key = (a.offsets, b.offsets, c.offsets)
        if key not in self._kernels:
            merged = merged_taps(self._weight, ([a], [b], [c])).to(self._dtype)
            self._kernels[key] = merged.contiguous(memory_format=LAST)
        return self._kernels[key]


def repeated_sums(y: Tensor, where: Triple, factor: Int3) -> Tensor:
    """Sum over all fine voxels of each coarse one; repetition turned round.

    Args:
        y: ``(N, F, X, Y, Z)``, channels last.
        where: The groups along X, Y and Z whose voxels count.
        factor: How often a coarse voxel is repeated along each axis.
    """
    shape = (*y.shape[:2], *(len(group.coarse) for group in where))
    sums = zero_maps(shape, torch.promote_types(y.dtype, torch.float32), y.device)
    for runs in product(*(group.runs for group in where)):
        target, source = sums, y
        for axis, (run, f, group) in enumerate(zip(runs, factor, where, strict=True), start=2):
            source = _spaced(source, axis, run.first, run.count, f)
            target = target.narrow(axis, run.coarse - group.coarse.start, run.count)
        target += source
    return sums.to(y.dtype)


def _add_small_convolutions(
    y: Tensor, x: Tensor, where: Groups, kernels: Iterable[Tensor], factor: Int3, begin: Int3
) -> None:
    """Add to ``y`` the small convolutions of ``x``, whose first coarse voxel is ``begin``."""
    for triple, kernel in zip(product(*where), kernels, strict=True):
        source = _read_by(triple, x, begin).contiguous(memory_format=LAST)
        starts = tuple(group.coarse.start for group in triple)
        _add_runs(y, convolved(source, kernel), triple, factor, starts)


def _read_by(triple: Triple, x: Tensor, begin: Int3) -> Tensor:
    """View of the coarse voxels that the taps of a small convolution fall on."""
    for axis, (group, first) in enumerate(zip(triple, begin, strict=True), start=2):
        start = group.coarse.start + group.first_offset - first
        x = x.narrow(axis, start, len(group.coarse) + group.taps - 1)
    return x


def _tap_slices(where: Groups) -> Iterator[tuple[slice, ...]]:
    """Where the kernels of the small convolutions lie among the merged taps."""
    along_axes = []
    for along_axis in where:
        begin, slices = 0, []
        for group in along_axis:
            slices.append(slice(begin, begin + group.taps))
            begin += group.taps
        along_axes.append(slices)
    for taps in product(*along_axes):
        yield (*ALL, *taps)


def _add_runs(y: Tensor, x: Tensor, where: Triple, factor: Int3, begin: Sequence[int]) -> None:
    """Add the coarse voxels of ``x``, the first of which are ``begin``, to all fine ones."""
    for runs in product(*(group.runs for group in where)):
        target, source = y, x
        for axis, (run, f, first) in enumerate(zip(runs, factor, begin, strict=True), start=2):
            target = _spaced(target, axis, run.first, run.count, f)
            source = source.narrow(axis, run.coarse - first, run.count)
        target += source


def _spaced(x: Tensor, axis: int, first: int, count: int, step: int) -> Tensor:
    """``count`` slices of ``x``, ``step`` apart."""
    span = x.narrow(axis, first, (count - 1) * step + 1)
    return span[(slice(None),) * axis + (slice(None, None, step),)]


class _RepeatedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, merged: Tensor, where: Groups, factor: Int3
    ) -> Tensor:
        x = x.contiguous(memory_format=LAST)
        kernels = (merged[taps].contiguous(memory_format=LAST) for taps in _tap_slices(where))
        _add_small_convolutions(y, x, where, kernels, factor, (0, 0, 0))
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
        for triple, taps in zip(product(*ctx.where), _tap_slices(ctx.where), strict=True):
            kernel = merged[taps].contiguous(memory_format=LAST)
            source = _read_by(triple, x, (0, 0, 0)).contiguous(memory_format=LAST)
            sums = repeated_sums(g, triple, ctx.factor)
            of_source, of_kernel, _ = torch.ops.aten.convolution_backward(
                sums,
                source,
                kernel,
                None,
                (1, 1, 1),
                (0, 0, 0),
                (1, 1, 1),
                False,
                (0, 0, 0),
                1,
                (True, True, False),
            )
            _read_by(triple, of_x, (0, 0, 0)).add_(of_source)
            of_merged[taps] = of_kernel
        return g, of_x.to(x.dtype), of_merged, None, None


class _RepeatedMiddle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, first: int, where: Triple, factor: Int3) -> Tensor:
        _add_runs(y[:, first : first + x.shape[1]], x, where, factor, (0, 0, 0))
        ctx.mark_dirty(y)
        ctx.settings = first, where, factor, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        first, where, factor, shape = ctx.settings
        of_maps = g[:, first : first + shape[1]]
        if factor == (1, 1, 1) and of_maps.shape == shape:
            return g, of_maps, None, None, None
        x, y, z = (slice(group.coarse.start, group.coarse.stop) for group in where)
        of_x = zero_maps(shape, of_maps.dtype, of_maps.device)
        is_repeated = factor != (1, 1, 1)
        of_x[:, :, x, y, z] = repeated_sums(of_maps, where, factor) if is_repeated else of_maps
        return g, of_x, None, None, None
