"""Which voxels of every map are needed for a box of the prediction; nothing here imports torch.

A `MapSizes` is one whole segment: a tile, or a whole padded image. Boxes are counted in the map
that they are part of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from deepseg.geometry.boxes import (
    Box,
    Int3,
    add,
    ceil_div,
    floor_div,
    negate,
    per_axis,
    sub,
)
from deepseg.model.layout import LayerPlan, PathwayLayout


@dataclass(frozen=True)
class MapSizes:
    """Sizes of the maps of one whole segment.

    Attributes:
        parallel: Per parallel pathway, of the input of each layer and of the last output.
        fc: Of the joined maps, and of the output of each FC layer.
    """

    parallel: tuple[tuple[Int3, ...], ...]
    fc: tuple[Int3, ...]


def map_sizes(
    pathways: Sequence[PathwayLayout], fc: PathwayLayout, inputs: Sequence[Int3]
) -> MapSizes:
    """The sizes that follow from those of the inputs."""
    parallel = tuple(
        _sizes(pathway.layers, size) for pathway, size in zip(pathways, inputs, strict=True)
    )
    return MapSizes(parallel, _sizes(fc.layers, parallel[0][-1]))


def _sizes(layers: Sequence[LayerPlan], size: Int3) -> tuple[Int3, ...]:
    sizes = [size]
    for layer in layers:
        sizes.append(output_size(sizes[-1], layer))
    return tuple(sizes)


def boxes_needed(layers: Sequence[LayerPlan], sizes: Sequence[Int3], output: Box) -> list[Box]:
    """Boxes that the layers read, and last the output itself, to give the box ``output``."""
    boxes = [output]
    for layer, size in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        boxes.append(input_box(boxes[-1], size, layer))
    return boxes[::-1]


def coarse_box(box: Box, factor: Int3) -> Box:
    """Coarse voxels in which the voxels of ``box`` lie.

    >>> coarse_box(Box((4, 0, 5), (3, 3, 1)), (3, 3, 3))
    Box(start=(1, 0, 1), size=(2, 1, 1))
    """
    return Box.between(floor_div(box.start, factor), ceil_div(box.stop, factor))


def output_size(size: Int3, plan: LayerPlan) -> Int3:
    """Size of the map that ``plan`` makes of ``size`` voxels."""
    if plan.padding != "none":
        return size
    return sub(size, add(plan.kernel, -1))


def input_box(output: Box, size: Int3, plan: LayerPlan) -> Box:
    """The voxels that ``plan`` reads, of ``size``, to give those of ``output``."""
    box = Box(output.start, add(output.size, plan.kernel, -1))
    if plan.padding == "none":
        return box
    return box.moved(negate(floor_div(add(plan.kernel, -1), 2))).within(size)


def split(box: Box, edge: int) -> Iterator[Box]:
    """Boxes of at most ``edge`` voxels along each axis that make up ``box``.

    >>> [part.size for part in split(Box((0, 0, 0), (5, 2, 2)), 4)]
    [(2, 2, 2), (3, 2, 2)]
    """
    pieces = ceil_div(box.size, edge)
    for i, j, k in product(*map(range, pieces)):
        start = per_axis(_cut_at, box.start, box.size, pieces, (i, j, k))
        stop = per_axis(_cut_at, box.start, box.size, pieces, (i + 1, j + 1, k + 1))
        yield Box.between(start, stop)


def _cut_at(begin: int, length: int, pieces: int, number: int) -> int:
    return begin + length * number // pieces
