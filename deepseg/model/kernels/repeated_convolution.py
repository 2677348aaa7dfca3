"""Convolutions of maps in which every voxel is repeated, computed at low resolution.

``conv(repeat(x, f), w)`` has, per axis, only as many different kernels as there are ways in which
its taps fall on coarse voxels: three for k = 3 and any f > 2, with 2, 1 and 2 taps. So 27 small
kernels with 125 taps in all, on coarse voxels, replace 27 taps on f^3 times as many; results are
exact up to rounding. Whatever acts on each voxel alone (norm, activation) may come first, at low
resolution too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from deepseg.geometry.boxes import Box, Int3
from deepseg.geometry.repetition import Border, TapGroup, groups
from deepseg.model.kernels.convolution import convolved, zero_maps


def repeated_sums(y: Tensor, where: Sequence[TapGroup], factor: Int3) -> Tensor:
    """The sum over all fine voxels of each coarse one; what `add_runs` does, turned round.

    Args:
        y: ``(N, F, X, Y, Z)``, channels last.
        where: The groups along X, Y and Z whose voxels count.
        factor: How often a coarse voxel is repeated along each axis.
    """
    shape = (*y.shape[:2], *(len(group.coarse) for group in where))
    found = zero_maps(shape, torch.promote_types(y.dtype, torch.float32), y.device)
    for runs in product(*(group.runs for group in where)):
        place, source = found, y
        for axis, (run, f, group) in enumerate(zip(runs, factor, where, strict=True), start=2):
            source = _every(source, axis, run.first, run.count, f)
            place = place.narrow(axis, run.coarse - group.coarse.start, run.count)
        place += source
    return found.to(y.dtype)


def merged_kernel(weight: Tensor, where: Sequence[TapGroup]) -> Tensor:
    """``(F, C, tx, ty, tz)``: the taps of ``weight`` that fall on one coarse voxel, summed.

    Args:
        weight: ``(F, C, kx, ky, kz)``.
        where: How the taps fall along X, Y and Z.
    """
    for axis, group in zip((2, 3, 4), where, strict=True):
        parts = list(weight.unbind(axis))
        sums = [torch.zeros_like(parts[0])] * group.taps
        for part, offset in zip(parts, group.offsets, strict=True):
            if offset is not None:
                sums[offset - group.first_offset] = sums[offset - group.first_offset] + part
        weight = torch.stack(sums, axis)
    return weight


class RepeatedConvolution:
    """Adds to a map the convolution of a repeated one; keeps the merged kernels.

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
        for where in self._groups(output, size):
            part = x
            for axis, (group, first) in enumerate(zip(where, begin, strict=True), start=2):
                seen = group.coarse.start + group.first_offset - first
                part = part.narrow(axis, seen, len(group.coarse) + group.taps - 1)
            added = convolved(part, self._kernel(where))
            add_runs(y, added, where, self._factor, tuple(group.coarse.start for group in where))

    def _groups(self, output: Box, size: Int3) -> Iterator[tuple[TapGroup, ...]]:
        kernel = self._weight.shape[2:]
        return product(
            *(
                groups(a, b, factor=f, size=n, kernel=k, border=self._border)
                for a, b, f, n, k in zip(
                    output.start, output.stop, self._factor, size, kernel, strict=True
                )
            )
        )

    def _kernel(self, where: Sequence[TapGroup]) -> Tensor:
        key = tuple(group.offsets for group in where)
        if key not in self._kernels:
            merged = merged_kernel(self._weight, where).to(self._dtype)
            self._kernels[key] = merged.contiguous(memory_format=torch.channels_last_3d)
        return self._kernels[key]


def add_repeated(y: Tensor, output: Box, x: Tensor, begin: Int3, factor: Int3) -> None:
    """Add to ``y`` the voxels of ``x``, repeated.

    Args:
        y: ``(N, F, X, Y, Z)``, the voxels of the box ``output`` of the repeated map.
        output: Counted in the whole repeated map.
        x: ``(N, F, X', Y', Z')`` coarse voxels, all that are needed at least.
        begin: The first coarse voxel of ``x``.
        factor: How often a coarse voxel is repeated along each axis.
    """
    where = [
        groups(a, b, factor=f, size=b, kernel=1, border="none")[0]
        for a, b, f in zip(output.start, output.stop, factor, strict=True)
    ]
    add_runs(y, x, where, factor, begin)


def add_runs(
    y: Tensor, x: Tensor, where: Sequence[TapGroup], factor: Int3, begin: Sequence[int]
) -> None:
    """Add the coarse voxels of ``x``, the first of which are ``begin``, to all fine ones."""
    for runs in product(*(group.runs for group in where)):
        place, source = y, x
        for axis, (run, f, first) in enumerate(zip(runs, factor, begin, strict=True), start=2):
            place = _every(place, axis, run.first, run.count, f)
            source = source.narrow(axis, run.coarse - first, run.count)
        place += source


def _every(x: Tensor, axis: int, first: int, count: int, step: int) -> Tensor:
    """``count`` slices of ``x``, ``step`` apart."""
    span = x.narrow(axis, first, (count - 1) * step + 1)
    return span[(slice(None),) * axis + (slice(None, None, step),)]
