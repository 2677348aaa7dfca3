"""Triples of voxel counts and boxes of voxels, and how to reckon with them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import starmap
from math import prod
from typing import TypeAlias

Int3: TypeAlias = tuple[int, int, int]


def per_axis(function: Callable[..., int], *triples: Int3 | int) -> Int3:
    """Apply ``function`` to the X, then the Y, then the Z entries of ``triples``.

    An integer in place of a triple has the same entry on every axis, here and in all functions
    below.

    >>> per_axis(max, (1, 5, 9), (4, 4, 4))
    (4, 5, 9)
    >>> per_axis(max, (1, 5, 9), 4)
    (4, 5, 9)
    """
    # Segments are cut with this, thousands a second: no loop of Python goes through the axes.
    columns = [(entry,) * 3 if isinstance(entry, int) else entry for entry in triples]
    x, y, z = starmap(function, zip(*columns, strict=True))
    return x, y, z


def _reduced(function: Callable[[int, int], int], triples: tuple[Int3 | int, ...]) -> Int3:
    """``function`` of the first two triples, of that and the third, and so on."""
    first, *rest = triples
    result: Int3 = (first,) * 3 if isinstance(first, int) else first
    for triple in rest:
        result = per_axis(function, result, triple)
    return result


def add(*terms: Int3 | int) -> Int3:
    """Sum of the terms along each axis.

    >>> add((1, 2, 3), (10, 20, 30), 100)
    (111, 122, 133)
    """
    return _reduced(operator.add, terms)


def sub(minuend: Int3 | int, subtrahend: Int3 | int) -> Int3:
    """Difference along each axis.

    >>> sub((10, 20, 30), (1, 2, 3))
    (9, 18, 27)
    """
    return per_axis(operator.sub, minuend, subtrahend)


def negate(triple: Int3) -> Int3:
    """Opposite number along each axis.

    >>> negate((1, -2, 0))
    (-1, 2, 0)
    """
    return per_axis(operator.neg, triple)


def mul(*factors: Int3 | int) -> Int3:
    """Product of the factors along each axis.

    >>> mul((1, 2, 3), (4, 5, 6), 10)
    (40, 100, 180)
    """
    return _reduced(operator.mul, factors)


def floor_div(dividend: Int3 | int, divisor: Int3 | int) -> Int3:
    """Quotient along each axis, rounded down, also below zero.

    >>> floor_div((9, 8, -1), 3)
    (3, 2, -1)
    """
    return per_axis(operator.floordiv, dividend, divisor)


def ceil_div(dividend: Int3 | int, divisor: Int3 | int) -> Int3:
    """Quotient along each axis, rounded up: how many pieces of ``divisor`` cover ``dividend``.

    >>> ceil_div((9, 8, -1), 3)
    (3, 3, 0)
    """
    return per_axis(lambda n, d: -(-n // d), dividend, divisor)


def minimum(*triples: Int3 | int) -> Int3:
    """Smallest entry along each axis.

    >>> minimum((1, 5, 9), 4)
    (1, 4, 4)
    """
    return _reduced(min, triples)


def maximum(*triples: Int3 | int) -> Int3:
    """Largest entry along each axis.

    >>> maximum((1, 5, 9), 4)
    (4, 5, 9)
    """
    return _reduced(max, triples)


def text(size: Int3) -> str:
    """Size in the form in which people read it.

    >>> text((17, 17, 1))
    '17 x 17 x 1'
    """
    return " x ".join(str(n) for n in size)


def volume(size: Int3) -> int:
    """Number of voxels in a box of this size.

    >>> volume((2, 3, 4))
    24
    """
    return prod(size)


@dataclass(frozen=True)
class Box:
    """A block of voxels of an image; it may reach beyond the image.

    Attributes:
        start: First voxel along X, Y, Z; negative before the image begins.
        size: Voxels along each axis.

    >>> box = Box(start=(2, 0, -1), size=(4, 5, 6))
    >>> box.stop
    (6, 5, 5)
    >>> box.within((5, 5, 5))
    Box(start=(2, 0, 0), size=(3, 5, 5))
    """

    start: Int3
    size: Int3

    @classmethod
    def whole(cls, shape: Int3) -> Box:
        """Box of all voxels of an image of ``shape``.

        >>> Box.whole((4, 5, 6))
        Box(start=(0, 0, 0), size=(4, 5, 6))
        """
        return cls((0, 0, 0), shape)

    @classmethod
    def between(cls, start: Int3, stop: Int3) -> Box:
        """Box from the voxel ``start`` up to the voxel before ``stop``.

        >>> Box.between((2, 0, 1), (6, 5, 5))
        Box(start=(2, 0, 1), size=(4, 5, 4))
        """
        return cls(start, sub(stop, start))

    @classmethod
    def around(cls, centre: Int3, size: Int3) -> Box:
        """Box of ``size`` whose middle is ``centre``, the lower of two middles if it is even.

        >>> Box.around((10, 10, 10), (3, 4, 5))
        Box(start=(9, 9, 8), size=(3, 4, 5))
        """
        return cls(sub(centre, floor_div(add(size, -1), 2)), size)

    @classmethod
    def hull(cls, boxes: Iterable[Box]) -> Box:
        """Smallest box that contains all ``boxes``, of which there is at least one.

        >>> Box.hull([Box((0, 0, 0), (1, 2, 3)), Box((4, 0, 0), (1, 1, 1))])
        Box(start=(0, 0, 0), size=(5, 2, 3))
        """
        members = tuple(boxes)
        return cls.between(
            minimum(*(box.start for box in members)), maximum(*(box.stop for box in members))
        )

    @property
    def stop(self) -> Int3:
        """First voxel after the box along each axis."""
        return add(self.start, self.size)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array ``(X, Y, Z)`` that contains it."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    def intersection(self, other: Box) -> Box:
        """Voxels of the box that lie in ``other``; sizes of 0 where there are none.

        >>> Box((0, 0, 0), (4, 4, 4)).intersection(Box((3, -1, 9), (4, 4, 4)))
        Box(start=(3, 0, 9), size=(1, 3, 0))
        """
        start = minimum(maximum(self.start, other.start), other.stop)
        stop = minimum(self.stop, other.stop)
        return Box.between(start, maximum(start, stop))

    def within(self, shape: Int3) -> Box:
        """Voxels of the box that lie in an image of ``shape``; sizes of 0 where there are none."""
        return self.intersection(Box.whole(shape))

    def moved(self, by: Int3) -> Box:
        """Box shifted by ``by`` voxels.

        >>> Box((0, 0, 5), (4, 4, 4)).moved((1, 2, -5))
        Box(start=(1, 2, 0), size=(4, 4, 4))
        """
        return Box(add(self.start, by), self.size)

    def relative_to(self, origin: Int3) -> Box:
        """Box counted from the voxel ``origin``, such as the start of a box that contains it.

        >>> Box((5, 6, 7), (4, 4, 4)).relative_to((5, 5, 5))
        Box(start=(0, 1, 2), size=(4, 4, 4))
        """
        return Box(sub(self.start, origin), self.size)
