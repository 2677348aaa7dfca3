"""Modules of torch as pathways: made once, kept in the `.save`, applied without them."""

import sys

import pytest
import torch

import deepseg
from deepseg.model.checkpoint import read_checkpoint
from deepseg.transfer.sources.modules import module_graph, module_registry
from tests.imported_networks import Encoder, encoder

MODEL = """\
name: small
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
imported:
  - {module: encoder, output: last_act, channels: {T1: 0}, margin: 4}
fc: {feature_maps: [5], dropout: 0}
segments: {train: 20, inference: 24}
"""


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(module_registry, "_registered", {})
    monkeypatch.setattr(module_graph, "SIZES", ((8, 12, 16),))
    deepseg.register_module("encoder", encoder())
    deepseg.register_module("Encoder", Encoder)


def weights(file, name="imported1."):
    stored = read_checkpoint(file).weights
    return {key.removeprefix(name): value for key, value in stored.items() if key.startswith(name)}


def test_the_save_holds_the_module_and_needs_it_no_more(place, command, monkeypatch):
    place.write("model.yaml", MODEL)
    result = command("-newModel", "model.yaml", "-out", "A.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert "imported1.stem" in result.stdout
    monkeypatch.setattr(module_registry, "_registered", {})
    monkeypatch.setitem(sys.modules, "deepseg.transfer.sources.modules.module_graph", None)
    assert "imported1.down_norm" in command("-show", "A.save").stdout
    assert command("-test", "test.yaml", "-model", "A.save").errors == []
    state = encoder().state_dict()
    stored = weights("A.save")
    assert torch.equal(stored.pop("stem.weight")[:, :1], state["stem.weight"])
    assert [key for key, value in stored.items() if not torch.equal(value, state[key])] == []
    assert len(stored) == 14


@pytest.mark.parametrize("settings", ["module: encoder, random: true", "module: Encoder"])
def test_new_weights_follow_the_seed(place, command, settings):
    place.write("model.yaml", MODEL.replace("module: encoder", settings))
    if "random" not in settings:
        place.edit("model.yaml", "margin: 4", "margin: 4, random: true, arguments: {padding: 1}")
    seeds = {"A": "0", "B": "0", "C": "1"}
    for name, seed in seeds.items():
        assert command(
            "-newModel", "model.yaml", "-out", f"{name}.save", "-seed", seed
        ).errors == []  # fmt: skip
    a, b, c = (weights(f"{name}.save")["last.weight"] for name in seeds)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_weights_come_from_a_file_of_torch(place, command):
    torch.save({"state_dict": {f"module.{k}": v for k, v in encoder(5).state_dict().items()}},
               place / "net.pt")  # fmt: skip
    settings = "module: Encoder, arguments: {channels: 1}, weights: net.pt"
    place.write("model.yaml", MODEL.replace("module: encoder", settings))
    result = command("-newModel", "model.yaml", "-out", "A.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert "net.pt" in result.stdout
    assert torch.equal(weights("A.save")["last.weight"], encoder(5).state_dict()["last.weight"])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        pytest.param(
            "module: encodr",
            "ERROR [module-unknown] encodr (imported1): got module 'encodr'; expected a class of "
            "monai.networks.nets or dynamic_network_architectures.architectures, or a module that "
            "deepseg.register_module knows; fix: correct the name; did you mean 'encoder'?",
            id="unknown",
        ),
        pytest.param(
            "module: Encoder, arguments: {channel: 1}",
            "ERROR [module-arguments] Encoder (imported1): got argument 'channel' of Encoder; did "
            "you mean 'channels'?; expected among channels, padding; fix: correct arguments of "
            "this pathway",
            id="arguments",
        ),
        pytest.param(
            "module: encoder, file: net.onnx",
            "ERROR [imported-source] model.yaml:6 imported[0]: got file and module; expected "
            "one of file, module, nnunet; fix: keep one of the three",
            id="two sources",
        ),
        pytest.param(
            "file: net.onnx, weights: net.pt",
            "ERROR [imported-source] model.yaml:6 imported[0]: got weights beside file; "
            "expected weights beside module only; fix: remove weights",
            id="what belongs to another source",
        ),
    ],
)
def test_mistakes_are_one_line(place, command, settings, line):
    place.write("model.yaml", MODEL.replace("module: encoder", settings))
    result = command("-newModel", "model.yaml", "-out", "A.save")
    assert result.returncode == 2
    assert result.errors == [line]
    assert not (place / "A.save").exists()
