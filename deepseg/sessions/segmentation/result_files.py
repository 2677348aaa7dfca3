"""Whole cases: scored and written, in testing and in validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.model import ModelConfig
from deepseg.data.images.volumes import write_volume
from deepseg.errors import DeepsegError
from deepseg.inference.metrics import Scores, class_scores
from deepseg.model.layout import layout
from deepseg.report.console import Console
from deepseg.report.picture import write_picture
from deepseg.sessions.compatibility import wanted_feature_maps, wanted_probabilities
from deepseg.sessions.segmentation.predict_case import Segmentation
from deepseg.storage.atomic import writable


def write_results(
    result: Segmentation,
    name: str,
    folder: Path,
    model: ModelConfig,
    settings: SavedResults,
    console: Console,
) -> list[Path]:
    """Write what ``settings`` asks for; return the files.

    They are ``<name>_Segm.nii.gz``, ``<name>_ProbMapClass<label>.nii.gz``,
    ``<name>_entropy.nii.gz``, ``<name>_variance.nii.gz``, ``<name>_<layer>_fm<map>.nii.gz`` and
    ``<name>.png``.
    """
    volumes: dict[str, NDArray[Any]] = {}
    firsts = {a: s.start for a, s in wanted_feature_maps(layout(model), settings).items()}
    if settings.segmentation:
        volumes[f"{name}_{settings.segmentation_suffix}"] = result.labels
    for label in wanted_probabilities(model.classes, settings):
        volumes[f"{name}_{settings.probability_suffix}{label}"] = result.probabilities[label]
    volumes |= {f"{name}_{kind}": one for kind, one in result.uncertainty.items()}
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
    result: Segmentation, model: ModelConfig, groups: Mapping[str, Sequence[int]]
) -> dict[str, Scores]:
    """Agreement with the truth, which must be there."""
    assert result.truth is not None
    return class_scores(
        result.labels, result.truth, classes=model.classes, groups=groups,
        spacing_mm=result.source.geometry.spacing_mm, voxel_ml=result.source.geometry.voxel_ml,
    )  # fmt: skip
