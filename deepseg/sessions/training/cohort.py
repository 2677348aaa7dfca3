"""The record of the cases that a session trains on, as the model keeps it."""

from __future__ import annotations

from collections.abc import Sequence

from deepseg.config.cases import Preparation
from deepseg.data.cases.summary import CaseSummary
from deepseg.model.checkpoint import TrainingCohort


def training_cohort(
    cases: Sequence[CaseSummary], preparation: Preparation, channels: Sequence[str]
) -> TrainingCohort:
    """The record of ``cases``, which are at least one.

    Args:
        cases: As they were checked.
        preparation: Of the session; its voxel size is what the network sees.
        channels: Names of the model's channels.
    """
    resampled = preparation.spacing_mm
    missing = {index for case in cases for index in case.missing_channels}
    return TrainingCohort(
        spacing_mm=cases[0].spacing_mm if resampled is None else resampled,
        orientations=tuple(
            sorted({case.orientation for case in cases if case.orientation is not None})
        ),
        has_roi=all(case.roi_voxels is not None for case in cases),
        missing_channels=tuple(channels[index] for index in sorted(missing)),
        foreground_share=_foreground_share(cases),
    )


def _foreground_share(cases: Sequence[CaseSummary]) -> float | None:
    counts = [case.class_voxels for case in cases if case.class_voxels is not None]
    whole = sum(sum(voxels) for voxels in counts)
    return sum(sum(voxels[1:]) for voxels in counts) / whole if whole else None
