"""A U-Net with another level on top keeps the levels below by name, bit for bit."""

import pytest
import torch

from deepseg.commands.new_model import new_model
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import read_checkpoint
from deepseg.transfer.rules import TransferRules

SMALL = """\
channels: [T1]
classes: [background, lesion]
unet:
  levels:
    - {feature_maps: 4}
    - {feature_maps: 3}
fc: none
segments: {train: 16}
"""
BIG = SMALL.replace("3}\n", "3}\n    - {feature_maps: 2, stride: [2, 2, 1]}\n")
NEW_KERNEL = "unet1.level1.encoder.1.conv.weight"  # it read the image, and reads maps now


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "big.yaml").write_text(BIG)
    new_model("small.yaml", out="small.save", seed=1, quiet=True)
    return tmp_path


def grown(**rules):
    file = new_model("big.yaml", pretrained="small.save", rules=TransferRules(**rules), seed=2)
    return read_checkpoint(file).weights


def test_kept_levels_are_equal_to_the_bit(files, capsys):
    new = grown(layers=("all",))
    old = read_checkpoint(files / "small.save").weights
    kept = {name for name, value in new.items() if name in old and torch.equal(value, old[name])}
    assert old.keys() - kept == {NEW_KERNEL}
    assert {name.split(".")[1] for name in new.keys() - old.keys()} == {"level2"}
    lines = capsys.readouterr().out.splitlines()
    assert "left behind in the source: encoder.1.conv.weight of unet1.level1" in lines


def test_the_old_classifier_becomes_the_head_of_its_level(files):
    new = grown(layers=("all",))
    old = read_checkpoint(files / "small.save").weights
    assert torch.equal(new["unet1.level1.head.weight"], old["unet1.level1.head.weight"])
    assert new["unet1.level2.head.weight"].shape == (2, 2, 1, 1, 1)


def test_single_levels_are_chosen(files):
    new, old = grown(layers=("unet1.level0",)), read_checkpoint(files / "small.save").weights
    kept = {name for name in old if torch.equal(new[name], old[name])}
    spread = {name for name in kept if not name.endswith((".bias", "norm.weight"))}
    assert {name.split(".")[1] for name in spread} == {"level0"}


def test_growth_that_cannot_keep_the_function_is_refused(files):
    with pytest.raises(DeepsegError) as error:
        grown(depth="identity")
    assert error.value.problems[0].code == "transfer-rules"
