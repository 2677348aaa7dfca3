"""Multiply-adds by hand."""

import pytest

from deepseg.model.cost import multiply_adds, multiply_adds_in_inference, share_of_taps
from deepseg.model.layout import layout
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
