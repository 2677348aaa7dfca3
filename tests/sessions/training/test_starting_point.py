"""Sessions under another name: from scratch, and with another seed."""

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.training import TrainConfig
from deepseg.sessions.training.starting_point import varied

CONFIG = TrainConfig.model_validate(
    {
        "name": "tune",
        "output": "runs",
        "training": {"cases": {"table": "train.csv"}},
        "freeze": {"layers": ["normal.1"]},
        "loss": {"l2_sp": 0.5, "dice": 0.25},
    }
)


def test_from_scratch_everything_learns_freely():
    result = varied(CONFIG, from_scratch=True, seed=None)
    assert (result.name, result.freeze, result.loss.l2_sp) == ("tune-scratch", (), 0)
    assert result.loss.dice == 0.25


def test_another_seed_changes_nothing_but_the_name():
    result = varied(CONFIG, from_scratch=False, seed=7)
    assert (result.name, result.seed) == ("tune-seed7", 7)
    assert result.freeze == Freeze(layers=("normal.1",))
    assert varied(CONFIG, from_scratch=True, seed=7).name == "tune-scratch-seed7"
