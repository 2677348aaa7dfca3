"""A whole case through a fast network, box by box; several boxes at the same time on a CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.lattice_reading import read
from deepseg.geometry.boxes import Box, add, mul, volume
from deepseg.geometry.context import Lattice
from deepseg.inference.boxwise.boxes import fc_boxes
from deepseg.inference.boxwise.layers import FeatureMapRegion
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import WorkUnit, workers
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.prediction import BoxPrediction
from deepseg.model.host_copy import HostCopy
from deepseg.model.regions import coarse_box
from deepseg.thread_pool import thread_pool

NORMAL = 0  # number of the pathway at full resolution


@dataclass(frozen=True)
class Context:
    """Outputs of the subsampled pathways.

    Attributes:
        raw: As the pathways give them.
        activated: As the first FC layer convolves them.
    """

    raw: tuple[FeatureMapRegion, ...]
    activated: tuple[FeatureMapRegion, ...]


def box_predictions(
    network: BoxwiseNetwork,
    case: PreparedCase,
    plan: Sequence[WorkUnit],
    *,
    labels: Sequence[int],
    on_boxes: Callable[[int], None] = lambda _: None,
    splitter: SplitOnOutOfMemory | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[tuple[WorkUnit, BoxPrediction]]:
    """Predictions of all boxes of a plan, piece by piece and in their order.

    Args:
        network: That computes.
        case: Prepared as the network's training cases were.
        plan: Of `work_units`.
        labels: Of the classes whose probability maps are computed.
        on_boxes: Called with the number of boxes just done.
        splitter: Cuts boxes where memory runs out, and remembers it; None for a new one.
        limits: Where boxes of the FC pathway begin and end.
    """
    splitter = SplitOnOutOfMemory() if splitter is None else splitter
    with _threads(network) as pool:
        submitted: deque[tuple[WorkUnit, Future[list[_PendingPrediction]]]] = deque()
        for unit in plan:
            predictor = _UnitPredictor(network, case, unit, labels, splitter, limits)
            context = pool.submit(predictor.context)
            for box in sorted(unit.boxes, key=lambda box: -volume(box.size)):
                submitted.append((unit, pool.submit(predictor.predictions, box, context)))
        while submitted:
            unit, future = submitted.popleft()
            for prediction in future.result():
                yield unit, prediction.arrived()
            on_boxes(1)


@contextmanager
def _threads(network: BoxwiseNetwork) -> Iterator[Executor]:
    """Threads that compute with one core each; many small steps then wait for nobody.

    torch counts threads for the whole process too: its count is put back in the end, so that
    threads that begin later are as the caller's.
    """
    threads = torch.get_num_threads()
    per_worker = 1 if network.device.type == "cpu" else threads
    pool = thread_pool(
        workers(network), initializer=_begin_thread, initargs=(per_worker, network.device)
    )
    try:
        with pool:
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(threads)


def _begin_thread(threads: int, device: torch.device) -> None:
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread


@dataclass(frozen=True)
class _UnitPredictor:
    """A unit of work and all that it takes to do it."""

    network: BoxwiseNetwork
    case: PreparedCase
    unit: WorkUnit
    labels: Sequence[int]
    splitter: SplitOnOutOfMemory
    limits: Limits

    @torch.inference_mode()
    def context(self) -> Context:
        """Outputs of the subsampled pathways, for all boxes of the unit."""
        shared = self._joined(Box.hull(self.unit.boxes))
        raw, activated = [], []
        for number, pathway in enumerate(self.network.layout.pathways):
            if number != NORMAL:
                output = self.network.context(
                    number,
                    self.unit.whole,
                    coarse_box(shared, pathway.geometry.factor),
                    self._image,
                    piece=self.unit.piece,
                    splitter=self.splitter,
                )
                raw.append(output)
                activated.append(self.network.activated(number, output))
                self.case.forget()
        return Context(tuple(raw), tuple(activated))

    def predictions(self, box: Box, context: Future[Context]) -> list[_PendingPrediction]:
        """Predictions of the pieces of a box of the unit."""
        coarse = context.result()
        pieces = self.splitter.in_parts(NORMAL, box, lambda part: self._predicted(part, coarse))
        return [prediction for predictions in pieces for prediction in predictions]

    @torch.inference_mode()
    def _predicted(self, box: Box, coarse: Context) -> list[_PendingPrediction]:
        whole = self.unit.whole
        normal = self.network.pathway(NORMAL, whole, self._joined(box), self._image)
        raw = [normal, *coarse.raw]
        activated = [self.network.activated(NORMAL, normal), *coarse.activated]
        self.case.forget()
        boxes = fc_boxes(self.case.to_compute, box, limits=self.limits)
        return [
            _prediction(
                part,
                self.network.logits(whole, part.relative_to(self.unit.origin), raw, activated),
                self.labels,
            )
            for fc_box in boxes
            for part in slices_of(fc_box, self.unit.fc_voxels or self.limits.fc_voxels)
        ]

    def _joined(self, box: Box) -> Box:
        """Voxels of the joined maps that a box of the image follows from."""
        return self.network.joined_box(self.unit.whole, box.relative_to(self.unit.origin))

    def _image(self, number: int, box: Box) -> Tensor:
        """``(C, *box.size)``: some points of a pathway's lattice."""
        lattice = self.unit.lattices[number]
        start = add(lattice.start, mul(lattice.step, box.start))
        points = Lattice(start, lattice.step, box.size)
        return torch.from_numpy(read(self.case.channels, points, self.network.geometry.margin))


@dataclass(frozen=True)
class _PendingPrediction:
    """A prediction that a GPU may still be computing, while the next box is given to it."""

    box: Box
    best: HostCopy
    probabilities: HostCopy | None
    labels: Sequence[int]

    def arrived(self) -> BoxPrediction:
        """The prediction, once it is computed."""
        best = self.best.tensor().numpy()
        if self.probabilities is None:
            return BoxPrediction(self.box, best, {})
        maps = self.probabilities.tensor().numpy()
        return BoxPrediction(self.box, best, {label: maps[label].copy() for label in self.labels})


def _prediction(box: Box, logits: Tensor, labels: Sequence[int]) -> _PendingPrediction:
    best = HostCopy(logits.argmax(0).to(torch.int16))
    probabilities = HostCopy(logits.softmax(0)) if labels else None
    return _PendingPrediction(box, best, probabilities, labels)


def slices_of(box: Box, voxels: int) -> Iterator[Box]:
    """``box`` cut along X, so that the FC maps of one slice stay small.

    Args:
        box: In the image.
        voxels: Of a slice, at most, if its planes are smaller.

    >>> [slab.size for slab in slices_of(Box.whole((5, 10, 10)), 200)]
    [(2, 10, 10), (2, 10, 10), (1, 10, 10)]
    """
    thickness = max(1, voxels * box.size[0] // volume(box.size))
    for begin in range(box.start[0], box.stop[0], thickness):
        end = min(begin + thickness, box.stop[0])
        yield Box((begin, *box.start[1:]), (end - begin, *box.size[1:]))
