"""The plan of a case: which segments are computed, the grids of their context, and boxes of them.

By default the padded image is one segment: context lies on one grid, the FC pathway sees real
neighbours, and boxes are only an order of work. In DeepMedic's way every tile is a segment of its
own, with its own context and its own border; the later one counts where two overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, Int3, mul, per_axis, sub
from deepseg.geometry.context import Lattice, NetworkGeometry
from deepseg.inference.boxwise.boxes import ALIVE, bounding_box, longest_edge, normal_boxes
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.inference.overlap import NO_WINDOWS, WindowGrid
from deepseg.model.regions import MapSizes

FAR = 64  # periods of the context grid from the border of the image, where every phase is regular


@dataclass(frozen=True)
class WorkUnit:
    """Boxes of one segment that share their context.

    Attributes:
        lattices: What each parallel pathway reads of the image for the segment.
        origin: The first predicted voxel of the segment, in the image.
        whole: Sizes of the segment's maps.
        boxes: To be predicted, in the image.
        piece: Coarse voxels along an axis that a subsampled pathway computes at once.
        fc_voxels: Voxels whose FC maps exist at once; None where the limits decide.
    """

    lattices: tuple[Lattice, ...]
    origin: Int3
    whole: MapSizes
    boxes: tuple[Box, ...]
    piece: int = DEFAULT_LIMITS.context_edge
    fc_voxels: int | None = None


def work_units(
    network: BoxwiseNetwork,
    case: PreparedCase,
    *,
    memory: int,
    tile: Int3 | None,
    windows: WindowGrid = NO_WINDOWS,
    within: Box | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[WorkUnit]:
    """All that has to be computed of a case.

    Args:
        network: That computes.
        case: Prepared as the network's training cases were.
        memory: Bytes that may be used besides what is in use now, for boxes and context.
        tile: Size of a segment in DeepMedic's way; None for the whole image as one.
        windows: Where tiles lie.
        within: The part of the image that is predicted; None for all of it.
        limits: Where boxes begin and end.
    """
    geometry = network.geometry
    image = Box.whole(case.shape)
    within = image if within is None else within
    if tile is not None:
        segments = windows.tiles(case.shape, tile, geometry)
        return list(_tile_units(network, case, segments, within))
    lattices = global_lattices(geometry, geometry.segment(image))
    whole = network.map_sizes([points.count for points in lattices])
    around = bounding_box(case.to_compute, within)
    if around is None:
        return []
    edge = longest_edge(
        network.layout,
        around.size,
        memory=int(memory * limits.maps_share),
        value_bytes=network.dtype.itemsize,
        at_once=workers(network),
        limits=limits,
    )
    slabs = normal_boxes(case.to_compute, within, network.layout, edge, limits=limits)
    piece = min(edge, limits.context_edge)
    at_once = fc_voxels(network, memory, limits)
    return [WorkUnit(lattices, (0, 0, 0), whole, tuple(boxes), piece, at_once) for boxes in slabs]


def fc_voxels(network: BoxwiseNetwork, memory: int, limits: Limits) -> int | None:
    """Voxels of the FC pathway that a GPU computes at once; None on a processor."""
    if network.device.type == "cpu":
        return None
    widest = max(layer.outputs for layer in network.layout.fc.layers)
    bytes_per_voxel = ALIVE * widest * network.dtype.itemsize
    room = int((1 - limits.maps_share) * memory) // bytes_per_voxel
    return max(limits.fc_voxels, min(limits.fc_voxels_of_gpu, room))


def _tile_units(
    network: BoxwiseNetwork, case: PreparedCase, segments: Sequence[Box], within: Box
) -> Iterator[WorkUnit]:
    for segment in segments:
        prediction = network.geometry.prediction(segment)
        box = bounding_box(case.to_compute, prediction.intersection(within))
        if box is not None:
            lattices = network.geometry.lattices(segment)
            whole = network.map_sizes([points.count for points in lattices])
            yield WorkUnit(lattices, prediction.start, whole, (box,))


def global_lattices(geometry: NetworkGeometry, segment: Box) -> tuple[Lattice, ...]:
    """Points that the pathways read for a whole padded image.

    DeepMedic's steps have another phase for segments that begin in front of the image. So the
    lattices are those of a segment that lies far inside, moved to where this one is.
    """
    factors = [pathway.factor for pathway in geometry.pathways]
    far = mul(per_axis(lambda *steps: int(np.lcm.reduce(steps)), *factors), FAR)
    return tuple(
        replace(points, start=sub(points.start, far))
        for points in geometry.lattices(segment.moved(far))
    )


def workers(network: BoxwiseNetwork) -> int:
    """Boxes that are computed at the same time."""
    return torch.get_num_threads() if network.device.type == "cpu" else 1
