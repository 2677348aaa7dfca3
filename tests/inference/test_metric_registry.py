"""Registered metrics: beside the others in scores and their means, and refused where unknown."""

import numpy as np
import pytest

import deepseg
from deepseg.errors import DeepsegError
from deepseg.inference import metric_registry
from deepseg.inference.metric_registry import fingerprints, unregistered_metrics
from deepseg.inference.metrics import Scores, class_scores, summary
from deepseg.training.model_selection import lower_is_better


def voxels_apart(prediction, truth, spacing_mm):
    """Sides of the voxels times the difference in their count."""
    return (prediction.sum() - truth.sum()) * sum(spacing_mm) if truth.any() else None


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(metric_registry, "_registered", {})
    deepseg.register_metric("voxels_apart", voxels_apart, lower_is_better=True)


def scored(prediction, truth):
    return class_scores(
        np.array([[prediction]]),
        np.array([[truth]]),
        classes=["background", "a", "b"],
        groups={"both": [1, 2]},
        spacing_mm=(1, 2, 3),
        metrics=["voxels_apart"],
    )


def test_it_is_measured_for_foreground_classes_and_groups_without_unknown_voxels():
    rows = scored([1, 1, 1, 1, 0], [1, 0, 0, -1, 0])
    assert {name: row.custom for name, row in rows.items()} == {
        "foreground": {"voxels_apart": 12.0},
        "a": {"voxels_apart": 12.0},
        "b": {"voxels_apart": None},
        "both": {"voxels_apart": 12.0},
    }
    assert rows["a"].values["voxels_apart"] == 12.0
    assert Scores(**rows["a"].record()) == rows["a"]


def test_scores_without_registered_metrics_are_recorded_as_ever():
    assert "custom" not in Scores(1, 1, 1, 1, 0, 0, 1, 1).record()


def test_its_mean_is_over_the_cases_in_which_it_is_defined():
    cases = {"a": scored([1, 1], [1, 0]), "b": scored([0, 0], [0, 0]), "c": scored([1, 0], [1, 0])}
    values = summary(cases)["a"]["voxels_apart"]
    assert (values["mean"], values["defined"], values["undefined"]) == (3, 2, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_value_that_is_no_number_is_undefined(value):
    deepseg.register_metric("voxels_apart", lambda *_: value)
    assert scored([1], [1])["a"].custom == {"voxels_apart": None}


def test_a_result_of_another_kind_is_refused():
    deepseg.register_metric("voxels_apart", lambda *_: [1, 2])
    with pytest.raises(DeepsegError) as error:
        scored([1], [1])
    assert str(error.value) == (
        "[metric-value] got [1, 2] of the registered metric 'voxels_apart'; expected a number, or "
        "None where the metric is undefined; fix: correct the function"
    )


def test_an_unknown_metric_is_refused_with_the_names_that_there_are():
    (problem,) = unregistered_metrics(["voxels_apart", "volume"], key="metrics")
    assert str(problem) == (
        "[metric-unregistered] got 'volume' in metrics; expected a metric that this process has "
        "registered: voxels_apart; fix: call deepseg.register_metric in the same Python process "
        "before the session; Dice, distances and lesions are always measured"
    )


@pytest.mark.parametrize("name", ["dice", "lesions_found", "a-b"])
def test_a_name_that_cannot_be_used_is_refused(name):
    with pytest.raises(DeepsegError, match=rf"^\[metric-name\] got '{name}'; "):
        deepseg.register_metric(name, voxels_apart)


def test_it_tells_in_which_direction_it_is_better():
    assert lower_is_better("validation_volumes/voxels_apart/mean")
    assert not lower_is_better("training/voxels_apart/mean")
    deepseg.register_metric("voxels_apart", voxels_apart)
    assert not lower_is_better("validation_volumes/voxels_apart/mean")


def test_another_source_under_the_same_name_is_another_metric():
    before = fingerprints(["voxels_apart"])
    deepseg.register_metric("voxels_apart", lambda *_: 1.0)
    assert fingerprints(["voxels_apart"]) != before
