"""One case through one or several models: read, answered, averaged, cleaned.

With one model and one look at the case, labels are found box by box and nothing else is held in
memory but the probability maps that are wanted. Several models, mirror images, overlapping tiles
and maps of doubt need the probabilities of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.config.testing import Inference
from deepseg.config.training import SavedResults
from deepseg.data.cases import Case
from deepseg.data.preparation import PreparedCase, channel_bytes, prepared
from deepseg.data.resampling import resample, voxels_read
from deepseg.data.volumes import Volume, read_labels, read_mask
from deepseg.geometry.boxes import Int3, per_axis, volume
from deepseg.inference import memory
from deepseg.inference.averaging import Average, entropy, mirrored, mirrorings
from deepseg.inference.components import Cleaning, cleaned
from deepseg.inference.fast_network import FastNetwork
from deepseg.inference.fast_volume import Job, jobs, pieces, segment_case
from deepseg.inference.overlap import WeightedSum, predicted_size, window
from deepseg.inference.postprocess import Labels, masked, segmentation
from deepseg.inference.volume import predict
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.sessions.wishes import wanted_feature_maps, wanted_probabilities

FLOAT_BYTES = 4
SHARE_FOR_CHANNELS = 0.25  # of the memory; the channels of larger cases stay on the disk

Maps = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True)
class Member:
    """One of the models that answer.

    Attributes:
        network: As it was trained; feature maps are those of the first member's.
        fast: The same for segmentations and probabilities.
        preparation: How it wants cases prepared.
    """

    network: Network
    fast: FastNetwork
    preparation: Preparation


@dataclass(frozen=True)
class Computing:
    """How whole cases are answered.

    Attributes:
        members: Models with the same channels and classes.
        inference: Settings.
        save: What is wanted of every case.
        cleaning: Rules for components, by label.
        tile: Of feature maps, and in DeepMedic's tiling; None for that of each model.
        batch_size: Tiles of feature maps computed together.
    """

    members: tuple[Member, ...]
    inference: Inference
    save: SavedResults
    cleaning: Mapping[int, Cleaning]
    tile: Int3 | None
    batch_size: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, the background first."""
        return self.members[0].network.config.classes

    @property
    def needs_all_classes(self) -> bool:
        """Whether labels alone, box by box, are not enough."""
        own = self.inference
        return bool(len(self.members) > 1 or own.mirror or own.overlap or self.save.uncertainty)

    def tile_of(self, member: Member) -> Int3:
        """The tile of a member, where tiles are its segments."""
        own = member.network.config.segment_sizes["inference"]
        return own if self.tile is None else self.tile

    def jobs(self, member: Member, ready: PreparedCase, held: int) -> list[Job]:
        """What a member has to compute of a case, beside ``held`` probability maps."""
        tiling = self.inference.tiling
        own = member.network.config.context_alignment
        is_local = tiling == "deepmedic" or (tiling is None and own == "deepmedic")
        answer = volume(ready.shape) * (1 + FLOAT_BYTES * held)
        return jobs(
            member.fast,
            ready,
            memory=memory.left(self.inference.memory_bytes) - answer,
            tile=self.tile_of(member) if is_local else None,
            overlap=self.inference.overlap,
        )


def member(network: Network, inference: Inference, preparation: Preparation) -> Member:
    """``network`` with its weights of now, ready to segment cases."""
    precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}[inference.precision]
    return Member(network, FastNetwork(network, precision), preparation)


@dataclass(frozen=True)
class OpenCase:
    """A case that has been read.

    Attributes:
        ready: Prepared for each member; one and the same where they want the same. The region of
            interest is what has to be computed: on another grid than the case's own, every voxel
            that a result inside the case's own region is interpolated from.
        roi: ``(X, Y, Z)``, the case's own region of interest, or None where the whole image counts.
        truth: ``(X, Y, Z)`` labels, or None.
    """

    case: Case
    ready: tuple[PreparedCase, ...]
    roi: NDArray[np.bool_] | None
    truth: NDArray[np.integer[Any]] | None

    @property
    def source(self) -> Volume:
        """The first channel, on whose grid results are."""
        source = self.ready[0].source
        assert source is not None
        return source


def is_large(how: Computing, case: Case) -> bool:
    """Whether the channels of a case take too much of the memory to be held in it."""
    needed = channel_bytes(case, how.members[0].network.config.channels)
    return needed > SHARE_FOR_CHANNELS * memory.left(how.inference.memory_bytes)


def open_case(how: Computing, case: Case, scratch: Path | None = None) -> OpenCase:
    """Read a case and prepare it as the training cases of each model were.

    Args:
        how: The models, and what memory they may use.
        case: Where its files are.
        scratch: Folder for the channels of a large case; None to hold all in memory.
    """
    disk = scratch if scratch is not None and is_large(how, case) else None
    roi = None if case.roi is None else read_mask(case.roi).array
    ways: list[Preparation] = []
    made: list[PreparedCase] = []
    for one in how.members:
        if one.preparation not in ways:
            ways.append(one.preparation)
            channels = one.network.config.channels
            ready = prepared(case, one.preparation, channels, scratch=disk)
            made.append(replace(ready, roi=_to_compute(roi, ready)))
    return OpenCase(
        case=case,
        ready=tuple(made[ways.index(one.preparation)] for one in how.members),
        roi=roi,
        truth=None if case.labels is None else read_labels(case.labels, dict(case.label_map)).array,
    )


def _to_compute(roi: NDArray[np.bool_] | None, ready: PreparedCase) -> NDArray[np.bool_] | None:
    """What results inside a case's own region of interest follow from, on the grid of ``ready``.

    More than its nearest voxels, over which intensities are normalised.
    """
    assert ready.source is not None
    own = ready.source.geometry
    if roi is None or ready.geometry == own:
        return roi
    return voxels_read(roi, ready.geometry, own)


@dataclass(frozen=True)
class Segmented:
    """A case and what the models say about it, on the case's own grid.

    Attributes:
        source: The case's first channel.
        labels: ``(X, Y, Z)``: the segmentation.
        probabilities: ``(X, Y, Z)`` by label, 0 outside the region of interest; those wanted.
        uncertainty: ``(X, Y, Z)`` by name, 0 outside the region of interest.
        feature_maps: ``(maps, X, Y, Z)`` by layer address.
        truth: ``(X, Y, Z)`` labels, or None.
    """

    source: Volume
    labels: Labels
    probabilities: Maps
    uncertainty: Mapping[str, NDArray[np.float32]]
    feature_maps: Mapping[str, NDArray[np.float32]]
    truth: NDArray[np.integer[Any]] | None


def segmented(how: Computing, opened: OpenCase, console: Console) -> Segmented:
    """What the models say about a case that has been read."""
    ready, source = opened.ready[0], opened.source
    is_own_grid = ready.geometry == source.geometry
    if is_own_grid and not how.needs_all_classes:
        found = _labels_alone(how, opened, console)
    else:
        found = _averaged(how, opened, console)
    voxel_ml = source.geometry.voxel_ml
    labels = cleaned(found.labels, how.cleaning, voxel_ml=voxel_ml, roi=opened.roi)
    return replace(found, labels=labels, feature_maps=_feature_maps(how, ready))


def _labels_alone(how: Computing, opened: OpenCase, console: Console) -> Segmented:
    one, ready = how.members[0], opened.ready[0]
    wanted = wanted_probabilities(how.classes, how.save)
    todo = how.jobs(one, ready, len(wanted))
    with console.progress(opened.case.name, sum(len(job.boxes) for job in todo)) as advance:
        answer = segment_case(
            one.fast, ready, todo, wanted=wanted, on_boxes=advance, say=console.warn
        )
    if ready.roi is not None:
        answer.labels[~ready.roi] = 0
    probabilities = {
        label: _float32(masked(one, ready.roi)) for label, one in answer.probabilities.items()
    }
    return Segmented(opened.source, answer.labels, probabilities, {}, {}, opened.truth)


@dataclass(frozen=True)
class _Look:
    """One model's look at a case, perhaps mirrored."""

    member: Member
    ready: PreparedCase
    axes: tuple[int, ...]
    todo: list[Job]


def _averaged(how: Computing, opened: OpenCase, console: Console) -> Segmented:
    looks = list(_looks(how, opened))
    classes = range(len(how.classes))
    shape = opened.source.geometry.shape
    with_variance = "variance" in how.save.uncertainty
    average = Average(len(classes), shape, with_variance=with_variance)
    boxes = sum(len(job.boxes) for look in looks for job in look.todo)
    with console.progress(opened.case.name, boxes) as advance:
        for look in looks:
            maps = _probabilities(how, look, advance)
            for label in classes:
                whole = np.ascontiguousarray(mirrored(maps[label], look.axes))
                average.add(label, _on_own_grid(whole[None], look.ready, opened.source)[0])
    roi = opened.roi
    mean = _float32(masked(average.mean, roi))
    doubt = {}
    if "entropy" in how.save.uncertainty:
        doubt["entropy"] = entropy(mean)
    if with_variance:
        doubt["variance"] = _float32(masked(average.variance, roi))
    wanted = wanted_probabilities(how.classes, how.save)
    probabilities = {label: mean[label] for label in wanted}
    labels = segmentation(mean, roi)
    return Segmented(opened.source, labels, probabilities, doubt, {}, opened.truth)


def _looks(how: Computing, opened: OpenCase) -> list[_Look]:
    axes = ["xyz".index(axis) for axis in how.inference.mirror]
    looks = []
    for one, ready in zip(how.members, opened.ready, strict=True):
        for turn in mirrorings(axes):
            roi = None if ready.roi is None else mirrored(ready.roi, turn)
            turned = replace(ready, channels=mirrored(ready.channels, turn), roi=roi)
            todo = how.jobs(one, turned, held=2 * len(how.classes))
            looks.append(_Look(one, turned, turn, todo))
    return looks


def _probabilities(how: Computing, look: _Look, on_boxes: Callable[[int], None]) -> Maps:
    """``(X, Y, Z)`` of every class, as the model sees the case."""
    every = range(len(how.classes))
    network, ready = look.member.fast, look.ready
    if how.inference.overlap == 0:
        found = segment_case(network, ready, look.todo, wanted=every, on_boxes=on_boxes)
        return found.probabilities
    total = WeightedSum(len(every), ready.shape)
    weights = window(predicted_size(ready.shape, how.tile_of(look.member), network.vision))
    for job, piece in pieces(network, ready, look.todo, wanted=every, on_boxes=on_boxes):
        inside = piece.box.moved(per_axis(lambda a: -a, job.origin))
        maps = [piece.probabilities[label] for label in every]
        total.add(piece.box, maps, weights[inside.slices])
    return dict(enumerate(total.mean))


def _feature_maps(how: Computing, ready: PreparedCase) -> dict[str, NDArray[np.float32]]:
    first = how.members[0]
    wanted = wanted_feature_maps(first.network.layout, how.save)
    if not wanted:
        return {}
    found = predict(
        first.network,
        ready,
        tile=how.tile_of(first),
        batch_size=how.batch_size,
        feature_maps=wanted,
    )
    assert ready.source is not None
    return {
        address: _on_own_grid(maps, ready, ready.source)
        for address, maps in found.feature_maps.items()
    }


def _on_own_grid(
    arrays: NDArray[np.float32], ready: PreparedCase, source: Volume
) -> NDArray[np.float32]:
    if ready.geometry == source.geometry:
        return arrays
    return _float32(resample(arrays, ready.geometry, source.geometry, order=1))


def _float32(array: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return np.asarray(array, np.float32)
