"""The preparation of an older model in a new one: with its first layers, in the new names."""

from dataclasses import replace

import pytest
import torch

from deepseg.config.cases import Preparation, ZScore
from deepseg.model.checkpoint import TrainingCohort, new_checkpoint
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import filled_checkpoint
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source
from tests.networks import small_config

COHORT = TrainingCohort((1.0, 1.0, 2.0), ("RAS",), has_roi=True, missing_channels=("FLAIR",))
SCALED = Preparation(z_score=ZScore(channels=("FLAIR",)), resample=1.0)


def filled(*, preparation=SCALED, cohort=COHORT, channels=("T1", "FLAIR"), wishes=None, **rules):
    """A model with these channels, filled from one with T1 and FLAIR."""
    old, new = small_config(), small_config(channels=list(channels))
    weights = new_checkpoint(old, seed=1).weights
    source = Source(
        "A.save", "deepseg model", weights, "0" * 64, old, preparation=preparation, cohort=cohort
    )
    checkpoint = new_checkpoint(new, seed=2)
    chosen = TransferRules(channels=wishes or {}, **rules)
    plan = make_plan(source, new, checkpoint.weights, chosen)
    return plan, filled_checkpoint(plan, checkpoint)


NOTE = "cases are prepared as for the older model, whose first layers are taken over: "


def test_the_first_layers_bring_preparation_and_cohort_and_a_line_says_so():
    plan, model = filled()
    assert (model.preparation, model.cohort) == (SCALED, COHORT)
    assert plan.notes[-1] == f"{NOTE}z_score (channels FLAIR), resample 1 x 1 x 1 mm"
    assert plan.record()["preparation"] == SCALED.model_dump(mode="json")
    assert torch.equal(
        model.weights["normal.1.conv.weight"], plan.source.tensors["normal.1.conv.weight"]
    )


@pytest.mark.parametrize("layers", [("normal.1",), ("sub1.1", "fc.1"), ("1",), ("all",)])
def test_one_first_layer_of_any_pathway_is_enough(layers):
    _, model = filled(layers=layers)
    assert (model.preparation, model.cohort) == (SCALED, COHORT)


@pytest.mark.parametrize("layers", [("normal.2",), ("fc.1",), ("head",)])
def test_without_a_first_layer_nothing_comes_along(layers):
    plan, model = filled(layers=layers)
    assert (model.preparation, model.cohort) == (None, None)
    assert not any(note.startswith(NOTE) for note in plan.notes)
    assert plan.record()["preparation"] is None


@pytest.mark.parametrize(
    ("channels", "wishes", "columns"),
    [
        (("T1", "FLAIR"), None, ("a", "b")),
        (("FLAIR", "T1"), None, None),
        (("T1", "FLAIR"), {"T1": "copy:FLAIR"}, None),
    ],
)
def test_columns_come_along_where_every_channel_reads_what_it_did(channels, wishes, columns):
    cohort = replace(COHORT, columns=("a", "b"))
    _, model = filled(cohort=cohort, channels=channels, wishes=wishes)
    assert model.cohort.columns == columns


def test_an_older_model_that_saw_no_cases_has_nothing_to_bring():
    plan, model = filled(preparation=None, cohort=None)
    assert (model.preparation, model.cohort) == (None, None)
    assert not any(note.startswith(NOTE) for note in plan.notes)


@pytest.mark.parametrize(
    ("channels", "wishes", "scaled", "missing"),
    [
        pytest.param(("FLAIR", "T1"), {}, ("FLAIR",), ("FLAIR",), id="another order"),
        pytest.param(
            ("DWI", "T1"), {"DWI": "copy:FLAIR"}, ("DWI",), ("DWI",), id="another name"
        ),
        pytest.param(
            ("FLAIR", "T1", "DWI"), {"DWI": "mean"}, ("FLAIR", "DWI"), ("FLAIR", "DWI"),
            id="a mean of both",
        ),
        pytest.param(("T1", "DWI"), {}, None, (), id="a channel that is left behind"),
    ],
)  # fmt: skip
def test_channels_go_by_the_names_of_the_new_model(channels, wishes, scaled, missing):
    _, model = filled(channels=channels, wishes=wishes)
    expected = "none" if scaled is None else ZScore(channels=scaled)
    assert model.preparation == Preparation(z_score=expected, resample=1.0)
    assert model.cohort.missing_channels == missing


def test_a_spacing_of_the_new_model_is_that_of_its_cases():
    third = (1 / 3, 1 / 3, 2 / 3)  # where sub1, of factor 3, sees as the normal pathway did
    _, model = filled(spacing_mm=third, layers=("normal.1",))
    assert model.preparation.resample == third
    assert model.cohort.spacing_mm == third
