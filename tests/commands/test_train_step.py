"""``-export MODEL train-step``: what lies in the folder, and what is refused."""

import hashlib
import json

import numpy as np
import onnx
import pytest

from deepseg.exports.verification import inference_session
from deepseg.model.checkpoint import read_checkpoint


@pytest.fixture
def exported(command, place):
    """Export a new model with options; gives the folder."""

    def run(*options):
        assert command("-newModel", "model.yaml", "-out", "M.save", "-quiet").returncode == 0
        result = command("-export", "M.save", "train-step", *options, "-out", "device")
        assert (result.returncode, result.stdout) == (0, "written to device\n")
        return place / "device"

    return run


def test_the_manifest_lists_what_learns_what_does_not_and_every_file(exported, place):
    folder = exported("-train", "normal.2,head", "-batch", "2", "-segment", "9,10,11")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["learning"]["layers"] == ["normal.2", "fc.1"]
    assert manifest["learning"]["frozen"] == ["normal.1", "sub1.1", "sub1.2"]
    weights = read_checkpoint(place / "M.save").weights
    listed = {**manifest["trainable"], **manifest["frozen"], **manifest["state"]}
    assert {name for name in listed if not name.startswith("velocity.")} == set(weights)
    assert all(name.startswith(("normal.2.", "fc.1.")) for name in manifest["trainable"])
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json"]
    digests = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    assert manifest["files"] == digests
    assert (manifest["channels"], manifest["train"]["batch"]) == (["T1", "FLAIR"], 2)
    assert manifest["train"]["segment"] == [9, 10, 11]


def test_the_graph_has_inputs_by_name_and_refuses_other_shapes(exported):
    folder = exported("-train", "head", "-batch", "2", "-segment", "9")
    graph = onnx.load(folder / "train_step.onnx")
    assert [entry.domain for entry in graph.opset_import] == [""]
    session = inference_session(graph.SerializeToString())
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert shapes["x_normal"] == [2, 2, 9, 9, 9]
    assert {"x_sub1", "y", "learning_rate", "momentum", "decay", "fc.1.bias"} <= set(shapes)
    assert "velocity.fc.1.bias" in shapes
    assert "normal.1.conv.weight" not in shapes
    feeds = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    feeds |= {"y": np.zeros(shapes["y"], np.int64), "x_normal": np.zeros((2, 2, 8, 9, 9), "f")}
    with pytest.raises(Exception, match=r"x_normal(.|\n)*Got: 8 Expected: 9"):
        session.run(None, feeds)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(
            ["-train", "fc.7"],
            "[layer-unknown] M.save: got 'fc.7'",
            id="a layer that is not there",
        ),
        pytest.param(
            ["-train", "tune:last:0"],
            "[train-layers] M.save: got -train 'tune:last:0'; expected all, head, tune:head, "
            "tune:last:N, or layers such as fc.2,head; fix: name the layers that learn",
            id="no layer",
        ),
        pytest.param(
            ["-segment", "4"],
            "[segment-too-small] M.save: got -segment 4 x 4 x 4; expected at least ",
            id="a segment that is too small",
        ),
        pytest.param(["-batch", "0"], "[command-line] ", id="a batch of nothing"),
        pytest.param(["-trainable"], "[command-line] M.save: got -trainable with", id="for onnx"),
        pytest.param(["-out", "data"], "[file-exists] data: got ", id="a folder that is there"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(command, place, options, problem):
    assert command("-newModel", "model.yaml", "-out", "M.save", "-quiet").returncode == 0
    before = place.files()
    result = command("-export", "M.save", "train-step", *options)
    assert result.returncode == 2
    (error,) = result.errors
    assert error.startswith(f"ERROR {problem}"), error
    assert place.files() == before
