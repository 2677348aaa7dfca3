"""Which boxes of an image are computed one after the other: few, inside memory, around the ROI.

The region of interest is cut into a regular raster of boxes, and each box shrinks to what it holds
of the region. Small boxes fit the region better and need less memory, large ones compute fewer
borders; the raster with the fewest multiply-adds that fits into the memory is taken. Boxes do not
change what is computed, only when. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Box, Int3, per_axis, volume
from deepseg.model.cost import multiply_adds_in_inference
from deepseg.model.layout import Layout
from deepseg.model.regions import Field, boxes_needed, parts_of

EDGES = (16, 24, 32, 40, 48, 56, 64, 80, 96)
ALIVE = 4  # maps of a layer that exist together: raw, activated, convolved, and a copy


def bounding_box(roi: NDArray[np.bool_] | None, within: Box) -> Box | None:
    """The smallest box that holds what ``within`` holds of ``roi``; None if that is nothing."""
    if roi is None:
        return within
    start, stop = [], []
    inside: NDArray[Any] = roi[within.slices]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (found,) = np.nonzero(inside.any(axis=others))
        if found.size == 0:
            return None
        start.append(within.start[axis] + int(found[0]))
        stop.append(within.start[axis] + int(found[-1]) + 1)
    first = (start[0], start[1], start[2])
    return Box(first, per_axis(lambda a, b: b - a, first, (stop[0], stop[1], stop[2])))


def raster(roi: NDArray[np.bool_] | None, shape: Int3, edge: int) -> list[list[Box]]:
    """Boxes of at most ``edge`` voxels that hold the ROI, in layers along X."""
    whole = bounding_box(roi, Box((0, 0, 0), shape))
    if whole is None:
        return []
    layers: dict[int, list[Box]] = {}
    for part in parts_of(whole, edge):
        box = bounding_box(roi, part)
        if box is not None:
            layers.setdefault(part.start[0], []).append(box)
    return list(layers.values())


def best_raster(
    roi: NDArray[np.bool_] | None,
    shape: Int3,
    plan: Layout,
    whole: Field,
    *,
    memory: int,
    value_bytes: int,
) -> list[list[Box]]:
    """The cheapest raster whose boxes need at most ``memory`` bytes each, or the finest one."""
    fitting = [edge for edge in EDGES if needed_bytes(plan, edge, value_bytes) <= memory]
    rasters = [raster(roi, shape, edge) for edge in fitting or EDGES[:1]]
    return min(rasters, key=lambda layers: sum(work(plan, whole, box) for box in _all(layers)))


def _all(layers: Sequence[Sequence[Box]]) -> Iterator[Box]:
    for boxes in layers:
        yield from boxes


def work(plan: Layout, whole: Field, box: Box) -> float:
    """Multiply-adds for one box: those of the normal and the FC pathway."""
    costs = multiply_adds_in_inference(plan)
    fc = boxes_needed(plan.fc.layers, whole.fc, box)
    normal = boxes_needed(plan.pathways[0].layers, whole.parallel[0], fc[0])
    return sum(
        costs[layer.address] * volume(output.size)
        for pathway, boxes in ((plan.pathways[0], normal), (plan.fc, fc))
        for layer, output in zip(pathway.layers, boxes[1:], strict=True)
    )


def needed_bytes(plan: Layout, edge: int, value_bytes: int) -> int:
    """Of the maps of the normal pathway while a box of ``edge`` voxels is computed."""
    widest = max(layer.outputs for layer in plan.pathways[0].layers)
    voxels = prod(edge + n for n in plan.shrink)
    return ALIVE * widest * voxels * value_bytes
