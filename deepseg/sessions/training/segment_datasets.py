"""The segments of a training session: cut from prepared cases, which are made of checked ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from deepseg.config.training import TrainConfig
from deepseg.data.case_cache import prepared_labels
from deepseg.data.cases.summary import CaseSummary
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
    title = "training cases"
    folders = prepared_cases(
        cases, config.preparation, model.config.channels, cache, console, title=title
    )
    if config.preparation.resample is not None:
        for warning in vanished_classes(folders, cases.summaries, model.config.classes):
            console.warn(warning)
    return _dataset(folders, training_rules(model, config), console, title)


def training_rules(model: Checkpoint, config: TrainConfig) -> SegmentRules:
    """Rules by which segments to learn from are drawn."""
    settings = config.training
    return SegmentRules(
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


def validation_rules(model: Checkpoint, config: TrainConfig) -> SegmentRules | None:
    """Rules by which segments to validate on are drawn; None where validation has none."""
    if config.validation is None or config.validation.samples is None:
        return None
    settings = config.validation.samples
    return SegmentRules(
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


def vanished_classes(
    folders: Sequence[Path], summaries: Sequence[CaseSummary], classes: Sequence[str]
) -> Iterator[str]:
    """A warning for every class of which resampling leaves no voxel in some cases.

    Args:
        folders: Of the prepared cases.
        summaries: Of the same cases before.
        classes: Names of the model's classes.
    """
    labels = [prepared_labels(folder) for folder in folders]
    for label, name in enumerate(classes):
        before = [
            index
            for index, summary in enumerate(summaries)
            if summary.class_voxels is not None and summary.class_voxels[label] > 0
        ]
        gone = [
            summaries[index].name
            for index in before
            if (left := labels[index]) is not None and label not in left
        ]
        if gone:
            yield (
                f"resampling leaves no voxel of {name} in {len(gone)} of the {len(before)} "
                f"training cases that have it ({', '.join(gone[:5])}"
                + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
                + "): lower preparation.resample"
            )


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
    rules = validation_rules(model, config)
    if cases is None or rules is None:
        return None
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
