"""Multiply-adds by hand."""

import pytest
import yaml

from deepseg.config.model import ModelConfig
from deepseg.model.cost import multiply_adds, multiply_adds_in_inference, share_of_taps
from deepseg.model.imported_cost import imported_multiply_adds, imported_values
from deepseg.model.layout import layout
from deepseg.transfer.imported import read_imported
from tests.imported_networks import IMPORTED_MODEL, write_encoder
from tests.networks import small_config

PLAN = layout(
    small_config(
        normal={"feature_maps": [4, 6]},
        fc={"feature_maps": [5], "kernels": [3, 1], "padding": ["mirror", "none"]},
    )
)


def test_coarse_voxels_cost_as_much_less_as_there_are_fewer():
    assert multiply_adds(PLAN) == pytest.approx(
        {
            "normal.1": 2 * 4 * 27, "normal.2": 4 * 6 * 27,
            "sub1.1": 2 * 4 * 27 / 27, "sub1.2": 4 * 6 * 27 / 27,
            "fc.1": 12 * 5 * 27, "fc.2": 5 * 3,
        }
    )  # fmt: skip


def test_repeated_maps_are_convolved_with_125_taps_per_coarse_voxel():
    assert share_of_taps((3, 3, 3), (3, 3, 3)) == pytest.approx(125 / 729)
    assert share_of_taps((3, 3, 3), (1, 2, 5)) == pytest.approx(1 * 4 / 6 * 5 / 15)
    costs = multiply_adds_in_inference(PLAN)
    assert costs["fc.1"] == pytest.approx(6 * 5 * 27 + 6 * 5 * 125 / 27)
    assert costs["normal.2"] == multiply_adds(PLAN)["normal.2"]


def test_layers_of_an_imported_network_are_counted(tmp_path):
    """By hand, per voxel of the image: kernels, at an eighth of the voxels after the stride."""
    write_encoder(tmp_path / "net.onnx")
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(tmp_path / "net.onnx")))
    config = read_imported(ModelConfig.model_validate(values), tmp_path / "model.yaml").config
    costs = imported_multiply_adds(layout(config))
    assert costs == {
        "imported1.stem": 27 * 2 * 4, "imported1.norm": 0, "imported1.act": 0,
        "imported1.down": 27 * 4 * 6 / 8, "imported1.down_norm": 0,
        "imported1.last": 27 * 6 * 6 / 8,
    }  # fmt: skip
    full, low = 20 * 20 * 24, 10 * 10 * 12  # 12 x 12 x 16 predicted voxels and a margin of 4
    images = imported_values(layout(config), (12, 12, 16))
    assert images == 3 * 4 * full + 5 * 6 * low  # convolution, norm, activation; two more
