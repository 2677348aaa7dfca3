"""Result files of whole cases, and their scores; in testing and in validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.model import ModelConfig
from deepseg.data.images.volumes import write_volume
from deepseg.errors import DeepsegError
from deepseg.inference.loaded_case import LoadedCase
from deepseg.inference.metrics import Scores, class_scores, mean_dice
from deepseg.inference.requests import feature_map_slices
from deepseg.inference.segmentation import Segmentation
from deepseg.model.layout import layout
from deepseg.report.console import Console
from deepseg.report.page.case_view import CaseVolumes, clearest_channel
from deepseg.report.picture import write_picture
from deepseg.sessions.result_names import map_ending, result_name
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.sessions.segmentation.stored_views import volumes_to_view
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.storage.atomic import writable


def write_results(
    segmentation: Segmentation,
    case: LoadedCase,
    folder: Path,
    model: ModelConfig,
    settings: SavedResults,
    records: CompletedCases,
    console: Console,
    scores: Mapping[str, Scores] | None = None,
) -> list[Path]:
    """Write the results that ``settings`` ask for; return the files.

    They are ``<name>_Segm.nii.gz``, ``<name>_ProbMapClass<label>.nii.gz``,
    ``<name>_entropy.nii.gz``, ``<name>_variance.nii.gz``, ``<name>_<layer>_fm<map>.nii.gz`` and
    ``<name>.png``. Files of these names that ``records`` do not know are set aside.
    """
    volumes = dict(_volumes(segmentation, model, settings))
    if not volumes and not settings.pictures:
        return []
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = [folder / result_name(case.name, ending) for ending in volumes]
    picture = folder / f"{case.name}.png"
    planned = [*files, picture] if settings.pictures else files
    warn_of_set_aside(records.begin(case.name, planned), console)
    for file, array in zip(files, volumes.values(), strict=True):
        write_volume(file, array, case.source)
    if settings.pictures:
        try:
            _write_picture(
                picture, volumes_to_view(case, segmentation, model.channels), model, scores
            )
            files.append(picture)
        except DeepsegError as error:
            if any(problem.code != "plot-extra-missing" for problem in error.problems):
                raise
            console.warn(str(error))
    return files


def _volumes(
    segmentation: Segmentation, model: ModelConfig, settings: SavedResults
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every volume that is written, with the ending of its file."""
    if settings.segmentation:
        yield settings.segmentation_suffix, segmentation.labels
    for name, probability in segmentation.probabilities.items():
        yield f"{settings.probability_suffix}{model.classes.index(name)}", probability
    yield from segmentation.uncertainty.items()
    slices = feature_map_slices(layout(model), settings.feature_maps)
    for address, maps in segmentation.feature_maps.items():
        for number, feature_map in enumerate(maps, start=slices[address].start):
            yield map_ending(address, number), feature_map


def _write_picture(
    file: Path, case: CaseVolumes, model: ModelConfig, scores: Mapping[str, Scores] | None
) -> None:
    """The channel in which the foreground is seen best, and the mean Dice in the title."""
    channel = clearest_channel(case.channels, case.foreground)
    dice = None if scores is None else mean_dice(scores, model.classes[1:])
    write_picture(
        file,
        case.channels[channel],
        spacing_mm=case.spacing_mm,
        truth=case.truth,
        segmentation=case.prediction,
        classes=model.classes,
        title=f"{case.name}, {channel}" + ("" if dice is None else f", Dice {dice:.3f}"),
    )


def case_scores(
    segmentation: Segmentation,
    truth: NDArray[np.integer[Any]],
    model: ModelConfig,
    groups: Mapping[str, Sequence[int]],
    metrics: Sequence[str] = (),
) -> dict[str, Scores]:
    """Agreement with the ``(X, Y, Z)`` labels of the truth, by class and group."""
    return class_scores(
        segmentation.labels,
        truth,
        classes=model.classes,
        groups=groups,
        spacing_mm=segmentation.geometry.spacing_mm,
        axes_mm=segmentation.geometry.affine[:3, :3],
        metrics=metrics,
    )
