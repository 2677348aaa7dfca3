"""Tiles that cover an image, each predicted from a segment of one size."""

from __future__ import annotations

from itertools import product

from deepseg.geometry.boxes import Box, Int3, add, sub
from deepseg.geometry.context import NetworkGeometry


def starts(length: int, tile: int, stride: int) -> list[int]:
    """First voxels of tiles along an axis: every ``stride``, the last one flush with the end.

    >>> starts(10, tile=4, stride=4)
    [0, 4, 6]
    """
    if tile >= length:
        return [0]
    regular = list(range(0, length - tile, stride))
    return [*regular, length - tile]


def starts_in_phase(length: int, tile: int, stride: int, step: int) -> list[int]:
    """First voxels of tiles along an axis, all multiples of ``step``; the last may end beyond it.

    Where tiles are closer than one step, they are as `starts` gives them.

    >>> starts_in_phase(50, tile=32, stride=20, step=8)
    [0, 16, 24]
    """
    if stride < step:
        return starts(length, tile, stride)
    if tile >= length:
        return [0]
    stride -= stride % step
    last = -(-(length - tile) // step) * step
    return [*range(0, last, stride), last]


def tiles(shape: Int3, tile: Int3, geometry: NetworkGeometry) -> list[Box]:
    """Segments of an image, in its voxels, whose predictions cover it; later ones overwrite.

    The image counts as surrounded by the margin that a segment loses, so every voxel is predicted;
    segments begin in that margin, at negative voxels. A tile larger than that is cut down to it.
    Imported networks compute the same in every tile, as all are in phase with their strides.
    X varies fastest, as in DeepMedic.
    """
    low, _ = geometry.margin
    padded = add(shape, geometry.shrink)
    size = geometry.tile(shape, tile)
    stride = geometry.prediction(Box.whole(size)).size
    x, y, z = (
        starts_in_phase(n, t, s, step)
        for n, t, s, step in zip(padded, size, stride, geometry.step, strict=True)
    )
    return [Box(sub((a, b, c), low), size) for c, b, a in product(z, y, x)]
