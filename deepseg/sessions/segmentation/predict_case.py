"""What the models say about one case, put together and cleaned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.data.images.resampling import resample
from deepseg.data.images.volumes import Volume
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box
from deepseg.inference import memory
from deepseg.inference.averaging import mirrored, mirrorings
from deepseg.inference.boxwise.boxes import bounding_box
from deepseg.inference.components import cleaned
from deepseg.inference.ensemble import View, combine
from deepseg.inference.postprocess import Labels
from deepseg.inference.prediction import Prediction
from deepseg.inference.tilewise import predict
from deepseg.report.console import Console
from deepseg.sessions.compatibility import wanted_feature_maps
from deepseg.sessions.segmentation.ensemble import Ensemble
from deepseg.sessions.segmentation.load_case import LoadedCase

TOO_LITTLE = "{} memory is not enough: the smallest boxes are taken, and more memory is used"


@dataclass(frozen=True)
class Segmentation:
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


def predict_case(how: Ensemble, opened: LoadedCase, console: Console) -> Segmentation:
    """What the models say about a case that has been read."""
    answer = _answer(how, opened, console)
    grid = opened.source.geometry
    return Segmentation(
        source=opened.source,
        labels=cleaned(answer.labels, how.cleaning, voxel_ml=grid.voxel_ml, roi=opened.roi),
        probabilities=answer.probabilities,
        uncertainty=answer.uncertainty,
        feature_maps=_feature_maps(how, opened.ready[0]),
        truth=opened.truth,
    )


def _answer(how: Ensemble, opened: LoadedCase, console: Console) -> Prediction:
    shape, wanted = opened.source.geometry.shape, how.wanted
    answer = Prediction(shape, len(how.classes), wanted)
    around = bounding_box(opened.roi, Box((0, 0, 0), shape))
    if around is None:
        return answer
    free = memory.left(how.inference.memory_bytes) - wanted.bytes_of(shape)
    if free < memory.LEAST:
        limit = how.inference.memory
        console.warn(TOO_LITTLE.format("half of the free" if limit is None else f"{limit} of"))
    progress = partial(console.progress, opened.case.name)
    combine(looks(how, opened), around, wanted, memory=free, put=answer.put, progress=progress)
    answer.clear_outside(opened.roi)
    return answer


def looks(how: Ensemble, opened: LoadedCase) -> list[View]:
    """Every model's look at a case and at each of its mirror images."""
    axes = ["xyz".index(axis) for axis in how.inference.mirror]
    return [
        View(
            network=one.fast,
            case=replace(
                ready,
                channels=mirrored(ready.channels, turn),
                to_compute=None if ready.to_compute is None else mirrored(ready.to_compute, turn),
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


def _feature_maps(how: Ensemble, ready: PreparedCase) -> dict[str, NDArray[np.float32]]:
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
    assert ready.reference is not None
    return {
        address: _on_own_grid(maps, ready, ready.reference)
        for address, maps in found.feature_maps.items()
    }


def _on_own_grid(
    arrays: NDArray[np.float32], ready: PreparedCase, source: Volume
) -> NDArray[np.float32]:
    if ready.geometry == source.geometry:
        return arrays
    resampled = resample(arrays, ready.geometry, source.geometry, order=1)
    return np.asarray(resampled, np.float32)
