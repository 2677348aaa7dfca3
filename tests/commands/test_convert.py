"""``-convert``: the YAML that is written means what the ``.cfg`` file means."""

from pathlib import Path

import pytest

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from tests.commands.test_model_choice import CFG, TEST_CFG, TRAIN_CFG


@pytest.mark.parametrize(
    ("text", "model"),
    [(CFG, ModelConfig), (TRAIN_CFG, TrainConfig), (TEST_CFG, TestConfig)],
)
def test_the_yaml_means_the_same(command, place, text, model):
    place.write("X.cfg", text)
    result = command("-convert", "X.cfg")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(" file written to X.yaml\n")
    assert load(model, Path("X.yaml")).config == load(model, Path("X.cfg")).config


def test_nothing_is_written_over_and_other_files_are_refused(refused, place):
    place.write("X.cfg", CFG)
    place.write("X.yaml", "mine")
    assert refused("-convert", "X.cfg") == [
        "[file-exists] X.yaml: got a file that is there; expected a name that is free; fix: choose "
        "another -out, or remove the file"
    ]
    assert refused("-convert", "model.yaml") == [
        "[config-file-type] model.yaml: got the ending '.yaml'; expected .cfg, for a file of "
        "DeepMedic; fix: give a .cfg file; others need no conversion"
    ]
