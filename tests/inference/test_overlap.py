"""Overlapping tiles: where they lie, how they weigh, and what their mean is."""

import numpy as np
import pytest

from deepseg.geometry.boxes import Box
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.geometry.tiles import tiles
from deepseg.inference.overlap import WeightedSum, overlapping_tiles, window

VISION = NetworkGeometry((PathwayGeometry((1, 1, 1), (4, 2, 0)),), (0, 0, 0), "centred")
SHAPE = (20, 9, 13)


def test_without_overlap_they_are_the_usual_tiles():
    assert overlapping_tiles(SHAPE, (10, 7, 6), VISION, 0) == tiles(SHAPE, (10, 7, 6), VISION)


def test_half_an_overlap_moves_by_half_a_prediction():
    found = overlapping_tiles(SHAPE, (10, 99, 99), VISION, 0.5)  # predicts 6 voxels along X
    assert [box.start[0] for box in found] == [-2, 1, 4, 7, 10, 12]
    assert {box.size for box in found} == {(10, 11, 13)}


@pytest.mark.parametrize("overlap", [0.3, 0.9, 0.999])
def test_every_voxel_is_predicted(overlap):
    seen = np.zeros(SHAPE, int)
    for box in overlapping_tiles(SHAPE, (8, 5, 4), VISION, overlap):
        seen[VISION.prediction(box).slices] += 1
    assert seen.min() >= 1


def test_the_window_is_a_gaussian_by_hand():
    weights = window((8, 1, 3))
    assert weights.max() == 1
    middle = np.exp(-0.5 * (0.5 / 1) ** 2)  # of 8 voxels, with a deviation of 1 voxel
    expected = np.exp(-0.5 * (2.5 / 1) ** 2) / middle
    assert weights[1, 0, 1] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(weights, weights[::-1, :, ::-1])


def test_no_voxel_weighs_nothing():
    assert window((30, 30, 30)).min() == pytest.approx(1e-3)


def test_the_mean_is_weighted_and_0_where_no_tile_was():
    own = WeightedSum(2, (4, 2, 3))
    box = Box((1, 0, 0), (2, 2, 3))
    for value, weight in ((0.2, 1.0), (0.8, 3.0)):
        first = np.full(box.size, value, np.float32)
        own.add(box, [first, 1 - first], np.full(box.size, weight, np.float32))
    mean = np.stack(own.finalise())
    np.testing.assert_allclose(mean[0, 1:3], (0.2 + 3 * 0.8) / 4, rtol=1e-6)
    np.testing.assert_allclose(mean.sum(0)[1:3], 1, rtol=1e-6)
    assert not mean[:, [0, 3]].any()
