"""A whole case through a fast network, box by box.

By default the padded image is one segment: context lies on one grid, the FC pathway sees real
neighbours, and boxes are only an order of work. In DeepMedic's way every tile is a segment of its
own, with its own context and its own border; the later one counts where two overlap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from deepseg.data.preparation import PreparedCase
from deepseg.data.voxels import read
from deepseg.geometry.boxes import Box, Int3, per_axis, text, volume
from deepseg.geometry.context import Lattice, Vision
from deepseg.inference.answer import Answer, Piece, Wanted
from deepseg.inference.boxes import bounding_box, common, fc_boxes, longest_edge, normal_boxes
from deepseg.inference.fast_layers import Part
from deepseg.inference.fast_network import FastNetwork, Read
from deepseg.inference.overlap import overlapping_tiles
from deepseg.model.regions import Field, coarse_box

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)  # of the device, and of numpy
CONTEXT_PIECE = 64  # coarse voxels along an axis that a subsampled pathway computes at once
FC_VOXELS = 1 << 14  # voxels whose FC maps exist at once
SMALLEST = 8  # voxels along an axis, below which nothing is cut when memory is exhausted
SHARE_FOR_MAPS = 0.6  # of the memory; the rest is for FC maps, scratch and what is being read


@dataclass(frozen=True)
class Job:
    """Boxes of one segment that share their context.

    Attributes:
        lattices: What each parallel pathway reads of the image for the segment.
        origin: The first predicted voxel of the segment, in the image.
        whole: Sizes of the segment's maps.
        boxes: To be predicted, in the image.
        piece: Coarse voxels along an axis that a subsampled pathway computes at once.
    """

    lattices: tuple[Lattice, ...]
    origin: Int3
    whole: Field
    boxes: tuple[Box, ...]
    piece: int = CONTEXT_PIECE


def _piece(box: Box, logits: Tensor, wanted: Sequence[int]) -> Piece:
    best = logits.argmax(0).to(torch.int16).cpu().numpy()
    if not wanted:
        return Piece(box, best, {})
    shares = logits.softmax(0).cpu().numpy()
    return Piece(box, best, {label: shares[label].copy() for label in wanted})


def jobs(
    network: FastNetwork,
    case: PreparedCase,
    *,
    memory: int,
    tile: Int3 | None,
    overlap: float = 0.0,
    within: Box | None = None,
) -> list[Job]:
    """What has to be computed of a case.

    Args:
        network: That computes.
        case: Prepared as the network's training cases were.
        memory: Bytes that may be used besides what is in use now, for boxes and context.
        tile: Size of a segment in DeepMedic's way; None for the whole image as one.
        overlap: Share of a tile's edge that it has in common with the next.
        within: The part of the image that is wanted; None for all of it.
    """
    vision = network.vision
    image = Box((0, 0, 0), case.shape)
    within = image if within is None else within
    if tile is not None:
        segments = overlapping_tiles(case.shape, tile, vision, overlap)
        return list(_tile_jobs(network, case, segments, within))
    lattices = global_lattices(vision, vision.segment(image))
    whole = network.field([points.count for points in lattices])
    around = bounding_box(case.roi, within)
    if around is None:
        return []
    edge = longest_edge(
        network.layout,
        around.size,
        memory=int(memory * SHARE_FOR_MAPS),
        value_bytes=network.dtype.itemsize,
        at_once=workers(network),
    )
    layers = normal_boxes(case.roi, within, network.layout, edge)
    piece = min(edge, CONTEXT_PIECE)
    return [Job(lattices, (0, 0, 0), whole, tuple(boxes), piece) for boxes in layers]


def _tile_jobs(
    network: FastNetwork, case: PreparedCase, segments: Sequence[Box], within: Box
) -> Iterator[Job]:
    for segment in segments:
        prediction = network.vision.prediction(segment)
        box = bounding_box(case.roi, common(prediction, within))
        if box is not None:
            lattices = network.vision.lattices(segment)
            whole = network.field([points.count for points in lattices])
            yield Job(lattices, prediction.start, whole, (box,))


def global_lattices(vision: Vision, segment: Box) -> tuple[Lattice, ...]:
    """What the pathways read for a whole padded image.

    DeepMedic's steps have another phase for segments that begin in front of the image. So the
    lattices are those of a segment that lies far inside, moved to where this one is.
    """
    far = per_axis(lambda *factors: 64 * int(np.lcm.reduce(factors)), *_factors(vision))
    back = per_axis(lambda n: -n, far)
    return tuple(
        replace(points, start=per_axis(lambda a, d: a + d, points.start, back))
        for points in vision.lattices(segment.moved(far))
    )


def _factors(vision: Vision) -> list[Int3]:
    return [sight.factor for sight in vision.pathways]


def segment_case(
    network: FastNetwork,
    case: PreparedCase,
    todo: Sequence[Job],
    *,
    wanted: Sequence[int],
    on_boxes: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Labels of every voxel of ``case`` that the jobs cover, and the wanted probabilities.

    Args:
        network: That computes.
        case: Prepared as the network's training cases were.
        todo: Of `jobs`.
        wanted: Labels of the classes whose probability maps are wanted.
        on_boxes: Called with the number of boxes just done.
        say: Called with a line where memory is exhausted and smaller boxes are computed.
    """
    answer = Answer(case.shape, network.layout.fc.outputs, Wanted(wanted))
    for _, piece in pieces(network, case, todo, wanted=wanted, on_boxes=on_boxes, say=say):
        answer.put(piece)
    return answer


def pieces(
    network: FastNetwork,
    case: PreparedCase,
    todo: Sequence[Job],
    *,
    wanted: Sequence[int],
    on_boxes: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Job, Piece]]:
    """What the jobs find, piece by piece and in their order; arguments as of `segment_case`."""
    exhausted: deque[Box] = deque()
    with _workers(network) as pool:
        submitted: deque[tuple[Job, Future[list[Piece]]]] = deque()
        for job in todo:
            context = pool.submit(_context, network, case, job)
            for box in sorted(job.boxes, key=lambda one: -volume(one.size)):
                found = pool.submit(
                    _box_or_halves, network, case, job, box, context, wanted, exhausted
                )
                submitted.append((job, found))
        while submitted:
            job, found = submitted.popleft()
            for piece in found.result():
                yield job, piece
            while exhausted:
                size = text(exhausted.popleft().size)
                say(f"memory is exhausted; {size} voxels are computed in two parts")
            on_boxes(1)


@contextmanager
def _workers(network: FastNetwork) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute with one core each; many small steps then wait for nobody."""
    number = workers(network)
    alone = (1,) if network.device.type == "cpu" else (torch.get_num_threads(),)
    with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=alone) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def workers(network: FastNetwork) -> int:
    """Boxes that are computed at the same time."""
    return torch.get_num_threads() if network.device.type == "cpu" else 1


def _reader(network: FastNetwork, case: PreparedCase, job: Job) -> Read:
    margin = network.vision.margin

    def image(number: int, box: Box) -> Tensor:
        own = job.lattices[number]
        start = per_axis(lambda a, s, i: a + s * i, own.start, own.step, box.start)
        return torch.from_numpy(read(case.channels, Lattice(start, own.step, box.size), margin))

    return image


@torch.inference_mode()
def _context(network: FastNetwork, case: PreparedCase, job: Job) -> list[tuple[Part, Part]]:
    """The outputs of the subsampled pathways for all boxes of a job, raw and activated."""
    back = per_axis(lambda a: -a, job.origin)
    shared = network.joined_box(job.whole, _hull([box.moved(back) for box in job.boxes]))
    image = _reader(network, case, job)
    found = []
    for number, pathway in enumerate(network.layout.pathways):
        if number > 0:
            box = coarse_box(shared, pathway.sight.factor)
            raw = _smaller_pieces(network, number, job, box, image)
            found.append((raw, network.activated(number, raw)))
            case.forget()
    return found


def _smaller_pieces(
    network: FastNetwork, number: int, job: Job, box: Box, image: Read, piece: int | None = None
) -> Part:
    """A subsampled pathway's output, in pieces as small as memory demands."""
    piece = job.piece if piece is None else piece
    try:
        return network.context(number, job.whole, box, image, piece=piece)
    except OUT_OF_MEMORY:
        if piece <= SMALLEST:
            raise
    return _smaller_pieces(network, number, job, box, image, piece // 2)


def _box_or_halves(
    network: FastNetwork,
    case: PreparedCase,
    job: Job,
    box: Box,
    context: Future[list[tuple[Part, Part]]],
    wanted: Sequence[int],
    exhausted: deque[Box],
) -> list[Piece]:
    """What is found in a box; in halves of it where memory is exhausted, which is noted."""
    longest = max(box.size)
    try:
        return _box(network, case, job, box, context, wanted)
    except OUT_OF_MEMORY:
        if longest <= SMALLEST:
            raise
    exhausted.append(box)  # outside of the handler, which keeps what was computed alive
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    axis = box.size.index(longest)
    first = per_axis(lambda n, cut: n // 2 if cut else n, box.size, _at(axis))
    shift = per_axis(lambda n, cut: n if cut else 0, first, _at(axis))
    rest = per_axis(lambda n, d: n - d, box.size, shift)
    halves = (Box(box.start, first), Box(box.moved(shift).start, rest))
    return [
        piece
        for half in halves
        for piece in _box_or_halves(network, case, job, half, context, wanted, exhausted)
    ]


def _at(axis: int) -> tuple[bool, bool, bool]:
    return axis == 0, axis == 1, axis == 2


@torch.inference_mode()
def _box(
    network: FastNetwork,
    case: PreparedCase,
    job: Job,
    box: Box,
    context: Future[list[tuple[Part, Part]]],
    wanted: Sequence[int],
) -> list[Piece]:
    """What is found in a box of a job."""
    coarse = context.result()
    back = per_axis(lambda a: -a, job.origin)
    needed = network.joined_box(job.whole, box.moved(back))
    normal = network.pathway(0, job.whole, needed, _reader(network, case, job))
    raw = [normal, *(part for part, _ in coarse)]
    activated = [network.activated(0, normal), *(part for _, part in coarse)]
    case.forget()
    return [
        _piece(own, network.logits(job.whole, own.moved(back), raw, activated), wanted)
        for fc_box in fc_boxes(case.roi, box)
        for own in slices_of(fc_box)
    ]


def slices_of(box: Box) -> Iterator[Box]:
    """``box`` cut along X, so that the FC maps of one slice stay small."""
    thickness = max(1, FC_VOXELS * box.size[0] // volume(box.size))
    for begin in range(box.start[0], box.stop[0], thickness):
        end = min(begin + thickness, box.stop[0])
        yield Box((begin, *box.start[1:]), (end - begin, *box.size[1:]))


def _hull(boxes: Sequence[Box]) -> Box:
    start = per_axis(lambda *ends: min(ends), *(box.start for box in boxes))
    stop = per_axis(lambda *ends: max(ends), *(box.stop for box in boxes))
    return Box(start, per_axis(lambda a, b: b - a, start, stop))
