"""Which coarse voxels a convolution sees along one axis of a map that repeats every voxel f times.

Of the k taps around a fine voxel, several fall on the same coarse voxel, and which ones depends
only on the phase of the fine voxel in its coarse one, and on the border near the ends of the map.
Fine voxels whose taps fall alike form a `TapGroup`: they share one small kernel, and all those of
one coarse voxel share its result. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Border = Literal["none", "zero", "mirror"]


@dataclass(frozen=True)
class Run:
    """Fine voxels of one phase, one factor apart.

    Attributes:
        first: The first of them, counted in the output.
        coarse: The coarse voxel in which it lies.
        count: Of fine voxels; each lies in the next coarse voxel.
    """

    first: int
    coarse: int
    count: int


@dataclass(frozen=True)
class TapGroup:
    """Fine voxels whose taps fall alike.

    Attributes:
        offsets: Coarse voxel of every tap, counted from the one of the fine voxel; None for a tap
            on zeros beyond the border.
        runs: The voxels.
    """

    offsets: tuple[int | None, ...]
    runs: tuple[Run, ...]

    @property
    def first_offset(self) -> int:
        """The smallest offset."""
        return min(offset for offset in self.offsets if offset is not None)

    @property
    def taps(self) -> int:
        """Coarse voxels that are seen, all between the first and the last counted."""
        known = [offset for offset in self.offsets if offset is not None]
        return max(known) - min(known) + 1

    @property
    def coarse(self) -> range:
        """Coarse voxels in which the fine ones lie."""
        begin = min(run.coarse for run in self.runs)
        return range(begin, max(run.coarse + run.count for run in self.runs))


def groups(
    start: int, stop: int, *, factor: int, size: int, kernel: int, border: Border
) -> list[TapGroup]:
    """The output voxels from ``start`` to ``stop`` of a convolution of a repeated map.

    Args:
        start: First output voxel; without a border, it begins at input voxel ``start``.
        stop: Behind the last output voxel.
        factor: How often a coarse voxel is repeated.
        size: Fine voxels of the whole input.
        kernel: Taps.
        border: What is around the input.
    """
    found: dict[tuple[int | None, ...], dict[int, list[int]]] = {}
    low = 0 if border == "none" else (kernel - 1) // 2
    for voxel in range(start, stop):
        coarse = voxel // factor
        taps = (_seen(voxel + t - low, size, border) for t in range(kernel))
        offsets = tuple(None if tap is None else tap // factor - coarse for tap in taps)
        found.setdefault(offsets, {}).setdefault(voxel % factor, []).append(voxel)
    return [
        TapGroup(
            offsets,
            tuple(
                Run(one[0] - start, one[0] // factor, len(one))
                for voxels in phases.values()
                for one in _unbroken(voxels, factor)
            ),
        )
        for offsets, phases in found.items()
    ]


def _seen(position: int, size: int, border: Border) -> int | None:
    """The input voxel at a position that may lie beyond the border; None for zeros."""
    if border == "mirror":
        inside = position % (2 * size)
        return min(inside, 2 * size - 1 - inside)
    return position if 0 <= position < size else None


def _unbroken(voxels: Sequence[int], factor: int) -> list[list[int]]:
    """Voxels of one phase, parted where one is missing."""
    parts = [[voxels[0]]]
    for voxel in voxels[1:]:
        if voxel == parts[-1][-1] + factor:
            parts[-1].append(voxel)
        else:
            parts.append([voxel])
    return parts
