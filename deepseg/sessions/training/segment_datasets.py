"""Where the segments of a training session come from: checked cases → prepared → cut."""

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
    own = config.training
    rules = SegmentRules(
        sampling=own.sampling,
        classes=model.config.classes,
        geometry=model.geometry,
        size=model.config.segment_sizes["train"],
        segments=own.segments_per_subepoch,
        cases=own.cases_per_subepoch,
        augmentation=own.augmentation,
        seed=config.seed,
        is_training=True,
    )
    what = "training cases"
    folders = prepared_cases(
        cases, config.preparation, model.config.channels, cache, console, what=what
    )
    return _source(folders, rules, console, what)


def validation_dataset(
    cases: CheckedCases | None,
    model: Checkpoint,
    config: TrainConfig,
    *,
    cache: Path,
    console: Console,
) -> SegmentDataset | None:
    """Segments to judge by, the same ones after every epoch; None where none are wanted.

    Raises:
        DeepsegError: ``nothing-to-sample``.
    """
    if cases is None or config.validation is None or config.validation.samples is None:
        return None
    own = config.validation.samples
    rules = SegmentRules(
        sampling=own.sampling,
        classes=model.config.classes,
        geometry=model.geometry,
        size=model.config.segment_sizes["validation"],
        segments=own.segments,
        cases=own.cases,
        augmentation=None,
        seed=config.seed,
        is_training=False,
    )
    what = "validation cases"
    folders = prepared_cases(
        cases, config.preparation, model.config.channels, cache, console, what=what
    )
    return _source(folders, rules, console, what)


def _source(
    folders: list[Path], rules: SegmentRules, console: Console, what: str
) -> SegmentDataset:
    source = SegmentDataset(folders, rules)
    empty = source.without_candidates()
    if len(empty) == len(folders):
        raise DeepsegError(
            Problem(
                code="nothing-to-sample",
                got=f"no voxel to centre a segment on in any of the {what}",
                expected="at least one case with voxels inside its ROI",
                fix="look at the ROI masks and weight maps",
            )
        )
    for name in empty:
        console.warn(f"case {name} has no voxel to centre a segment on and is left out")
    return source
