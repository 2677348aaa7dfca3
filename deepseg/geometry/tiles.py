"""Tiles that cover an image, each predicted from a segment of one size."""

from __future__ import annotations

from itertools import product

from deepseg.geometry.boxes import Box, Int3, add, minimum, sub
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


def tiles(shape: Int3, tile: Int3, geometry: NetworkGeometry) -> list[Box]:
    """Segments of an image, in its voxels, whose predictions cover it; later ones overwrite.

    The image counts as surrounded by the margin that a segment loses, so every voxel is predicted;
    segments begin in that margin, at negative voxels. A tile larger than that is cut down to it.
    X varies fastest, as in DeepMedic.
    """
    low, _ = geometry.margin
    padded = add(shape, geometry.shrink)
    size = minimum(tile, padded)
    stride = geometry.prediction(Box.whole(size)).size
    x, y, z = (starts(n, t, s) for n, t, s in zip(padded, size, stride, strict=True))
    return [Box(sub((a, b, c), low), size) for c, b, a in product(z, y, x)]
