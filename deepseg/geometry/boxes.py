"""Triples of voxel counts, and boxes of voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

Int3: TypeAlias = tuple[int, int, int]


def per_axis(function: Callable[..., int], *triples: Int3) -> Int3:
    """Apply ``function`` to the X, then the Y, then the Z entries of ``triples``."""
    x, y, z = (function(*entries) for entries in zip(*triples, strict=True))
    return x, y, z


def text(size: Int3) -> str:
    """``(17, 17, 1)`` as ``17 x 17 x 1``."""
    return " x ".join(str(n) for n in size)


def volume(size: Int3) -> int:
    """Number of voxels in a box of this size."""
    return prod(size)


@dataclass(frozen=True)
class Box:
    """A block of voxels of an image; it may reach beyond the image.

    Attributes:
        start: First voxel along X, Y, Z; negative before the image begins.
        size: Voxels along each axis.
    """

    start: Int3
    size: Int3

    @property
    def stop(self) -> Int3:
        """First voxel behind the box along each axis."""
        return per_axis(lambda a, n: a + n, self.start, self.size)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array ``(X, Y, Z)`` that contains it."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    def within(self, shape: Int3) -> Box:
        """The part of the box inside an image of ``shape``; sizes of 0 where there is none."""
        start = per_axis(lambda a, n: min(max(a, 0), n), self.start, shape)
        stop = per_axis(lambda b, n: min(max(b, 0), n), self.stop, shape)
        return Box(start, per_axis(lambda a, b: max(b - a, 0), start, stop))

    def moved(self, by: Int3) -> Box:
        """The box shifted by ``by`` voxels."""
        return Box(per_axis(lambda a, d: a + d, self.start, by), self.size)
