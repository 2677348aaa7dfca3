"""Training that DeepMedic began: the state from which a session here goes on."""

import torch

from deepseg.config.training import TrainConfig
from deepseg.report.console import Console
from deepseg.sessions.model_files import named_files, session_models
from deepseg.sessions.training.deepmedic_start import deepmedic_training
from tests.tensorflow import write_checkpoint

MODEL = """\
numberOfOutputClasses = 2
numberOfInputChannels = 1
numberFMsPerLayerNormal = [2, 3]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3]]
segmentsDimTrain = [9,9,9]
"""
SLOTS = ("accu_grad_squared", "velocities_for_mom")


def training(tmp_path, **settings):
    """The record of a checkpoint after 7 epochs, and the imported weights."""
    (tmp_path / "M.cfg").write_text(MODEL)
    file = write_checkpoint(tmp_path / "X.model.ckpt", tmp_path / "M.cfg", epochs=7, slots=SLOTS)
    files = named_files(tmp_path / "M.cfg", file, None)
    (model,) = session_models(files, seed=0, warn=lambda _: None)
    config = TrainConfig.model_validate(
        {
            "name": "on",
            "output": "runs",
            "epochs": 9,
            "training": {"cases": {"table": "train.csv"}},
            **settings,
        }
    )
    return deepmedic_training(model, file, config, Console(silent=True)), model.weights


def test_epochs_before_have_no_score_and_the_start_is_remembered(tmp_path):
    record, _ = training(tmp_path)
    assert (record["epoch"], record["scores"], record["best"]) == (7, [None] * 7, None)
    assert record["start"] == {"file": str(tmp_path / "X.model.ckpt"), "sha256": ""}
    assert record["optimizer"]["name"] == "rmsprop"


def test_the_imported_weights_are_the_place_to_which_l2_sp_pulls(tmp_path):
    record, weights = training(tmp_path, loss={"l2_sp": 0.5})
    kernel = "normal.2.conv.weight"
    assert torch.equal(record["anchors"][kernel], weights[kernel])


def test_frozen_layers_have_no_state(tmp_path):
    record, _ = training(tmp_path, freeze={"layers": ["normal.1"]})
    names = record["optimizer"]["state"]
    assert not any(name.startswith("normal.1.") for name in names)
    assert names["fc.1.bias"]["square"].tolist() == [10.0, 10.0]  # its number among all tensors


def test_another_optimiser_is_named_so_that_a_warning_tells(tmp_path):
    record, _ = training(tmp_path, optimiser={"name": "adam", "learning_rate": 0.5})
    assert record["settings"]["optimiser"]["name"] == "rmsprop"
    assert record["settings"]["optimiser"]["learning_rate"] == 0.5
