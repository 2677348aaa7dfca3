"""The record of training cases, against cases made by hand."""

import pytest

from deepseg.config.cases import Preparation
from deepseg.data.cases.summary import CaseSummary
from deepseg.model.checkpoint import TrainingCohort
from deepseg.sessions.training.cohort import training_cohort


def case(spacing_mm=(1.0, 1.0, 3.0), orientation="RAS", missing=(), voxels=(60, 30, 10), roi=50):
    return CaseSummary(
        name="a",
        where="a.csv:2",
        shape=(4, 5, 5),
        spacing_mm=spacing_mm,
        orientation=orientation,
        missing_channels=missing,
        intensity=(),
        images="0",
        class_voxels=voxels,
        roi_voxels=roi,
        foreground_outside_roi=0.0,
        problems=(),
        warnings=(),
    )


def test_cases_of_one_kind():
    assert training_cohort([case(), case()], Preparation(), ["T1", "FLAIR"]) == TrainingCohort(
        spacing_mm=(1.0, 1.0, 3.0),
        orientations=("RAS",),
        has_roi=True,
        missing_channels=(),
        foreground_share=0.4,
    )


def test_cases_that_differ():
    cases = [
        case(missing=(2,)),
        case((2.0, 2.0, 2.0), "LPS", missing=(0, 2), voxels=(100, 0, 0), roi=None),
    ]
    assert training_cohort(cases, Preparation(), ["T1", "T2", "FLAIR"]) == TrainingCohort(
        spacing_mm=(1.0, 1.0, 3.0),
        orientations=("LPS", "RAS"),
        has_roi=False,
        missing_channels=("T1", "FLAIR"),
        foreground_share=pytest.approx(0.2),
    )


def test_resampled_cases_are_seen_at_the_spacing_that_was_asked_for():
    cohort = training_cohort([case()], Preparation(resample=2), ["T1"])
    assert cohort.spacing_mm == (2.0, 2.0, 2.0)
