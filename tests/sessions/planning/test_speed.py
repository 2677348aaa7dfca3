"""Trainings that are so short that nobody needs to know how long they take."""

import pytest

from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.sessions.planning.speed import is_quick
from deepseg.transfer.imported import read_imported

UNET = {"levels": [{"feature_maps": 8}, {"feature_maps": 8}]}


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, True),  # of 20 segments of 16^3 voxels with less than 10,000 multiply-adds: 8e8
        (5000, False),  # with 4 x 8 x 8 x 27 at least, but for the first layer: 2e12
    ],
)
def test_the_layers_of_a_u_net_count(epochs, expected, tmp_path):
    config = ModelConfig.model_validate(
        {
            "channels": ["T1"],
            "classes": ["a", "b"],
            "unet": UNET,
            "fc": "none",
            "segments": {"train": 16},
        }
    )
    network = read_imported(config, tmp_path / "unet.yaml").config
    training = TrainConfig.model_validate(
        {
            "output": ".",
            "epochs": epochs,
            "subepochs": 1,
            "training": {"cases": {"table": "a.csv"}, "segments_per_subepoch": 20},
        }
    )
    assert is_quick(network, training) is expected
