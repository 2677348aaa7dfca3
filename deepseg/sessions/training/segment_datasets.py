"""The segments of a training session: cut from prepared cases, which are made of checked ones."""

from __future__ import annotations

from pathlib import Path

from deepseg.config.training import TrainConfig
from deepseg.data.segments.segment_dataset import SegmentDataset, SegmentRules
from deepseg.errors import DeepsegError, Problem
from deepseg.model.checkpoint import Checkpoint
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import CheckedCases, prepared_cases


def training_dataset(
    cases: CheckedCases, model: Checkpoint, config: TrainConfig, *, cache: Path, console: Console
) -> SegmentDataset:
    """Segments to learn from.

    Raises:
        DeepsegError: ``nothing-to-sample``.
    """
    settings = config.training
    rules = SegmentRules(
        sampling=settings.sampling,
        classes=model.config.classes,
        geometry=model.geometry,
        size=model.config.segment_sizes["train"],
        segments=settings.segments_per_subepoch,
        cases=settings.cases_per_subepoch,
        augmentation=settings.augmentation,
        seed=config.seed,
        is_training=True,
    )
    title = "training cases"
    folders = prepared_cases(
        cases, config.preparation, model.config.channels, cache, console, title=title
    )
    return _dataset(folders, rules, console, title)


def validation_dataset(
    cases: CheckedCases | None,
    model: Checkpoint,
    config: TrainConfig,
    *,
    cache: Path,
    console: Console,
) -> SegmentDataset | None:
    """Segments to validate on, alike after every epoch; None where validation has none.

    Raises:
        DeepsegError: ``nothing-to-sample``.
    """
    if cases is None or config.validation is None or config.validation.samples is None:
        return None
    settings = config.validation.samples
    rules = SegmentRules(
        sampling=settings.sampling,
        classes=model.config.classes,
        geometry=model.geometry,
        size=model.config.segment_sizes["validation"],
        segments=settings.segments,
        cases=settings.cases,
        augmentation=None,
        seed=config.seed,
        is_training=False,
    )
    title = "validation cases"
    folders = prepared_cases(
        cases, config.preparation, model.config.channels, cache, console, title=title
    )
    return _dataset(folders, rules, console, title)


def _dataset(
    folders: list[Path], rules: SegmentRules, console: Console, title: str
) -> SegmentDataset:
    dataset = SegmentDataset(folders, rules)
    empty = dataset.without_candidates()
    if len(empty) == len(folders):
        raise DeepsegError(
            Problem(
                code="nothing-to-sample",
                got=f"no voxel to centre a segment on in any of the {title}",
                expected="at least one case with voxels inside its ROI",
                fix="look at the ROI masks and weight maps",
            )
        )
    for name in empty:
        console.warn(f"case {name} has no voxel to centre a segment on and is left out")
    return dataset
