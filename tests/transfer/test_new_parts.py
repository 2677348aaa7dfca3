"""Parts that no older model has filled: drawn with another seed, without touching the rest."""

from dataclasses import replace

import pytest
import torch

from deepseg.config.training import TrainConfig
from deepseg.model.checkpoint import new_checkpoint
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.model_files import NamedFiles
from deepseg.sessions.training.starting_point import starting_model
from deepseg.transfer.filling import planned_transfer
from deepseg.transfer.new_parts import new_parts, with_new_parts
from deepseg.transfer.rules import TransferRules
from tests.networks import small_config


@pytest.fixture
def filled(tmp_path):
    """A model of three classes, all but its head from a trained one of two."""
    older = new_checkpoint(small_config(classes=["background", "a"]), seed=7)
    trained = older.provenance.trained("older", epochs=3)
    weights = {name: weight + 0.25 for name, weight in older.weights.items()}
    file = replace(older, weights=weights, provenance=trained).write(tmp_path / "older.save")
    model = new_checkpoint(small_config(), seed=0)
    return planned_transfer(model, file, TransferRules(), seed=0).filled()


def changed(before, after):
    return {n for n, w in after.weights.items() if not torch.equal(w, before.weights[n])}


def test_only_the_head_is_drawn_anew_and_as_a_model_of_that_seed_has_it(filled):
    drawn, layers = with_new_parts(filled, seed=5)
    names = changed(filled, drawn)
    assert (layers, names) == (("fc.2",), {"fc.2.conv.weight"})
    fresh = new_checkpoint(small_config(), seed=5)
    assert torch.equal(drawn.weights["fc.2.conv.weight"], fresh.weights["fc.2.conv.weight"])
    assert drawn.provenance.seed == 5
    assert drawn.provenance.filled_from == filled.provenance.filled_from


def test_new_feature_maps_of_a_layer_that_was_filled_in_part_are_new(filled):
    name = "normal.2.conv.weight"
    weights = dict(filled.weights)
    fresh = new_checkpoint(small_config(), seed=0).weights[name]
    weights[name] = torch.cat([weights[name][:1], fresh[1:]])
    drawn, _ = with_new_parts(replace(filled, weights=weights), seed=5)
    assert torch.equal(drawn.weights[name][:1], filled.weights[name][:1])
    second = new_checkpoint(small_config(), seed=5).weights[name]
    assert torch.equal(drawn.weights[name][1:], second[1:])


def test_the_seed_of_the_model_itself_changes_nothing(filled):
    assert with_new_parts(filled, seed=0) == (filled, ())


def test_weights_that_were_trained_since_are_not_new(filled):
    trained = replace(filled, provenance=filled.provenance.trained("lesions", epochs=1))
    assert with_new_parts(trained, seed=5) == (trained, ())


def test_without_a_seed_nothing_is_known_to_be_new(filled):
    unknown = replace(filled, provenance=replace(filled.provenance, seed=None))
    assert new_parts(unknown) == {}
    assert with_new_parts(unknown, seed=5) == (unknown, ())


@pytest.mark.parametrize(("redraw", "layers"), [(True, {"fc.2.conv.weight"}), (False, set())])
def test_a_session_of_another_seed_begins_with_another_head(tmp_path, filled, redraw, layers):
    file = filled.write(tmp_path / "M.save")
    config = TrainConfig.model_validate(
        {"name": "s", "output": ".", "training": {"cases": {"table": "no.csv"}}, "seed": 5}
    )
    with SessionFolder(tmp_path / "s", quiet=True) as folder:
        start = starting_model(
            folder,
            config,
            NamedFiles((file,)),
            reset_optimizer=False,
            from_scratch=False,
            redraw=redraw,
        )
    assert changed(filled, start) == layers
