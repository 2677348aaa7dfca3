"""Overlapping tiles: where they lie, how they weigh, and what their mean is."""

import numpy as np
import pytest

from deepseg.geometry.boxes import Box
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.geometry.tiles import tiles
from deepseg.inference.overlap import WeightedSum, WindowGrid, window

VISION = NetworkGeometry((PathwayGeometry((1, 1, 1), (4, 2, 0)),), (0, 0, 0), "centred")
SHAPE = (20, 9, 13)


def test_without_overlap_they_are_the_usual_tiles():
    assert WindowGrid().tiles(SHAPE, (10, 7, 6), VISION) == tiles(SHAPE, (10, 7, 6), VISION)


def test_half_an_overlap_moves_by_half_a_prediction():
    result = WindowGrid(0.5).tiles(SHAPE, (10, 99, 99), VISION)  # predicts 6 voxels along X
    assert sorted({box.start[0] for box in result}) == [-2, 1, 4, 7, 10, 12]
    assert {box.size for box in result} == {(10, 11, 13)}


def test_even_windows_are_those_of_nnunet():
    """20 voxels, windows of 6, at most 3 apart: five steps of 14 / 5."""
    result = WindowGrid(0.5, is_even=True).tiles(SHAPE, (10, 99, 99), VISION)
    assert sorted({box.start[0] + 2 for box in result}) == [0, 3, 6, 8, 11, 14]


def test_windows_of_a_mirrored_case_lie_where_those_of_the_case_do():
    plain, mirrored = (
        WindowGrid(0.3, axes=axes).tiles(SHAPE, (10, 7, 6), VISION) for axes in ((), (0, 2))
    )
    calls = {
        (20 - start[0], start[1], 13 - start[2])
        for start, size in ((p.start, p.size) for p in map(VISION.prediction, mirrored))
    }
    assert calls == {(p.stop[0], p.start[1], p.stop[2]) for p in map(VISION.prediction, plain)}


@pytest.mark.parametrize(
    ("axes", "expected"),
    [((), ((1, 0, 0), (2, 0, 0))), ((0,), ((2, 0, 0), (1, 0, 0)))],
    ids=["as it is", "mirrored"],
)
def test_a_smaller_image_lies_in_the_middle_of_zeros(axes, expected):
    """A tile of 14 voxels predicts 10 of the 7 along X, and no more than there are elsewhere."""
    grid = WindowGrid(0.5, pads_with_zeros=True, axes=axes)
    assert grid.border((7, 9, 13), (14, 9, 9), VISION) == expected
    assert WindowGrid(0.5).border((7, 9, 13), (14, 9, 9), VISION) == ((0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize("is_even", [True, False])
@pytest.mark.parametrize("overlap", [0.3, 0.9])
def test_every_voxel_is_predicted(overlap, is_even):
    calls = np.zeros(SHAPE, int)
    for box in WindowGrid(overlap, is_even).tiles(SHAPE, (8, 5, 4), VISION):
        calls[VISION.prediction(box).slices] += 1
    assert calls.min() >= 1


def test_the_window_is_a_gaussian_by_hand():
    weights = window((8, 1, 3))  # of 8 voxels, with a deviation of 1 voxel
    assert weights.max() == pytest.approx(np.exp(-0.5 * 0.5**2))
    assert weights[1, 0, 1] == pytest.approx(np.exp(-0.5 * 2.5**2), rel=1e-6)
    np.testing.assert_array_equal(weights, weights[::-1, :, ::-1])


def test_no_voxel_weighs_nothing():
    assert window((30, 30, 30)).min() == pytest.approx(1e-3)


def test_the_mean_is_weighted_and_0_where_no_tile_was():
    sample = WeightedSum(2, (4, 2, 3))
    box = Box((1, 0, 0), (2, 2, 3))
    for value, weight in ((0.2, 1.0), (0.8, 3.0)):
        first = np.full(box.size, value, np.float32)
        sample.add(box, [first, 1 - first], np.full(box.size, weight, np.float32))
    mean = np.stack(sample.finalise())
    np.testing.assert_allclose(mean[0, 1:3], (0.2 + 3 * 0.8) / 4, rtol=1e-6)
    np.testing.assert_allclose(mean.sum(0)[1:3], 1, rtol=1e-6)
    assert not mean[:, [0, 3]].any()
