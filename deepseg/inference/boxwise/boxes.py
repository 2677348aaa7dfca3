"""Which boxes of an image are computed one after the other: few, inside memory, around the ROI.

A box is cut in two wherever the parts, shrunk to what they hold of the region of interest, need
fewer multiply-adds than the whole, their borders counted. Boxes do not change what is computed,
only when. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Box, Int3, per_axis, volume
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


def common(one: Box, other: Box) -> Box:
    """The voxels of both boxes; sizes of 0 where there are none."""
    back = per_axis(lambda a: -a, other.start)
    return one.moved(back).within(other.size).moved(other.start)


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
            groups.setdefault(part.start[0], []).extend(even(one, within) for one in boxes)
    return list(groups.values())


def fc_boxes(roi: Roi | None, box: Box, *, limits: Limits = DEFAULT_LIMITS) -> list[Box]:
    """Boxes inside ``box`` that hold its part of the ROI more closely."""

    def cost(part: Box) -> float:
        return volume(part.size) + limits.voxels_per_call

    return [even(part, box) for part in fitted(roi, box, cost, step=limits.step)]


def fitted(roi: Roi | None, box: Box, cost: Cost, *, step: int = DEFAULT_LIMITS.step) -> list[Box]:
    """``box`` cut wherever that saves work, every ``step`` voxels; parts are shrunk to the ROI."""
    if roi is None:
        return [box]
    options = [[one for one in halves if one is not None] for halves in _cuts(roi, box, step)]
    best = min(options, key=lambda parts: sum(map(cost, parts)), default=[box])
    if sum(map(cost, best)) >= WORTH_A_CUT * cost(box):
        return [box]
    return [one for part in best for one in fitted(roi, part, cost, step=step)]


def _cuts(roi: Roi, box: Box, step: int) -> Iterator[tuple[Box | None, Box | None]]:
    for axis in range(3):
        for length in range(step, box.size[axis] - step + 1, step):
            low, rest = list(box.size), list(box.size)
            low[axis], rest[axis] = length, box.size[axis] - length
            begin = list(box.start)
            begin[axis] += length
            yield (
                bounding_box(roi, Box(box.start, (low[0], low[1], low[2]))),
                bounding_box(roi, Box((begin[0], begin[1], begin[2]), (rest[0], rest[1], rest[2]))),
            )


def even(box: Box, around: Box) -> Box:
    """``box`` with sides of even length, as far as ``around`` allows; rows of voxels pair up."""
    stop = per_axis(lambda b, n, end: min(b + n % 2, end), box.stop, box.size, around.stop)
    start = per_axis(lambda a, b, first: max(a - (b - a) % 2, first), box.start, stop, around.start)
    return Box(start, per_axis(lambda a, b: b - a, start, stop))


def _normal_cost(plan: Layout) -> Cost:
    """Multiply-adds of the normal pathway, with the border that each layer needs."""
    costs = multiply_adds(plan)
    layers = []
    border = per_axis(lambda *shrinks: sum(shrinks), plan.fc.geometry.shrink)
    padded = [one.kernel for one in plan.fc.layers if one.padding != "none"]
    border = per_axis(lambda *ns: sum(ns) - len(padded), border, *padded)
    for layer in reversed(plan.pathways[0].layers):
        layers.append((costs[layer.address], border))
        border = per_axis(lambda n, k: n + k - 1, border, layer.kernel)

    def cost(box: Box) -> float:
        return sum(
            one * prod(map(sum, zip(box.size, around, strict=True))) for one, around in layers
        )

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
    """The longest side of a box such that all maps need at most ``memory`` bytes.

    Args:
        plan: Of the network.
        size: Of what is computed in all; context is kept for slices of it across X.
        memory: Bytes.
        value_bytes: Of a number in a map.
        at_once: Boxes computed at the same time.
        limits: The sides to choose from.
    """

    def needed(edge: int) -> int:
        slab = (min(edge, size[0]), *size[1:])
        kept = CONTEXTS * context_numbers(plan, slab)
        return value_bytes * (at_once * box_numbers(plan, edge) + kept)

    return next((edge for edge in limits.edges if needed(edge) <= memory), limits.edges[-1])


def box_numbers(plan: Layout, edge: int) -> int:
    """Numbers in the maps that exist together while a box is computed."""
    widest = max(layer.outputs for layer in plan.pathways[0].layers)
    return ALIVE * widest * prod(edge + n for n in plan.shrink)


def context_numbers(plan: Layout, size: Int3) -> int:
    """Numbers in the outputs of the subsampled pathways for ``size`` voxels of the image."""
    total = 0
    for pathway in plan.pathways[1:]:
        coarse = per_axis(lambda n, f: -(-n // f) + 2, size, pathway.geometry.factor)
        total += RAW_AND_ACTIVATED * pathway.outputs * prod(coarse)
    return total
