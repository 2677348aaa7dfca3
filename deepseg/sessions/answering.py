"""One case through one or several models: read, answered, cleaned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
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
from deepseg.geometry.boxes import Box, Int3
from deepseg.inference import memory
from deepseg.inference.answer import Answer, Wanted
from deepseg.inference.averaging import mirrored, mirrorings
from deepseg.inference.boxes import bounding_box
from deepseg.inference.components import Cleaning, cleaned
from deepseg.inference.fast_network import FastNetwork
from deepseg.inference.looks import Look, findings
from deepseg.inference.postprocess import Labels
from deepseg.inference.room import Room
from deepseg.inference.volume import predict
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.sessions.wishes import wanted_feature_maps, wanted_probabilities

SHARE_FOR_CHANNELS = 0.25  # of the memory; the channels of larger cases stay on the disk


@dataclass(frozen=True)
class Member:
    """One of the models that answer.

    Attributes:
        network: As it was trained; feature maps are those of the first member's.
        fast: The same for segmentations and probabilities.
        preparation: How it wants cases prepared.
        room: What is known of the memory that it needs.
    """

    network: Network
    fast: FastNetwork
    preparation: Preparation
    room: Room


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
    def wanted(self) -> Wanted:
        """Maps to be written."""
        probabilities = wanted_probabilities(self.classes, self.save)
        return Wanted(probabilities, tuple(self.save.uncertainty))

    def tile_of(self, member: Member) -> Int3:
        """The tile of a member, where tiles are its segments."""
        own = member.network.config.segment_sizes["inference"]
        return own if self.tile is None else self.tile

    def own_tile(self, member: Member) -> Int3 | None:
        """The tile of a member whose tiles are segments; None where context lies on one grid."""
        tiling = self.inference.tiling
        own = member.network.config.context_alignment
        is_local = tiling == "deepmedic" or (tiling is None and own == "deepmedic")
        return self.tile_of(member) if is_local else None


def member(
    network: Network,
    inference: Inference,
    preparation: Preparation,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Member:
    """``network`` with its weights of now, ready to segment cases.

    Args:
        network: In evaluation mode, on the device that computes.
        inference: Settings.
        preparation: How it wants cases prepared.
        say: Called with a line where memory is exhausted.
    """
    precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}[inference.precision]
    return Member(network, FastNetwork(network, precision), preparation, Room(say))


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
    probabilities: Mapping[int, NDArray[np.float32]]
    uncertainty: Mapping[str, NDArray[np.float32]]
    feature_maps: Mapping[str, NDArray[np.float32]]
    truth: NDArray[np.integer[Any]] | None


def segmented(how: Computing, opened: OpenCase, console: Console) -> Segmented:
    """What the models say about a case that has been read."""
    grid = opened.source.geometry
    answer = Answer(grid.shape, len(how.classes), how.wanted)
    around = bounding_box(opened.roi, Box((0, 0, 0), grid.shape))
    if around is not None:
        free = memory.left(how.inference.memory_bytes) - how.wanted.bytes_of(grid.shape)
        if free < memory.LEAST:
            console.warn(_too_little(how.inference))
        progress = partial(console.progress, opened.case.name)
        for piece in findings(
            looks(how, opened), around, how.wanted, memory=free, progress=progress
        ):
            answer.put(piece)
        answer.clear_outside(opened.roi)
    return Segmented(
        source=opened.source,
        labels=cleaned(answer.labels, how.cleaning, voxel_ml=grid.voxel_ml, roi=opened.roi),
        probabilities=answer.probabilities,
        uncertainty=answer.uncertainty,
        feature_maps=_feature_maps(how, opened.ready[0]),
        truth=opened.truth,
    )


def _too_little(inference: Inference) -> str:
    limit = "half of the free" if inference.memory is None else f"{inference.memory} of"
    return f"{limit} memory is not enough: the smallest boxes are taken, and more memory is used"


def looks(how: Computing, opened: OpenCase) -> list[Look]:
    """Every model's look at a case and at each of its mirror images."""
    axes = ["xyz".index(axis) for axis in how.inference.mirror]
    return [
        Look(
            network=one.fast,
            case=replace(
                ready,
                channels=mirrored(ready.channels, turn),
                roi=None if ready.roi is None else mirrored(ready.roi, turn),
            ),
            axes=turn,
            grid=opened.source.geometry,
            tile=how.own_tile(one),
            overlap=how.inference.overlap,
            room=one.room,
        )
        for one, ready in zip(how.members, opened.ready, strict=True)
        for turn in mirrorings(axes)
    ]


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
    resampled = resample(arrays, ready.geometry, source.geometry, order=1)
    return np.asarray(resampled, np.float32)
