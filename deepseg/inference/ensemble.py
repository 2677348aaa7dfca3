"""Where an ensemble is averaged: its members, mirror images of the case, and their mean.

A view is a member at a case or at a mirror image of it. It may have another grid than the case; its
predictions come back to the case's own. Several views are averaged block by block, so that the
probabilities of all classes need to exist for one block only. Files are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise
from operator import itemgetter
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.images.orientation import KEPT_AXES, Reorientation
from deepseg.data.images.resampling import box_read, cropped_geometry, resample
from deepseg.data.images.volumes import Geometry
from deepseg.data.nnunet_preparation import interpolated, separate_axis
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, Int3, sub, volume
from deepseg.inference.averaging import SCRATCH, Average, entropy, mirrored, mirrorings, softmax
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import WorkUnit, work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.inference.memory import left_on
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.overlap import NO_WINDOWS, WeightedSum, WindowGrid, window
from deepseg.inference.postprocess import most_probable
from deepseg.inference.prediction import FLOAT_BYTES, BoxPrediction, RequestedMaps
from deepseg.inference.tilewise import TileRequest, TileUnit, tile_predictions, tile_units
from deepseg.model.network import Network

Map = NDArray[np.float32]
Work: TypeAlias = WorkUnit | TileUnit
OnBoxes = Callable[[int], None]
Progress = Callable[[int], AbstractContextManager[OnBoxes]]  # number of boxes → what counts them


@dataclass(frozen=True)
class Member:
    """A model of an ensemble, ready to predict.

    Attributes:
        network: As it was trained; feature maps are computed by it.
        boxwise: The same function for labels and probabilities, box by box; None for networks
            that are computed tile by tile.
        preparation: How its training cases were prepared.
        tile: Size of a segment in DeepMedic's tiling, or of an imported network; None for the
            whole image as one.
        feature_map_tile: Size of a segment for feature maps.
        splitter: Halves boxes where memory is exhausted.
        windows: Where tiles lie.
        mirror: Axes along which the case is mirrored, in every combination.
        dtype: Of the feature maps.
        limits: Where boxes and blocks begin and end.
    """

    network: Network
    boxwise: BoxwiseNetwork | None
    preparation: Preparation
    tile: Int3 | None
    feature_map_tile: Int3
    splitter: SplitOnOutOfMemory
    limits: Limits = DEFAULT_LIMITS
    windows: WindowGrid = NO_WINDOWS
    mirror: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class View:
    """A model at a case, or at a mirror image of it.

    Attributes:
        member: The model.
        case: Prepared as the model's training cases were, and mirrored.
        axes: Along which it is mirrored.
        grid: The voxels of the case, with the axes of the view.
        turn: From the axes of the first view to those of this one.
    """

    member: Member
    case: PreparedCase
    axes: tuple[int, ...]
    grid: Geometry
    turn: Reorientation = KEPT_AXES

    @property
    def overlap(self) -> float:
        """Share of a tile's edge that it has in common with the next."""
        return self.member.windows.overlap

    @property
    def windows(self) -> WindowGrid:
        """Where tiles lie: mirrored as the case is."""
        return replace(self.member.windows, axes=self.axes)

    @property
    def classes(self) -> int:
        """Number K of classes."""
        return self.member.network.layout.classes

    @property
    def is_on_case_grid(self) -> bool:
        """The view has the voxels of the case."""
        return self.case.geometry == self.grid

    @property
    def is_direct(self) -> bool:
        """Boxes of the view are boxes of the case, and final."""
        return self.is_on_case_grid and not self.axes and not self.overlap and self.turn.is_identity

    @property
    def maps_held(self) -> float:
        """Maps of a block of the case, in values per voxel, that exist while it is predicted."""
        per_voxel = volume(self.case.shape) / volume(self.grid.shape)
        return (self.classes + (self.overlap > 0)) * per_voxel + 1

    def work_units(self, block: Box, memory: int) -> list[Work]:
        """The work by which a block of the case is predicted.

        Args:
            block: With the axes of the first view.
            memory: Bytes for boxes and context; a GPU has its own.
        """
        member, within = self.member, self._mirrored(self._source_box(self._turned(block)))
        if member.boxwise is None:
            assert member.tile is not None
            return [
                *tile_units(
                    member.network,
                    self.case,
                    tile=member.tile,
                    windows=self.windows,
                    within=within,
                )
            ]
        device = member.boxwise.device
        return [
            *work_units(
                member.boxwise,
                self.case,
                memory=left_on(device) if device.type == "cuda" else memory,
                tile=member.tile,
                windows=self.windows,
                within=within,
                limits=member.limits,
            )
        ]

    def box_predictions(
        self,
        work: Sequence[Work],
        labels: Sequence[int],
        on_boxes: OnBoxes,
        *,
        gives_scores: bool = False,
        needs_labels: bool = True,
    ) -> Iterator[tuple[Work, BoxPrediction]]:
        """Predictions on the view's own grid, in the order of ``work``.

        Args:
            work: Of `work_units`.
            labels: Of the classes whose probabilities are predicted.
            on_boxes: Called with the number of boxes just done.
            gives_scores: Whether maps are scores, logarithms of probabilities but for a constant.
            needs_labels: Whether labels are used, and not only maps.
        """
        if self.member.boxwise is None:
            return tile_predictions(
                self.member.network,
                self.case,
                [unit for unit in work if isinstance(unit, TileUnit)],
                request=TileRequest(labels, gives_scores, needs_labels, self.member.dtype),
                splitter=self.member.splitter,
                on_boxes=on_boxes,
            )
        pieces = box_predictions(
            self.member.boxwise,
            self.case,
            [unit for unit in work if not isinstance(unit, TileUnit)],
            labels=labels,
            on_boxes=on_boxes,
            splitter=self.member.splitter,
            limits=self.member.limits,
        )
        return map(_with_scores, pieces) if gives_scores else pieces

    def maps(
        self, block: Box, work: Sequence[Work], on_boxes: OnBoxes, *, gives_scores: bool
    ) -> Iterator[Map]:
        """``(X, Y, Z)`` probabilities, or scores, of class after class in a block of the case.

        Outside the region of interest, they may be anything.

        Args:
            block: With the axes of the first view.
            work: Of `work_units`.
            on_boxes: Called with the number of boxes just done.
            gives_scores: Whether maps are scores, logarithms of probabilities but for a constant.
        """
        block = self._turned(block)
        source = self._source_box(block)
        box = self._mirrored(source)
        pieces = self.box_predictions(
            work, range(self.classes), on_boxes, gives_scores=gives_scores, needs_labels=False
        )
        maps = self._weighted(box, pieces) if self.overlap else self._stitched(box, pieces)
        maps.reverse()
        while maps:  # from the last to the first, and each is gone before the next
            values = self._on_case_grid(mirrored(maps.pop(), self.axes), source, block)
            yield self.turn.inverse.array(values)

    def _turned(self, block: Box) -> Box:
        """A block of the case with the axes of this view."""
        return self.turn.box(block, self.turn.inverse.triple(self.grid.shape))

    def _source_box(self, block: Box) -> Box:
        """The voxels of the view's grid, not mirrored, that a turned block follows from."""
        if self.is_on_case_grid:
            return block
        return box_read(block, self.case.geometry, self.grid)

    def _mirrored(self, box: Box) -> Box:
        after = sub(self.case.shape, box.stop)
        x, y, z = (after[axis] if axis in self.axes else box.start[axis] for axis in range(3))
        return Box((x, y, z), box.size)

    def _stitched(self, box: Box, pieces: Iterator[tuple[Work, BoxPrediction]]) -> list[Map]:
        maps = [np.zeros(box.size, np.float32) for _ in range(self.classes)]
        for _, piece in pieces:
            for label, values in piece.probabilities.items():
                maps[label][piece.box.relative_to(box.start).slices] = values
        return maps

    def _weighted(self, box: Box, pieces: Iterator[tuple[Work, BoxPrediction]]) -> list[Map]:
        total = WeightedSum(self.classes, box.size)
        assert self.member.tile is not None
        geometry = self.member.network.geometry
        weights = window(self.windows.predicted_size(self.case.shape, self.member.tile, geometry))
        for unit, pairs in groupby(pieces, key=itemgetter(0)):
            waiting = weights.copy()  # pieces of a tile may overlap; each voxel counts once
            for _, piece in pairs:
                inside = piece.box.relative_to(unit.origin)
                shares = list(piece.probabilities.values())
                total.add(piece.box.relative_to(box.start), shares, waiting[inside.slices])
                waiting[inside.slices] = 0
        return total.finalise()

    def _on_case_grid(self, values: Map, source: Box, block: Box) -> Map:
        if self.is_on_case_grid:
            return values
        before = cropped_geometry(self.case.geometry, source)
        after = cropped_geometry(self.grid, block)
        preparation = self.member.preparation
        if preparation.nnunet is not None:
            spacing_mm = preparation.spacing_mm or self.case.geometry.spacing_mm
            separate = separate_axis(spacing_mm, self.grid.spacing_mm)
            return interpolated(values, before, after, separate)
        return np.asarray(resample(values, before, after, order=1), np.float32)


def views(
    members: Sequence[Member],
    cases: Sequence[PreparedCase],
    grid: Geometry,
) -> list[View]:
    """Views of every model, at a case and at each of its mirror images.

    Args:
        members: The models.
        cases: The case, prepared for each of the models.
        grid: The voxels of the case, with the axes of the first model's cases.
    """
    turns = [cases[0].turn.inverse.then(case.turn) for case in cases]
    return [
        View(
            member=member,
            case=replace(
                case,
                channels=mirrored(case.channels, axes),
                to_compute=None if case.to_compute is None else mirrored(case.to_compute, axes),
            ),
            axes=axes,
            grid=turn.geometry(grid),
            turn=turn,
        )
        for member, case, turn in zip(members, cases, turns, strict=True)
        for axes in mirrorings(member.mirror)
    ]


def predict_mean(
    ensemble: Sequence[View],
    region: Box,
    requested: RequestedMaps,
    *,
    memory: int,
    averages_scores: bool = False,
    put: Callable[[BoxPrediction], None],
    progress: Progress,
) -> None:
    """Predict a case by the mean of several views, box by box.

    Args:
        ensemble: Of the same case, by models with the same classes.
        region: The part of the case that is predicted.
        requested: Maps besides labels.
        memory: Bytes that may be used besides those of the result.
        averages_scores: Whether scores are averaged, from which probabilities follow at the end.
        put: Called with the prediction of every box; nothing of it is held here.
        progress: Shows how many boxes are done.
    """
    if len(ensemble) == 1 and ensemble[0].is_direct and not requested.uncertainty:
        work = ensemble[0].work_units(region, memory)
        with progress(_count(work)) as on_boxes:
            for _, piece in ensemble[0].box_predictions(work, requested.probabilities, on_boxes):
                put(piece)
        return
    parts, for_boxes = _blocks_and_rest(ensemble, region, memory)
    work_of_parts = [[view.work_units(block, for_boxes) for view in ensemble] for block in parts]
    with progress(sum(map(_count, chain(*work_of_parts)))) as on_boxes:
        for block, work_of_views in zip(parts, work_of_parts, strict=True):
            predictions = (
                view.maps(block, work, on_boxes, gives_scores=averages_scores)
                for view, work in zip(ensemble, work_of_views, strict=True)
            )
            mean = _mean_of_scores if averages_scores else _mean
            put(mean(block, predictions, ensemble[0].classes, requested))


def _blocks_and_rest(ensemble: Sequence[View], region: Box, memory: int) -> tuple[list[Box], int]:
    """Blocks of the case that follow from the mean of all views, and bytes left for boxes."""
    maps = ensemble[0].classes + max(view.maps_held for view in ensemble) + SCRATCH
    bytes_per_voxel = FLOAT_BYTES * maps
    share = ensemble[0].member.limits.blocks_share
    parts = blocks(region, int(share * memory / bytes_per_voxel), ensemble)
    return parts, memory - int(bytes_per_voxel * max(volume(block.size) for block in parts))


def _mean(
    block: Box, predictions: Iterable[Iterable[Map]], classes: int, requested: RequestedMaps
) -> BoxPrediction:
    """The prediction of a block from those of all views."""
    average = Average(classes, block.size, with_variance="variance" in requested.uncertainty)
    for prediction in predictions:
        average.add(prediction)
    return _box_prediction(block, *average.finalise(), requested)


def _mean_of_scores(
    block: Box, predictions: Iterable[Iterable[Map]], classes: int, requested: RequestedMaps
) -> BoxPrediction:
    """The prediction of a block from the mean of the scores of all views."""
    average = Average(classes, block.size, with_variance=False)
    apart = Average(classes, block.size, with_variance=True)
    has_variance = "variance" in requested.uncertainty
    for prediction in predictions:
        scores = list(prediction) if has_variance else prediction
        average.add(scores)
        if has_variance:
            apart.add(softmax(np.stack(list(scores))))
    mean, _ = average.finalise()
    variance = apart.finalise()[1] if has_variance else None
    return _box_prediction(block, softmax(mean), variance, requested)


def _box_prediction(
    block: Box, mean: Map, variance: Map | None, requested: RequestedMaps
) -> BoxPrediction:
    """The prediction of a block from the mean of all views."""
    uncertainty = {}
    if "entropy" in requested.uncertainty:
        uncertainty["entropy"] = entropy(mean)
    if variance is not None:
        uncertainty["variance"] = variance
    return BoxPrediction(
        box=block,
        labels=most_probable(mean),
        probabilities={label: mean[label] for label in requested.probabilities},
        uncertainty=uncertainty,
    )


def _with_scores(pair: tuple[Work, BoxPrediction]) -> tuple[Work, BoxPrediction]:
    """A prediction with the logarithms of its probabilities."""
    unit, piece = pair
    least = np.finfo(np.float32).tiny
    logarithms = {n: np.log(np.maximum(p, least)) for n, p in piece.probabilities.items()}
    return unit, replace(piece, probabilities=logarithms)


def blocks(region: Box, most: int, ensemble: Sequence[View]) -> list[Box]:
    """``region`` cut across X into blocks of at most ``most`` voxels, if that is possible.

    Tiles that are segments are not cut: those at a border would be computed for both blocks.
    """
    planes = region.size[0]
    count = -(-volume(region.size) // max(1, most))
    count = max(1, min(count, planes // ensemble[0].member.limits.thinnest_block))
    if any(view.member.tile is not None for view in ensemble):
        count = 1
    cuts = [region.start[0] + planes * number // count for number in range(count + 1)]
    return [Box((a, *region.start[1:]), (b - a, *region.size[1:])) for a, b in pairwise(cuts)]


def _count(work: Sequence[Work]) -> int:
    return sum(len(unit.boxes) for unit in work)
