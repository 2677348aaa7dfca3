"""Metrics by name, and the rules that end training early."""

import pytest

from deepseg.config.blocks.checkpoints import EarlyStopping, StopAt
from deepseg.training.model_selection import (
    is_reached,
    lower_is_better,
    patience_is_exhausted,
    score,
    value,
)

RECORD = {
    "epoch": 3,
    "training": {"loss": 0.75, "accuracy": 0.5, "dice": {"foreground": 0.9, "a": 0.2, "b": 0.4}},
    "validation_volumes": {
        "dice": {"foreground": 0.8, "a": 0.5, "b": None},
        "hausdorff95_mm": {"foreground": 4.0, "a": 3.0, "b": None},
    },
}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("training/loss", 0.75),
        ("training/accuracy", 0.5),
        ("training/dice/b", 0.4),
        ("training/dice/mean", pytest.approx(0.3)),
        ("training/dice/foreground", 0.9),
        ("validation_volumes/dice/mean", 0.5),
        ("validation_volumes/dice/b", None),
        ("validation_samples/loss", None),
        ("validation_samples/dice/mean", None),
    ],
)
def test_a_metric_is_the_number_of_that_name_in_the_record(metric, expected):
    assert value(RECORD, metric) == expected


@pytest.mark.parametrize(
    ("metric", "lower", "turned"),
    [
        ("training/loss", True, -0.75),
        ("validation_volumes/hausdorff95_mm/a", True, -3.0),
        ("validation_volumes/dice/a", False, 0.5),
        ("training/accuracy", False, 0.5),
    ],
)
def test_losses_and_distances_are_better_when_they_are_lower(metric, lower, turned):
    assert lower_is_better(metric) == lower
    assert score(RECORD, metric) == turned


@pytest.mark.parametrize(
    ("scores", "patience", "improvement", "expected"),
    [
        pytest.param([], 1, 0, False, id="nothing yet"),
        pytest.param([0.5], 1, 0, False, id="the first is the best there is"),
        pytest.param([0.5] * 5, 5, 0, False, id="four in vain"),
        pytest.param([0.5] * 6, 5, 0, True, id="five in vain"),
        pytest.param([0.5, 0.4, 0.6, 0.5, 0.5], 3, 0, False, id="a better one in between"),
        pytest.param([0.5, None, None, 0.4], 2, 0, False, id="epochs without a score do not count"),
        pytest.param([0.5, 0.55, 0.58], 2, 0.1, True, id="small gains do not count"),
        pytest.param([0.5, 0.55, 0.65], 2, 0.1, False, id="they add up"),
        pytest.param([-3.0, -2.0, -1.0], 1, 0, False, id="turned losses"),
    ],
)
def test_patience_counts_as_keras_counts(scores, patience, improvement, expected):
    settings = EarlyStopping(patience=patience, min_improvement=improvement)
    assert patience_is_exhausted(settings, scores) == expected


@pytest.mark.parametrize(
    ("metric", "goal", "expected"),
    [
        ("training/loss", 0.75, True),
        ("training/loss", 0.7, False),
        ("training/dice/a", 0.2, True),
        ("training/dice/a", 0.3, False),
        ("validation_volumes/dice/b", 0.0, False),
    ],
)
def test_a_goal_is_reached_from_the_better_side(metric, goal, expected):
    assert is_reached(StopAt(metric=metric, value=goal), RECORD) == expected
