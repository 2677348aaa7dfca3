"""Requests that models cannot fulfil together."""

from dataclasses import replace

import pytest

from deepseg.inference.requests import model_differences
from deepseg.model.checkpoint import TrainingCohort, new_checkpoint
from tests.networks import small_config


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        (("T1", "FLAIR"), ("FLAIR", "T1"), True),
        (("T1", "FLAIR"), ("T1", "FLAIR"), False),
        (None, ("FLAIR", "T1"), False),
        (("T1", "FLAIR"), None, False),
    ],
)
def test_models_that_have_learnt_from_other_columns_are_refused(first, second, is_refused):
    model = new_checkpoint(small_config(channels=["channel1", "channel2"]), seed=0)
    models = [replace(model, cohort=TrainingCohort(columns=columns)) for columns in (first, second)]
    problems = list(model_differences(models))
    assert [problem.got for problem in problems] == ["columns of channels FLAIR, T1"] * is_refused
