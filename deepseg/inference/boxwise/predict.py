"""A whole case through a fast network, box by box; several boxes at the same time on a CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.lattice_reading import read
from deepseg.geometry.boxes import Box, per_axis, volume
from deepseg.geometry.context import Lattice
from deepseg.inference.boxwise.boxes import fc_boxes
from deepseg.inference.boxwise.layers import FeatureMapRegion
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import WorkUnit, workers
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.prediction import BoxPrediction
from deepseg.model.regions import coarse_box

NORMAL = 0  # number of the pathway at full resolution

Context = list[
    tuple[FeatureMapRegion, FeatureMapRegion]
]  # outputs of the subsampled pathways, raw and activated


def box_predictions(
    network: BoxwiseNetwork,
    case: PreparedCase,
    todo: Sequence[WorkUnit],
    *,
    wanted: Sequence[int],
    on_boxes: Callable[[int], None] = lambda _: None,
    room: SplitOnOutOfMemory | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[tuple[WorkUnit, BoxPrediction]]:
    """What the jobs find, piece by piece and in their order.

    Args:
        network: That computes.
        case: Prepared as the network's training cases were.
        todo: Of `jobs`.
        wanted: Labels of the classes whose probability maps are wanted.
        on_boxes: Called with the number of boxes just done.
        room: What is known of the memory; None for nothing.
        limits: Where boxes of the FC pathway begin and end.
    """
    room = SplitOnOutOfMemory() if room is None else room
    with _threads(network) as pool:
        submitted: deque[tuple[WorkUnit, Future[list[BoxPrediction]]]] = deque()
        for job in todo:
            work = _Work(network, case, job, wanted, room, limits)
            context = pool.submit(work.context)
            for box in sorted(job.boxes, key=lambda one: -volume(one.size)):
                submitted.append((job, pool.submit(work.found, box, context)))
        while submitted:
            job, found = submitted.popleft()
            for piece in found.result():
                yield job, piece
            on_boxes(1)


@contextmanager
def _threads(network: BoxwiseNetwork) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute with one core each; many small steps then wait for nobody.

    torch counts threads for the whole process too: its count is put back in the end, so that
    threads that begin later are as the caller's.
    """
    threads = torch.get_num_threads()
    per_worker = 1 if network.device.type == "cpu" else threads
    pool = ThreadPoolExecutor(
        workers(network), initializer=torch.set_num_threads, initargs=(per_worker,)
    )
    try:
        with pool:
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Work:
    """A job and all that it takes to do it."""

    network: BoxwiseNetwork
    case: PreparedCase
    job: WorkUnit
    wanted: Sequence[int]
    room: SplitOnOutOfMemory
    limits: Limits

    @torch.inference_mode()
    def context(self) -> Context:
        """What the subsampled pathways say, for all boxes of the job."""
        shared = self._joined(_hull(self.job.boxes))
        found = []
        for number, pathway in enumerate(self.network.layout.pathways):
            if number != NORMAL:
                box = coarse_box(shared, pathway.geometry.factor)
                raw = self.network.context(
                    number, self.job.whole, box, self._image, piece=self.job.piece, room=self.room
                )
                found.append((raw, self.network.activated(number, raw)))
                self.case.forget()
        return found

    def found(self, box: Box, context: Future[Context]) -> list[BoxPrediction]:
        """What is found in a box of the job."""
        coarse = context.result()
        parts = self.room.in_parts(NORMAL, box, lambda part: self._found(part, coarse))
        return [piece for part in parts for piece in part]

    @torch.inference_mode()
    def _found(self, box: Box, coarse: Context) -> list[BoxPrediction]:
        whole = self.job.whole
        normal = self.network.pathway(NORMAL, whole, self._joined(box), self._image)
        raw = [normal, *(part for part, _ in coarse)]
        activated = [self.network.activated(NORMAL, normal), *(part for _, part in coarse)]
        self.case.forget()
        return [
            _piece(own, self.network.logits(whole, self._own(own), raw, activated), self.wanted)
            for fc_box in fc_boxes(self.case.to_compute, box, limits=self.limits)
            for own in slices_of(fc_box, self.limits.fc_voxels)
        ]

    def _own(self, box: Box) -> Box:
        """A box of the image, in the prediction of the segment."""
        return box.moved(per_axis(lambda a: -a, self.job.origin))

    def _joined(self, box: Box) -> Box:
        """The outputs of the parallel pathways that a box of the image follows from."""
        return self.network.joined_box(self.job.whole, self._own(box))

    def _image(self, number: int, box: Box) -> Tensor:
        """What a pathway reads."""
        own = self.job.lattices[number]
        start = per_axis(lambda a, s, i: a + s * i, own.start, own.step, box.start)
        points = Lattice(start, own.step, box.size)
        return torch.from_numpy(read(self.case.channels, points, self.network.geometry.margin))


def _piece(box: Box, logits: Tensor, wanted: Sequence[int]) -> BoxPrediction:
    best = logits.argmax(0).to(torch.int16).cpu().numpy()
    if not wanted:
        return BoxPrediction(box, best, {})
    shares = logits.softmax(0).cpu().numpy()
    return BoxPrediction(box, best, {label: shares[label].copy() for label in wanted})


def slices_of(box: Box, voxels: int) -> Iterator[Box]:
    """``box`` cut along X into slices of about ``voxels`` voxels, so that FC maps stay small."""
    thickness = max(1, voxels * box.size[0] // volume(box.size))
    for begin in range(box.start[0], box.stop[0], thickness):
        end = min(begin + thickness, box.stop[0])
        yield Box((begin, *box.start[1:]), (end - begin, *box.size[1:]))


def _hull(boxes: Sequence[Box]) -> Box:
    start = per_axis(lambda *ends: min(ends), *(box.start for box in boxes))
    stop = per_axis(lambda *ends: max(ends), *(box.stop for box in boxes))
    return Box(start, per_axis(lambda a, b: b - a, start, stop))
