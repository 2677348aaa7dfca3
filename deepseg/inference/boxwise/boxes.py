"""Which boxes of an image are computed one after the other: few, inside memory, around the ROI.

A box is cut in two wherever the halves, shrunk to what they hold of the region of interest, need
fewer multiply-adds than the whole, their borders counted. Boxes do not change what is computed,
only when. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Box, Int3, add, ceil_div, maximum, minimum, per_axis, sub, volume
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.model.cost import multiply_adds
from deepseg.model.layout import Layout
from deepseg.model.regions import split

Roi = NDArray[np.bool_]
Cost = Callable[[Box], float]

WORTH_A_CUT = 0.999
ALIVE = 4  # maps of a layer that exist together: raw, activated, convolved, and a copy
CONTEXTS = 2  # that exist together: of the slices computed now and of the next ones
RAW_AND_ACTIVATED = 2


def bounding_box(roi: Roi | None, within: Box) -> Box | None:
    """Smallest box that holds what ``within`` holds of ``roi``; None if that is nothing.

    >>> roi = np.zeros((9, 9, 9), bool)
    >>> roi[2:5, 3, 4:8] = True
    >>> bounding_box(roi, Box.whole((9, 9, 9)))
    Box(start=(2, 3, 4), size=(3, 1, 4))
    """
    if roi is None:
        return within
    start, stop = [], []
    inside: NDArray[Any] = roi[within.slices]
    for axis in range(3):
        plane = tuple(other for other in range(3) if other != axis)
        (hits,) = np.nonzero(inside.any(axis=plane))
        if hits.size == 0:
            return None
        start.append(int(hits[0]))
        stop.append(int(hits[-1]) + 1)
    box = Box.between((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return box.moved(within.start)


def normal_boxes(
    roi: Roi | None, within: Box, plan: Layout, edge: int, *, limits: Limits = DEFAULT_LIMITS
) -> list[list[Box]]:
    """Boxes that hold the ROI, none larger than ``edge``, grouped along X.

    Args:
        roi: ``(X, Y, Z)``, or None for the whole image.
        within: Part of the image.
        plan: Decides how expensive the border of a box is.
        edge: The longest side.
        limits: Where a box may be cut.
    """
    whole = bounding_box(roi, within)
    groups: dict[int, list[Box]] = {}
    for part in () if whole is None else split(whole, edge):
        box = bounding_box(roi, part)
        if box is not None:
            boxes = fitted(roi, box, _normal_cost(plan), step=limits.step)
            groups.setdefault(part.start[0], []).extend(even(fit, within) for fit in boxes)
    return list(groups.values())


def fc_boxes(roi: Roi | None, box: Box, *, limits: Limits = DEFAULT_LIMITS) -> list[Box]:
    """Boxes inside ``box`` that hold its part of the ROI more closely."""

    def cost(part: Box) -> float:
        return volume(part.size) + limits.voxels_per_call

    return [even(fit, box) for fit in fitted(roi, box, cost, step=limits.step)]


def fitted(roi: Roi | None, box: Box, cost: Cost, *, step: int = DEFAULT_LIMITS.step) -> list[Box]:
    """``box`` cut wherever that saves work, every ``step`` voxels; pieces are shrunk to the ROI."""
    if roi is None:
        return [box]
    options = [[half for half in halves if half is not None] for halves in _cuts(roi, box, step)]
    best = min(options, key=lambda halves: sum(map(cost, halves)), default=[box])
    if sum(map(cost, best)) >= WORTH_A_CUT * cost(box):
        return [box]
    return [fit for half in best for fit in fitted(roi, half, cost, step=step)]


def _cuts(roi: Roi, box: Box, step: int) -> Iterator[tuple[Box | None, Box | None]]:
    for axis in range(3):
        for length in range(step, box.size[axis] - step + 1, step):
            low, high = list(box.stop), list(box.start)
            low[axis] = high[axis] = box.start[axis] + length
            yield (
                bounding_box(roi, Box.between(box.start, (low[0], low[1], low[2]))),
                bounding_box(roi, Box.between((high[0], high[1], high[2]), box.stop)),
            )


def even(box: Box, around: Box) -> Box:
    """``box`` with sides of even length, as far as ``around`` allows; rows of voxels pair up.

    >>> even(Box((1, 2, 3), (3, 4, 5)), Box.whole((9, 9, 8)))
    Box(start=(1, 2, 2), size=(4, 4, 6))
    """
    stop = minimum(add(box.stop, _odd(box.size)), around.stop)
    start = maximum(sub(box.start, _odd(sub(stop, box.start))), around.start)
    return Box.between(start, stop)


def _odd(size: Int3) -> Int3:
    """1 for every odd side, 0 for even ones."""
    return per_axis(lambda n: n % 2, size)


def _normal_cost(plan: Layout) -> Cost:
    """Multiply-adds of the normal pathway, with the border that each layer needs."""
    costs = multiply_adds(plan)
    layers = []
    padded = [layer.kernel for layer in plan.fc.layers if layer.padding != "none"]
    border = add(plan.fc.geometry.shrink, *padded, -len(padded))
    for layer in reversed(plan.pathways[0].layers):
        layers.append((costs[layer.address], border))
        border = add(border, layer.kernel, -1)

    def cost(box: Box) -> float:
        return sum(per_voxel * volume(add(box.size, margin)) for per_voxel, margin in layers)

    return cost


def longest_edge(
    plan: Layout,
    size: Int3,
    *,
    memory: int,
    value_bytes: int,
    at_once: int = 1,
    limits: Limits = DEFAULT_LIMITS,
) -> int:
    """Longest side of a box such that all maps need at most ``memory`` bytes; the last at least.

    Args:
        plan: Of the network.
        size: Of what is computed in all; context is kept for slices of it across X.
        memory: Bytes.
        value_bytes: Of a value in a map.
        at_once: Boxes computed at the same time.
        limits: The sides to choose from.
    """

    def needed(edge: int) -> int:
        slab = (min(edge, size[0]), *size[1:])
        context = CONTEXTS * context_values(plan, slab)
        return value_bytes * (at_once * box_values(plan, edge) + context)

    return next((edge for edge in limits.edges if needed(edge) <= memory), limits.edges[-1])


def box_values(plan: Layout, edge: int) -> int:
    """Values in the maps that exist together while a box is computed."""
    widest = max(layer.outputs for layer in plan.pathways[0].layers)
    return ALIVE * widest * prod(add(plan.shrink, edge))


def context_values(plan: Layout, size: Int3) -> int:
    """Values in the outputs of the subsampled pathways for ``size`` voxels of the image."""
    total = 0
    for pathway in plan.pathways[1:]:
        coarse = add(ceil_div(size, pathway.geometry.factor), 2)
        total += RAW_AND_ACTIVATED * pathway.outputs * prod(coarse)
    return total
