"""Whole cases: scored and written, in testing and in validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepseg.config.model import ModelConfig
from deepseg.config.testing import Inference
from deepseg.config.training import SavedResults, TrainConfig
from deepseg.data.images.volumes import write_volume
from deepseg.errors import DeepsegError
from deepseg.inference.metrics import Scores, class_scores, summary
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.report.picture import write_picture
from deepseg.sessions.checked_cases import CheckedCases
from deepseg.sessions.compatibility import wanted_feature_maps, wanted_probabilities
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.segmentation.ensemble import Ensemble, member
from deepseg.sessions.segmentation.load_case import load_case
from deepseg.sessions.segmentation.predict_case import Segmentation, predict_case
from deepseg.storage.atomic import writable
from deepseg.training.distributed import SINGLE_RANK, Ranks


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


def validate_on_volumes(
    network: Network,
    held_out: CheckedCases | None,
    folder: SessionFolder,
    config: TrainConfig,
    *,
    epoch: int,
    ranks: Ranks = SINGLE_RANK,
) -> dict[str, Any] | None:
    """Mean scores on whole held-out cases, in the epochs in which that is due and in the last.

    Ranks share the cases; each writes the results of its own.
    """
    if config.validation is None or config.validation.volumes is None or held_out is None:
        return None
    own = config.validation.volumes
    if (epoch + 1) % own.every and epoch + 1 != config.epochs:
        return None
    network.eval()
    per_case = {}
    say = folder.console.warn
    alone = member(network, Inference(), config.preparation, say=say)
    how = Ensemble((alone,), Inference(), own.save, {}, None, own.batch_size)
    for case in held_out.cases[ranks.rank :: ranks.count]:
        result = predict_case(how, load_case(how, case), folder.console)
        predictions = folder.path / "predictions"
        write_results(result, case.name, predictions, network.config, own.save, folder.console)
        per_case[case.name] = case_scores(result, network.config, {})
    means = summary(dict(ranks.together(list(per_case.items()))))
    return {
        measure: {row: values[measure]["mean"] for row, values in means.items()}
        for measure in ("dice", "sensitivity", "precision", "hausdorff95_mm")
    }
