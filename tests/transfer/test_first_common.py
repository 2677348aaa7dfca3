"""Layer by layer transfer between networks of files."""

import shutil
from pathlib import Path

import pytest
import torch

from deepseg.commands.new_model import new_model
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import read_checkpoint
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.sources.keras.network import read_keras

FILES = Path(__file__).parent / "sources" / "keras" / "files"
MODEL = """\
channels: [T1]
classes: [background, lesion]
imported: [{file: FILE, random: true}]
segments: {train: 16}
"""
STOP = (
    "imported1: 1 of 3 layers taken over layer by layer; stopped at imported1.conv_21: of shape "
    "2x5x1x1x1 in the source, 5x5x3x3x3 here"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("short.json", "short.weights.h5", "deep.h5"):
        shutil.copy(FILES / name, tmp_path)
    for name in ("short.json", "deep.h5"):
        (tmp_path / f"{name}.yaml").write_text(MODEL.replace("FILE", name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def transferred(source, model="deep.h5.yaml"):
    """Weights of a new model, as initialised and after a transfer."""
    rules = TransferRules(depth="first-common")
    plain = new_model(model, out="plain.save", seed=3, quiet=True)
    filled = new_model(model, pretrained=source, rules=rules, out="new.save", seed=3)
    return read_checkpoint(plain).weights, read_checkpoint(filled).weights


def refusal(source, model):
    with pytest.raises(DeepsegError) as error:
        transferred(source, model)
    return str(error.value)


@pytest.mark.parametrize("source", ["short.json", "short.save"])
def test_the_first_common_layers_are_taken_and_the_stop_is_told(here, capsys, source):
    """Pooling between the convolutions ends nothing; the layers have other names."""
    if source == "short.save":
        file = new_model("short.json.yaml", out=source, seed=8, quiet=True)
        old = read_checkpoint(file).weights["imported1.conv_10.weight"]
    else:
        old = read_keras(here / source).weights["conv_10.weight"]
    plain, new = transferred(source)
    assert STOP in capsys.readouterr().out.splitlines()
    assert torch.equal(new["imported1.conv_20.weight"], old)
    changed = {name for name in new if not torch.equal(new[name], plain[name])}
    assert changed <= {"imported1.conv_20.weight", "imported1.conv_20.bias"}


def test_what_the_walk_leaves_behind_is_told(here, capsys):
    transferred("short.json")
    assert "Skipping layer classes_1: not taken over" in capsys.readouterr().out.splitlines()


def test_a_walk_needs_a_network_of_a_file(here):
    (here / "own.yaml").write_text(
        MODEL.replace("imported: [{file: FILE, random: true}]", "normal: {feature_maps: [4, 4]}")
    )
    assert "-depth first-common for Keras and a model without imported pathways" in refusal(
        "short.json", "own.yaml"
    )


def test_nothing_in_common_is_an_error(here):
    text = (here / "deep.h5.yaml").read_text("utf-8").replace("[T1]", "[T1, T2]")
    (here / "two.yaml").write_text(text.replace("random: true", "random: true, channels: {T1: 0}"))
    assert refusal("short.json", "two.yaml").startswith(
        "[nothing-taken] short.json: got no layer to take over (imported1.conv_20: stopped here: "
        "of shape 5x1x3x3x3 in the source, 5x2x3x3x3 here);"
    )
