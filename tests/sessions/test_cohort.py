"""The record of training cases, against cases made by hand."""

from dataclasses import replace

import pytest

from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.data.cases.summary import CaseSummary, Intensity
from deepseg.model.checkpoint import IntensityRange, TrainingCohort
from deepseg.sessions.cohort import image_digest, most_common, training_cohort


def network(*channels):
    return ModelConfig(
        channels=channels,
        classes=("air", "rim", "core"),
        normal={"feature_maps": [4]},
        segments={"train": 9},
    )


def values(minimum, high):
    return Intensity(high / 2, high / 4, minimum, 9 * high, 0.0, minimum, minimum + 1, high)


def case(spacing_mm=(1.0, 1.0, 3.0), orientation="RAS", missing=(), voxels=(60, 30, 10), roi=50):
    return CaseSummary(
        name="a",
        where="a.csv:2",
        shape=(4, 5, 5),
        spacing_mm=spacing_mm,
        orientation=orientation,
        missing_channels=missing,
        intensity=tuple(
            None if index in missing else values(-index, 100 * (index + 1)) for index in range(3)
        ),
        images="0",
        class_voxels=voxels,
        roi_voxels=roi,
        foreground_outside_roi=0.0,
        problems=(),
        warnings=(),
    )


def test_cases_of_one_kind():
    assert training_cohort(
        [case(), case()], Preparation(), network("T1", "FLAIR")
    ) == TrainingCohort(
        spacing_mm=(1.0, 1.0, 3.0),
        orientations=("RAS",),
        has_roi=True,
        missing_channels=(),
        foreground_share=0.4,
        roi_share=1.0,
        class_shares={"air": 0.6, "rim": 0.3, "core": 0.1},
        intensity={
            "T1": IntensityRange(0, 1, 100, 50, 25),
            "FLAIR": IntensityRange(-1, 0, 200, 100, 50),
        },
        images=(image_digest(case()),),
    )


def test_cases_that_differ():
    cases = [
        case(missing=(2,)),
        case((2.0, 2.0, 2.0), "LPS", missing=(0, 2), voxels=(100, 0, 0), roi=None),
    ]
    assert training_cohort(cases, Preparation(), network("T1", "T2", "FLAIR")) == TrainingCohort(
        spacing_mm=(1.0, 1.0, 3.0),
        orientations=("LPS", "RAS"),
        has_roi=False,
        missing_channels=("T1", "FLAIR"),
        foreground_share=pytest.approx(0.2),
        roi_share=0.5,
        class_shares={"air": 0.8, "rim": 0.15, "core": 0.05},
        intensity={
            "T1": IntensityRange(0, 1, 100, 50, 25),
            "T2": IntensityRange(-1, 0, 200, 100, 50),
        },
        images=(image_digest(case()),),
    )


def test_resampled_cases_are_seen_at_the_spacing_that_was_asked_for():
    cohort = training_cohort([case()], Preparation(resample=2), network("T1"))
    assert cohort.spacing_mm == (2.0, 2.0, 2.0)


def test_the_orientation_is_that_of_most_cases_and_the_spacing_goes_along():
    cases = [case((1.0, 2.0, 3.0), "SAL"), case(), case()]
    assert most_common([c.orientation for c in cases]) == "RAS"
    assert most_common([c.orientation for c in cases[:2]]) == "SAL"
    turned = training_cohort(cases, Preparation(orientation="RAS"), network("T1"))
    assert turned.spacing_mm == (3.0, 2.0, 1.0)


def test_cases_are_known_by_their_images_and_not_by_name():
    renamed = replace(case(), name="patient")
    assert image_digest(renamed) == image_digest(case())
    assert image_digest(replace(case(), images="1")) != image_digest(case())
    cohort = training_cohort([renamed], Preparation(), network("T1"))
    assert "patient" not in str(cohort)
