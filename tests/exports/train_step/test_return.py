"""Weights that come back from a device: the same model, and where it has been."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deepseg.commands.json_records import show_record
from deepseg.commands.new_model import new_model
from deepseg.commands.show import show
from deepseg.errors import DeepsegError
from deepseg.exports.on_device.device_train import main
from deepseg.geometry.boxes import Box
from deepseg.model.checkpoint import read_checkpoint
from tests.exports.conftest import MODEL
from tests.exports.train_step.steps import computed, opened


@pytest.fixture
def trained(exported, device):
    """An exported folder after four steps."""
    words = ["--steps", "4", "--save-every", "2", "--eval-every", "0", "--learning-rate", "0.05"]
    assert main([str(device), "--data", str(exported / "cases"), *words]) == 0
    return device


@pytest.fixture
def back(exported, tmp_path):
    """Bring a folder, or a state, back into a model."""

    def given(path, model=exported / "model.yaml"):
        return read_checkpoint(
            new_model(model, pretrained=path, out=tmp_path / "back.save", quiet=True)
        )

    return given


def test_a_model_segments_as_the_device_does(trained, back):
    model = back(trained)
    with np.load(trained / "state_000004.npz") as archive:
        state = {name: archive[name] for name in archive.files}
    for name, value in model.weights.items():
        np.testing.assert_array_equal(value.numpy(), state[name], err_msg=name)
    network = model.network().eval()
    rng = torch.Generator().manual_seed(0)
    size = model.config.segment_sizes["inference"]
    lattices = network.geometry.lattices(Box((0, 0, 0), size))
    images = [torch.randn(1, 2, *points.count, generator=rng) for points in lattices]
    with torch.no_grad():
        expected = network(images).softmax(1)
    feeds = {"x_normal": images[0].numpy(), "x_sub1": images[1].numpy(), **state}
    session = opened((trained / "infer.onnx").read_bytes())
    probabilities = computed(session, feeds)["probabilities"]
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_it_knows_its_export_its_steps_and_its_preparation(trained, back):
    model = back(trained)
    source = model.provenance.filled_from
    assert (source.file, source.device_steps, source.is_random) == (str(trained), 4, False)
    assert model.provenance.words()["steps on the device"] == 4
    assert model.preparation is not None
    manifest = json.loads((trained / "manifest.json").read_text())
    assert model.preparation.z_score.model_dump() == manifest["preparation"]["z_score"]


def test_an_earlier_state_comes_back_by_its_name(trained, back):
    model = back(trained / "state_000002.npz")
    with np.load(trained / "state_000002.npz") as archive:
        weight = archive["fc.2.conv.weight"]
    np.testing.assert_array_equal(model.weights["fc.2.conv.weight"].numpy(), weight)
    assert model.provenance.filled_from.device_steps == 2


def test_a_model_with_other_classes_keeps_a_new_head(trained, back, tmp_path):
    other_model = tmp_path / "other.yaml"
    other_model.write_text(MODEL.replace("[background, rim, core]", "[background, lesion]"))
    model = back(trained, other_model)
    with np.load(trained / "state_000004.npz") as archive:
        weight = archive["normal.1.conv.weight"]
    np.testing.assert_array_equal(model.weights["normal.1.conv.weight"].numpy(), weight)
    assert not model.weights["fc.2.bias"].any()


def test_files_of_two_exports_are_refused(trained, back):
    (trained / "state.npz").write_bytes((trained / "state_000002.npz").read_bytes())
    with pytest.raises(DeepsegError) as caught:
        back(trained)
    assert str(caught.value) == (
        f"[device-folder] {trained / 'state.npz'}: got another state.npz than was exported; "
        "expected the files of one export and its states; fix: copy the folder again"
    )


def test_a_state_that_is_not_there_is_not_damaged(trained, back):
    with pytest.raises(DeepsegError) as caught:
        back(trained / "state_000003.npz")
    assert str(caught.value) == (
        f"[tensors-missing] {trained / 'state_000003.npz'}: got no such file; expected a .npz of "
        "arrays; fix: correct the path; did you mean 'state_000004.npz'?"
    )


def test_show_tells_what_a_folder_of_a_device_holds(trained):
    text = show(trained)
    assert "3 classes (background, rim, core)" in text
    for line in (f"folder    {trained}\n", "made by   -export MODEL train-step\n"):
        assert line in text
    assert "state     state_000004.npz\nsteps     4\n" in text
    assert "state     state_000002.npz\nsteps     2\n" in show(trained / "state_000002.npz")
    assert show_record(trained)["origin"] == str(trained / "state_000004.npz")
