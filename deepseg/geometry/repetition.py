"""Coarse voxels under the taps of a convolution, along an axis on which each is repeated f times.

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
        """Smallest offset.

        >>> TapGroup((-1, 0, 0), ()).first_offset
        -1
        """
        return min(offset for offset in self.offsets if offset is not None)

    @property
    def taps(self) -> int:
        """Coarse voxels from the first to the last that is read.

        >>> TapGroup((-1, 0, 0), ()).taps
        2
        """
        offsets = [offset for offset in self.offsets if offset is not None]
        return max(offsets) - min(offsets) + 1

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
        stop: First voxel after the last output voxel.
        factor: Times that a coarse voxel is repeated.
        size: Fine voxels of the whole input.
        kernel: Taps.
        border: Surroundings of the input.

    Voxels repeated three times, under three taps:

    >>> three = groups(3, 9, factor=3, size=30, kernel=3, border="zero")
    >>> [group.offsets for group in three]
    [(-1, 0, 0), (0, 0, 0), (0, 0, 1)]
    """
    phases_of: dict[tuple[int | None, ...], dict[int, list[int]]] = {}
    low = 0 if border == "none" else (kernel - 1) // 2
    for voxel in range(start, stop):
        coarse = voxel // factor
        taps = (_input_voxel(voxel + t - low, size, border) for t in range(kernel))
        offsets = tuple(None if tap is None else tap // factor - coarse for tap in taps)
        phases_of.setdefault(offsets, {}).setdefault(voxel % factor, []).append(voxel)
    return [
        TapGroup(
            offsets,
            tuple(
                Run(unbroken[0] - start, unbroken[0] // factor, len(unbroken))
                for voxels in phases.values()
                for unbroken in _unbroken(voxels, factor)
            ),
        )
        for offsets, phases in phases_of.items()
    ]


def _input_voxel(position: int, size: int, border: Border) -> int | None:
    """The input voxel at a position that may lie beyond the border; None for zeros."""
    if border == "mirror":
        inside = position % (2 * size)
        return min(inside, 2 * size - 1 - inside)
    return position if 0 <= position < size else None


def _unbroken(voxels: Sequence[int], factor: int) -> list[list[int]]:
    """Voxels of one phase, cut into runs where one is missing."""
    runs = [[voxels[0]]]
    for voxel in voxels[1:]:
        if voxel == runs[-1][-1] + factor:
            runs[-1].append(voxel)
        else:
            runs.append([voxel])
    return runs
