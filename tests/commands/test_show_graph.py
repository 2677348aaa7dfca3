"""``-show net.onnx``: every node with names, shape and stride, and what its images have to be."""

import numpy as np
import pytest
from onnx import helper

from deepseg.commands.show import show
from tests.onnx_models import model, write

WEIGHTS = {
    "stem.weight": np.ones((4, 2, 3, 3, 3), np.float32),
    "stem.bias": np.ones(4, np.float32),
}
SHAPE = {"image": ["n", 2, "x", "y", "z"]}
POOL = helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2, 1], strides=[2, 2, 1])
STEM = helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["a"], name="stem")


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def page(*nodes, **settings):
        write(tmp_path / "net.onnx", model(nodes, SHAPE, weights=WEIGHTS, **settings))
        return [line.split() for line in show("net.onnx").splitlines()]

    return page


def test_nodes_are_shown_with_their_names_and_strides(page):
    lines = page(STEM, POOL, outputs=["b"])
    assert ["name", "first", "output", "operator", "shape", "stride", "parameters"] in lines
    assert ["stem", "a", "Conv", "4x62x62x62", "1x1x1", "220"] in lines
    assert ["-", "b", "MaxPool", "4x31x31x62", "2x2x1", "-"] in lines


def test_the_geometry_is_shown(page):
    lines = [" ".join(words) for words in page(STEM, POOL, outputs=["b"])]
    assert lines[lines.index("channels 2") :][:9] == [
        "channels 2",
        "smallest image 4 x 4 x 3",
        "in steps of 2 x 2 x 1",
        "output b",
        "maps 4",
        "stride 2 x 2 x 1",
        "first voxel at 1.5 x 1.5 x 1",
        "border cropped",
        "receptive field 4 x 4 x 3",
    ]


def test_a_network_that_cannot_be_computed_is_shown_with_the_reason(page, capsys):
    lines = page(STEM, helper.make_node("LRN", ["a"], ["b"], size=3), outputs=["b"])
    assert ["-", "b", "LRN", "-", "-", "-"] in lines
    assert "WARNING [graph-operator] net.onnx: got LRN at 'b';" in capsys.readouterr().err


def test_weights_are_shown_as_those_of_other_files(page):
    lines = page(STEM, POOL, outputs=["b"])
    assert ["stem.weight", "4x2x3x3x3", "float32"] in lines
    assert ["kind", "ONNX"] in lines
