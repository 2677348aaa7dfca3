"""Looks at a case: one model's, its look at a mirror image, or those of several models.

A look may have another grid than the case; what it says comes back to the case's own. Several looks
answer block by block, so that the probabilities of all classes need to exist for one block only.
Files, and what becomes of an answer, are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from deepseg.data.images.resampling import box_read, cropped_geometry, resample
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, Int3, per_axis, volume
from deepseg.inference.averaging import SCRATCH, Average, entropy, mirrored
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import WorkUnit, work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.memory import left_on
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.overlap import WeightedSum, predicted_size, window
from deepseg.inference.postprocess import segmentation
from deepseg.inference.prediction import FLOAT_BYTES, BoxPrediction, RequestedMaps

SHARE_FOR_BLOCKS = 0.4  # of the memory; the rest is for the boxes of the network
THINNEST = 16  # planes of a block; in thinner ones, most would be border

Map = NDArray[np.float32]
OnBoxes = Callable[[int], None]
Progress = Callable[[int], AbstractContextManager[OnBoxes]]  # number of boxes → what counts them


@dataclass(frozen=True)
class View:
    """One model, and the case as it sees it.

    Attributes:
        network: The model.
        case: Prepared as the model wants it, and mirrored.
        axes: Along which it is mirrored.
        grid: The case's own.
        tile: Size of a segment in DeepMedic's way; None for the whole image as one.
        overlap: Share of a tile's edge that it has in common with the next.
        room: What is known of the memory.
    """

    network: BoxwiseNetwork
    case: PreparedCase
    axes: tuple[int, ...]
    grid: Geometry
    tile: Int3 | None
    overlap: float
    room: SplitOnOutOfMemory

    @property
    def classes(self) -> int:
        """Number K of classes."""
        return self.network.layout.fc.outputs

    @property
    def is_straight(self) -> bool:
        """Whether boxes of it are boxes of the case, and final."""
        return self.case.geometry == self.grid and not self.axes and not self.overlap

    @property
    def maps_held(self) -> float:
        """Maps of a block of the case, in numbers per voxel, that exist while the look answers."""
        per_voxel = volume(self.case.shape) / volume(self.grid.shape)
        return (self.classes + (self.overlap > 0)) * per_voxel + 1

    def work_units(self, block: Box, memory: int) -> list[WorkUnit]:
        """What has to be computed for a block of the case.

        Args:
            block: On the case's own grid.
            memory: Bytes for boxes and context; a GPU has its own.
        """
        device = self.network.device
        return work_units(
            self.network,
            self.case,
            memory=left_on(device) if device.type == "cuda" else memory,
            tile=self.tile,
            overlap=self.overlap,
            within=self._mirrored(self._needed(block)),
        )

    def box_predictions(
        self, todo: Sequence[WorkUnit], wanted: Sequence[int], on_boxes: OnBoxes
    ) -> Iterator[tuple[WorkUnit, BoxPrediction]]:
        """What is found on the look's own grid, in the order of the jobs."""
        return box_predictions(
            self.network, self.case, todo, wanted=wanted, on_boxes=on_boxes, room=self.room
        )

    def answer(self, block: Box, todo: Sequence[WorkUnit], on_boxes: OnBoxes) -> Iterator[Map]:
        """The ``(X, Y, Z)`` probabilities of class after class in a block of the case.

        Outside the region of interest, they may be anything.

        Args:
            block: On the case's own grid.
            todo: Of `work_units`.
            on_boxes: Called with the number of boxes just done.
        """
        needed = self._needed(block)
        seen = self._mirrored(needed)
        found = self.box_predictions(todo, range(self.classes), on_boxes)
        maps = self._weighted(seen, found) if self.overlap else self._stitched(seen, found)
        maps.reverse()
        while maps:  # from the last to the first, and each is gone before the next
            yield self._on_own_grid(mirrored(maps.pop(), self.axes), needed, block)

    def _needed(self, block: Box) -> Box:
        """The part of the look's grid, not mirrored, that a block of the case follows from."""
        is_own = self.case.geometry == self.grid
        return block if is_own else box_read(block, self.case.geometry, self.grid)

    def _mirrored(self, box: Box) -> Box:
        back = per_axis(lambda n, b: n - b, self.case.shape, box.stop)
        x, y, z = (back[axis] if axis in self.axes else box.start[axis] for axis in range(3))
        return Box((x, y, z), box.size)

    def _stitched(self, box: Box, found: Iterator[tuple[WorkUnit, BoxPrediction]]) -> list[Map]:
        maps = [np.zeros(box.size, np.float32) for _ in range(self.classes)]
        back = per_axis(lambda a: -a, box.start)
        for _, piece in found:
            for label, values in piece.probabilities.items():
                maps[label][piece.box.moved(back).slices] = values
        return maps

    def _weighted(self, box: Box, found: Iterator[tuple[WorkUnit, BoxPrediction]]) -> list[Map]:
        assert self.tile is not None
        total = WeightedSum(self.classes, box.size)
        weights = window(predicted_size(self.case.shape, self.tile, self.network.geometry))
        back = per_axis(lambda a: -a, box.start)
        for job, pairs in groupby(found, key=itemgetter(0)):
            waiting = weights.copy()  # pieces of a tile may overlap; each voxel counts once
            for _, piece in pairs:
                inside = piece.box.moved(per_axis(lambda a: -a, job.origin))
                shares = list(piece.probabilities.values())
                total.add(piece.box.moved(back), shares, waiting[inside.slices])
                waiting[inside.slices] = 0
        return total.taken()

    def _on_own_grid(self, one: Map, needed: Box, block: Box) -> Map:
        if self.case.geometry == self.grid:
            return one
        source, target = (
            cropped_geometry(self.case.geometry, needed),
            cropped_geometry(self.grid, block),
        )
        return np.asarray(resample(one, source, target, order=1), np.float32)


def combine(
    looks: Sequence[View],
    around: Box,
    wanted: RequestedMaps,
    *,
    memory: int,
    put: Callable[[BoxPrediction], None],
    progress: Progress,
) -> None:
    """Find out what the looks say together.

    Args:
        looks: At the same case, by models with the same classes.
        around: The part of the case that is wanted.
        wanted: What is wanted besides labels.
        memory: Bytes that may be used besides those of the answer.
        put: Called with every piece of the answer; nothing of it is held here.
        progress: Shows how many boxes are done.
    """
    if len(looks) == 1 and looks[0].is_straight and not wanted.uncertainty:
        todo = looks[0].work_units(around, memory)
        with progress(_count(todo)) as on_boxes:
            for _, piece in looks[0].box_predictions(todo, wanted.probabilities, on_boxes):
                put(piece)
        return
    parts, for_boxes = _blocks_and_rest(looks, around, memory)
    todo_of_parts = [[look.work_units(block, for_boxes) for look in looks] for block in parts]
    with progress(sum(map(_count, chain(*todo_of_parts)))) as on_boxes:
        for block, per_look in zip(parts, todo_of_parts, strict=True):
            answers = (
                look.answer(block, one, on_boxes) for look, one in zip(looks, per_look, strict=True)
            )
            put(_together(block, answers, looks[0].classes, wanted))


def _blocks_and_rest(looks: Sequence[View], around: Box, memory: int) -> tuple[list[Box], int]:
    """Blocks of the case that follow from the mean of all looks, and what is left for boxes."""
    maps = looks[0].classes + max(look.maps_held for look in looks) + SCRATCH
    held = FLOAT_BYTES * maps
    parts = blocks(around, int(SHARE_FOR_BLOCKS * memory / held), looks)
    return parts, memory - int(held * max(volume(block.size) for block in parts))


def _together(
    block: Box, answers: Iterable[Iterable[Map]], classes: int, wanted: RequestedMaps
) -> BoxPrediction:
    """What several answers about a block are as one."""
    average = Average(classes, block.size, with_variance="variance" in wanted.uncertainty)
    for answer in answers:
        average.add(answer)
    mean, variance = average.taken()
    doubt = {}
    if "entropy" in wanted.uncertainty:
        doubt["entropy"] = entropy(mean)
    if variance is not None:
        doubt["variance"] = variance
    return BoxPrediction(
        box=block,
        labels=segmentation(mean),
        probabilities={label: mean[label] for label in wanted.probabilities},
        uncertainty=doubt,
    )


def blocks(around: Box, most: int, looks: Sequence[View]) -> list[Box]:
    """``around`` cut across X into blocks of at most ``most`` voxels, if that is possible.

    Tiles of their own are not cut: those at a border would be computed for both blocks.
    """
    planes = around.size[0]
    count = -(-volume(around.size) // max(1, most))
    count = max(1, min(count, planes // THINNEST))
    if any(look.tile is not None for look in looks):
        count = 1
    cuts = [around.start[0] + planes * number // count for number in range(count + 1)]
    return [Box((a, *around.start[1:]), (b - a, *around.size[1:])) for a, b in pairwise(cuts)]


def _count(todo: Sequence[WorkUnit]) -> int:
    return sum(len(job.boxes) for job in todo)
