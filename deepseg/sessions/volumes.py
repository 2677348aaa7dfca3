"""Whole cases: segmented, scored and written, in testing and in validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.config.testing import Inference
from deepseg.config.training import SavedResults, TrainConfig
from deepseg.data.cases import Case
from deepseg.data.preparation import PreparedCase, prepared
from deepseg.data.resampling import resample
from deepseg.data.volumes import Volume, read_labels, read_mask, write_volume
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Int3, volume
from deepseg.inference import memory
from deepseg.inference.fast_network import FastNetwork
from deepseg.inference.fast_volume import Job, jobs, segment_case
from deepseg.inference.metrics import Scores, class_scores, summary
from deepseg.inference.postprocess import masked, segmentation
from deepseg.inference.volume import predict
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.report.picture import write_picture
from deepseg.sessions.cases import CheckedCases
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.wishes import wanted_feature_maps, wanted_probabilities
from deepseg.storage.atomic import writable

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Segmented:
    """A case and what the network says about it, on the case's own grid.

    Attributes:
        source: The case's first channel.
        labels: ``(X, Y, Z)``: the segmentation.
        probabilities: ``(X, Y, Z)`` by label, 0 outside the region of interest; those wanted.
        feature_maps: ``(maps, X, Y, Z)`` by layer address.
        truth: ``(X, Y, Z)`` labels, or None.
    """

    source: Volume
    labels: NDArray[np.integer[Any]]
    probabilities: Mapping[int, NDArray[np.floating[Any]]]
    feature_maps: Mapping[str, NDArray[np.float32]]
    truth: NDArray[np.integer[Any]] | None


@dataclass(frozen=True)
class Computing:
    """A network, and how whole cases go through it.

    Attributes:
        network: As it was trained; feature maps are its.
        fast: The same for segmentations and probabilities.
        inference: Settings.
        tile: Of feature maps, and in DeepMedic's tiling.
        batch_size: Tiles of feature maps computed together.
    """

    network: Network
    fast: FastNetwork
    inference: Inference
    tile: Int3
    batch_size: int

    def jobs(self, ready: PreparedCase, probabilities: int) -> list[Job]:
        """What has to be computed of a case of which so many probability maps are wanted."""
        tiling = self.inference.tiling
        own = self.network.config.context_alignment
        is_local = tiling == "deepmedic" or (tiling is None and own == "deepmedic")
        answer = volume(ready.shape) * (1 + FLOAT_BYTES * probabilities)
        budget = memory.left(self.inference.memory_bytes) - answer
        return jobs(self.fast, ready, memory=budget, tile=self.tile if is_local else None)


def computing(
    network: Network, inference: Inference, *, tile: Int3 | None, batch_size: int
) -> Computing:
    """The way in which ``network`` segments cases; its weights of now."""
    precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}[inference.precision]
    own = network.config.segment_sizes["inference"] if tile is None else tile
    return Computing(network, FastNetwork(network, precision), inference, own, batch_size)


def segmented(
    how: Computing,
    case: Case,
    preparation: Preparation,
    *,
    save: SavedResults,
    console: Console,
) -> Segmented:
    """Read a case, prepare it as the model's training cases were, and segment it."""
    config = how.network.config
    ready = prepared(case, preparation, config.channels)
    assert ready.source is not None
    is_own_grid = ready.geometry == ready.source.geometry
    wanted = wanted_probabilities(config.classes, save)
    every = range(len(config.classes))
    kept = wanted if is_own_grid else every
    todo = how.jobs(ready, len(kept))
    with console.progress(case.name, sum(len(job.boxes) for job in todo)) as advance:
        answer = segment_case(how.fast, ready, todo, wanted=kept, on_boxes=advance)
    if is_own_grid:
        roi = ready.roi
        labels = answer.labels
        if roi is not None:
            labels[~roi] = 0
        probabilities = answer.probabilities
    else:
        roi = None if case.roi is None else read_mask(case.roi).array
        stacked = np.stack([answer.probabilities[label] for label in every])
        own = masked(_on_own_grid(stacked, ready), roi)
        labels = segmentation(own, roi)
        probabilities = {label: np.asarray(own[label], np.float32) for label in wanted}
    return Segmented(
        source=ready.source,
        labels=labels,
        probabilities={label: masked(one, roi) for label, one in probabilities.items()},
        feature_maps=_feature_maps(how, ready, save),
        truth=None if case.labels is None else read_labels(case.labels, dict(case.label_map)).array,
    )


def _feature_maps(
    how: Computing, ready: PreparedCase, save: SavedResults
) -> dict[str, NDArray[np.float32]]:
    wanted = wanted_feature_maps(how.network.layout, save)
    if not wanted:
        return {}
    found = predict(
        how.network, ready, tile=how.tile, batch_size=how.batch_size, feature_maps=wanted
    )
    return {address: _on_own_grid(maps, ready) for address, maps in found.feature_maps.items()}


def _on_own_grid(arrays: NDArray[np.float32], ready: PreparedCase) -> NDArray[np.float32]:
    assert ready.source is not None
    if ready.geometry == ready.source.geometry:
        return arrays
    return np.asarray(resample(arrays, ready.geometry, ready.source.geometry, order=1))


def write_results(
    result: Segmented,
    name: str,
    folder: Path,
    model: ModelConfig,
    settings: SavedResults,
    console: Console,
) -> list[Path]:
    """Write what ``settings`` asks for; return the files.

    They are ``<name>_Segm.nii.gz``, ``<name>_ProbMapClass<label>.nii.gz``,
    ``<name>_<layer>_fm<map>.nii.gz`` and ``<name>.png``.
    """
    volumes: dict[str, NDArray[Any]] = {}
    firsts = {a: s.start for a, s in wanted_feature_maps(layout(model), settings).items()}
    if settings.segmentation:
        volumes[f"{name}_{settings.segmentation_suffix}"] = result.labels
    for label in wanted_probabilities(model.classes, settings):
        volumes[f"{name}_{settings.probability_suffix}{label}"] = result.probabilities[label]
    for address, maps in result.feature_maps.items():
        for number, one in enumerate(maps, start=firsts[address]):
            volumes[f"{name}_{address}_fm{number}"] = one
    if not volumes and not settings.pictures:
        return []
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = []
    for stem, array in volumes.items():
        files.append(folder / f"{stem}.nii.gz")
        write_volume(files[-1], array, result.source)
    if settings.pictures:
        picture = folder / f"{name}.png"
        try:
            write_picture(
                picture, result.source.array, spacing_mm=result.source.geometry.spacing_mm,
                truth=result.truth, segmentation=result.labels, classes=model.classes, title=name,
            )  # fmt: skip
            files.append(picture)
        except DeepsegError as error:
            if any(problem.code != "plot-extra-missing" for problem in error.problems):
                raise
            console.warn(str(error))
    return files


def case_scores(
    result: Segmented, model: ModelConfig, groups: Mapping[str, Sequence[int]]
) -> dict[str, Scores]:
    """Agreement with the truth, which must be there."""
    assert result.truth is not None
    return class_scores(
        result.labels, result.truth, classes=model.classes, groups=groups,
        spacing_mm=result.source.geometry.spacing_mm, voxel_ml=result.source.geometry.voxel_ml,
    )  # fmt: skip


def validate_on_volumes(
    network: Network,
    held_out: CheckedCases | None,
    folder: SessionFolder,
    config: TrainConfig,
    *,
    epoch: int,
) -> dict[str, Any] | None:
    """Mean scores on whole held-out cases, in the epochs in which that is due and in the last."""
    if config.validation is None or config.validation.volumes is None or held_out is None:
        return None
    own = config.validation.volumes
    if (epoch + 1) % own.every and epoch + 1 != config.epochs:
        return None
    network.eval()
    per_case = {}
    how = computing(network, Inference(), tile=None, batch_size=own.batch_size)
    for case in held_out.cases:
        result = segmented(how, case, config.preparation, save=own.save, console=folder.console)
        predictions = folder.path / "predictions"
        write_results(result, case.name, predictions, network.config, own.save, folder.console)
        per_case[case.name] = case_scores(result, network.config, {})
    means = summary(per_case)
    return {
        measure: {row: values[measure]["mean"] for row, values in means.items()}
        for measure in ("dice", "sensitivity", "precision", "hausdorff95_mm")
    }
