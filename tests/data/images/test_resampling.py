"""Resampling: against straight lines, against its own laws, and against hand arithmetic."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseg.data.images.resampling import (
    box_read,
    cropped_geometry,
    resample,
    resampled_geometry,
    voxels_read,
)
from deepseg.data.images.volumes import Geometry
from deepseg.geometry.boxes import Box

# A patient lying askew: rotated by 30 degrees about Z, X to the left, sides of 1, 2 and 3 mm.
TURN = np.array([[sqrt(3) / 2, -0.5, 0], [0.5, sqrt(3) / 2, 0], [0, 0, 1]])
ASKEW = np.eye(4)
ASKEW[:3, :3] = TURN @ np.diag([-1.0, 2.0, 3.0])
ASKEW[:3, 3] = (-11, 7, 5)
GRID = Geometry((23, 17, 11), ASKEW)


def plain(shape, spacing=(1.0, 1.0, 1.0)):
    return Geometry(shape, np.diag([*spacing, 1.0]))


def ball(geometry, radius_mm):
    """True within ``radius_mm`` of the centre of the field of view."""
    index = np.indices(geometry.shape).reshape(3, -1)
    points = geometry.affine[:3, :3] @ index + geometry.affine[:3, 3:]
    centre = geometry.corners_mm.mean(axis=0)[:, None]
    inside = np.linalg.norm(points - centre, axis=0) <= radius_mm
    return inside.reshape(geometry.shape)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def positions(geometry):
    """Position of every voxel in RAS mm, ``(3, X, Y, Z)``."""
    index = np.indices(geometry.shape).reshape(3, -1)
    points = geometry.affine[:3, :3] @ index + geometry.affine[:3, 3:]
    return points.reshape(3, *geometry.shape)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        pytest.param(1.0, (23, 34, 33), id="cubes of 1 mm"),
        pytest.param((2.0, 2.0, 6.0), (12, 17, 6), id="a half is rounded up"),
        pytest.param((4.0, 1.0, 2.0), (6, 34, 17), id="other sides along every axis"),
        pytest.param(500.0, (1, 1, 1), id="at least one voxel"),
    ],
)
def test_the_shape_follows_the_extent(spacing, shape):
    assert resampled_geometry(GRID, spacing).shape == shape


@given(spacing=st.tuples(*[st.floats(0.3, 9)] * 3))
def test_sides_are_as_asked_and_axes_and_centre_stay(spacing):
    resampled = resampled_geometry(GRID, spacing)
    assert resampled.spacing_mm == pytest.approx(spacing)
    axes = resampled.affine[:3, :3] / resampled.spacing_mm
    assert axes == pytest.approx(GRID.affine[:3, :3] / GRID.spacing_mm)
    assert resampled.corners_mm.mean(axis=0) == pytest.approx(GRID.corners_mm.mean(axis=0))


def test_a_field_of_view_of_whole_voxels_stays_exactly_where_it_is():
    grid = plain((8, 6, 4), (1.0, 2.0, 3.0))
    assert grid.distance_mm(resampled_geometry(grid, (2.0, 3.0, 6.0))) == pytest.approx(0)


def test_its_own_spacing_gives_the_same_geometry():
    assert resampled_geometry(plain((5, 7, 3), (0.9, 1.1, 3.0)), (0.9, 1.1, 3.0)) == plain(
        (5, 7, 3), (0.9, 1.1, 3.0)
    )


@pytest.mark.parametrize("order", [0, 1])
def test_the_same_grid_gives_the_same_voxels_in_a_new_array(order):
    array = np.random.default_rng(1).normal(size=GRID.shape).astype(np.float32)
    # what storing the affine as float32 does to it
    almost = Geometry(GRID.shape, GRID.affine.astype(np.float32))
    same = resample(array, GRID, almost, order=order)
    assert np.array_equal(same, array)
    assert not np.shares_memory(same, array)


@settings(deadline=None, max_examples=20)
@given(spacing=st.tuples(*[st.floats(0.7, 5)] * 3))
def test_a_straight_line_stays_straight_inside(spacing):
    slope = np.array([3.0, -2.0, 0.5])
    target = resampled_geometry(GRID, spacing)
    lines = [np.tensordot(slope, positions(grid), 1) for grid in (GRID, target)]
    result = resample(lines[0], GRID, target, order=1)

    index = np.linalg.inv(GRID.affine)[:3, :3] @ positions(target).reshape(3, -1)
    index += np.linalg.inv(GRID.affine)[:3, 3:]
    reach = 4 * np.array(spacing) / GRID.spacing_mm  # as far as the edge is felt when smoothing
    inside = np.all(
        [(i >= r) & (i <= n - 1 - r) for i, r, n in zip(index, reach, GRID.shape, strict=True)],
        axis=0,
    )
    assert result.ravel()[inside] == pytest.approx(lines[1].ravel()[inside], abs=2e-3)


def test_a_straight_line_is_met_on_an_oblique_grid():
    source = plain((19, 21, 23))
    affine = np.eye(4)
    affine[:3, :3] = TURN
    affine[:3, 3] = (8, 7, 9)
    target = Geometry((5, 4, 3), affine)
    result = resample(positions(source)[1], source, target, order=1)
    assert result == pytest.approx(positions(target)[1], abs=1e-5)


def test_swapped_and_flipped_axes_are_followed_exactly():
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    swap = np.array([[0, 1, 0, 0], [-1, 0, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    # voxel (i, j, k) of the target lies at (j, 4 - i, k) of the source
    result = resample(array, plain((4, 5, 6)), Geometry((5, 4, 6), swap), order=0)
    assert np.array_equal(result, array[:, ::-1].transpose(1, 0, 2))


@settings(deadline=None, max_examples=20)
@given(spacing=st.tuples(*[st.floats(0.5, 8)] * 3), seed=st.integers(0, 99))
def test_labels_never_gain_new_values_or_another_type(spacing, seed):
    labels = np.random.default_rng(seed).choice(np.array([0, 2, 7], np.uint8), size=GRID.shape)
    result = resample(labels, GRID, resampled_geometry(GRID, spacing), order=0)
    assert set(np.unique(result)) <= {0, 2, 7}
    assert result.dtype == np.uint8


@pytest.mark.parametrize("spacing", [0.7, (1.6, 1.0, 0.8)])
def test_a_ball_survives_the_way_there_and_back(spacing):
    grid = plain((40, 38, 30), (1.0, 1.0, 1.5))
    mask = ball(grid, 15)
    there = resample(mask, grid, resampled_geometry(grid, spacing), order=0)
    back = resample(there, resampled_geometry(grid, spacing), grid, order=0)
    assert back.dtype == bool
    assert dice(mask, back) > 0.95


def test_a_ball_lies_where_it_lay():
    grid = plain((40, 38, 30), (1.0, 1.0, 1.5))
    resampled = resampled_geometry(grid, (1.5, 0.8, 1.0))
    assert dice(resample(ball(grid, 15), grid, resampled, order=0), ball(resampled, 15)) > 0.95


def test_voxels_half_way_between_two_go_the_same_way_along_the_whole_axis():
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.diag([0.9, 0.9, 1])  # its inverse is exact to 16 digits only
    affine[:3, 3] = (-11.3, 7.7, 5)
    grid = Geometry((240, 1, 1), affine)
    coarse = resampled_geometry(grid, (1.8, 0.9, 1.0))
    result = resample(np.arange(240).reshape(240, 1, 1), grid, coarse, order=0)
    assert set(np.diff(result.ravel())) == {2}


def test_outside_the_source_the_nearest_edge_is_repeated():
    array = np.arange(3.0).reshape(3, 1, 1)
    affine = np.eye(4)
    affine[0, 3] = -2
    result = resample(array, plain((3, 1, 1)), Geometry((7, 1, 1), affine), order=1)
    assert result.ravel().tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_channels_are_resampled_each_on_its_own():
    array = np.random.default_rng(2).normal(size=(2, *GRID.shape)).astype(np.float32)
    target = resampled_geometry(GRID, (1.5, 1.5, 4.0))
    result = resample(array, GRID, target, order=1)
    assert result.shape == (2, *target.shape)
    assert result.dtype == np.float32
    for channel, expected in zip(result, array, strict=True):
        assert np.array_equal(channel, resample(expected, GRID, target, order=1))


@pytest.mark.parametrize(
    ("factor", "sigma"),
    [
        pytest.param(1.4, 0.0, id="a small step is not smoothed"),
        pytest.param(2.0, sqrt(3) / sqrt(8 * log(2)), id="missing width sqrt(4 - 1)"),
        pytest.param(3.0, sqrt(8) / sqrt(8 * log(2)), id="missing width sqrt(9 - 1)"),
    ],
)
def test_a_coarser_image_gets_the_blur_of_its_voxels_on_that_axis_only(factor, sigma):
    # One bright plane; its blur is seen through a grid that meets every source voxel once.
    n = 43
    image = np.zeros((5, n, 7), np.float32)
    image[:, n // 2] = 1
    source = plain(image.shape)
    weights = np.zeros(n)
    for start in range(n):  # one coarse voxel, its centre on source voxel ``start``
        affine = np.diag([1.0, factor, 1.0, 1.0])
        affine[1, 3] = start
        weights[start] = resample(image, source, Geometry((5, 1, 7), affine), order=1)[2, 0, 3]
    distance = np.arange(n) - n // 2
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert sqrt((weights * distance**2).sum()) == pytest.approx(sigma, abs=0.01)


def test_where_axes_are_swapped_the_axis_that_gets_coarser_is_smoothed():
    image = np.random.default_rng(3).normal(size=(9, 24, 8)).astype(np.float32)
    source = plain(image.shape)
    coarse = resampled_geometry(source, (1.0, 3.0, 1.0))
    swap = coarse.affine[:, [1, 0, 2, 3]]
    x, y, z = coarse.shape
    result = resample(image, source, Geometry((y, x, z), swap), order=1)
    straight = resample(image, source, coarse, order=1)
    assert result.transpose(1, 0, 2) == pytest.approx(straight, abs=1e-5)


def test_a_pattern_too_fine_for_the_new_grid_becomes_its_mean_not_a_false_pattern():
    stripes = (np.indices((48, 4, 4)).sum(axis=0) % 2).astype(np.float32)
    source = plain((48, 4, 4))
    result = resample(stripes, source, resampled_geometry(source, 3.0), order=1)
    assert result[2:-2] == pytest.approx(np.full_like(result[2:-2], 0.5), abs=0.02)


def test_labels_are_not_smoothed_and_the_array_given_is_not_changed():
    labels = np.zeros((9, 9, 9), np.int16)
    labels[4, 4, 4] = 5
    before = labels.copy()
    result = resample(labels, plain((9, 9, 9)), resampled_geometry(plain((9, 9, 9)), 3.0), order=0)
    assert result[1, 1, 1] == 5
    assert result.sum() == 5
    assert np.array_equal(labels, before)


BACK = [(1.7, 1.1, 3.0), (0.4, 2.0, 7.0)]  # sides of the grid from which results come back


@pytest.mark.parametrize("spacing", BACK)
def test_voxels_outside_those_that_are_read_do_not_matter(spacing):
    resampled, rng = resampled_geometry(GRID, spacing), np.random.default_rng(0)
    mask = rng.random(GRID.shape) > 0.98
    values = rng.random(resampled.shape, np.float32)
    read = voxels_read(mask, resampled, GRID)
    spoilt = np.where(read, values, np.float32(9))
    expected = resample(values, resampled, GRID, order=1)[mask]
    np.testing.assert_allclose(
        resample(spoilt, resampled, GRID, order=1)[mask], expected, atol=1e-6
    )
    assert not read.all()


def test_the_voxels_that_are_read_are_no_more_than_the_neighbours():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = True  # its middle lies at 1.5, 2.5 and 3.5 mm: between voxels of half the size
    half = resampled_geometry(plain(mask.shape, (1.2, 1.2, 1.2)), 1.0)
    assert half.shape == (5, 6, 7)
    # Along X: 1.2 * (1 - 1.5) = -0.6 from the middle, which is voxel 2: between voxels 1 and 2.
    # Along Y: exactly on the middle between 2 and 3. Along Z: 0.6 behind voxel 3.
    read = np.argwhere(voxels_read(mask, half, plain(mask.shape, (1.2, 1.2, 1.2))))
    assert read.min(0).tolist() == [1, 2, 3]
    assert read.max(0).tolist() == [2, 3, 4]


@pytest.mark.parametrize("spacing", BACK)
def test_a_box_comes_back_from_what_is_read_for_it_alone(spacing):
    resampled, box = resampled_geometry(GRID, spacing), Box((3, 5, 2), (9, 8, 6))
    values = np.random.default_rng(1).random(resampled.shape, np.float32)
    read = box_read(box, resampled, GRID)
    alone = resample(
        values[read.slices], cropped_geometry(resampled, read), cropped_geometry(GRID, box), order=1
    )
    whole = resample(values, resampled, GRID, order=1)[box.slices]
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    assert read.size[2] < resampled.shape[2] or spacing[2] > 3
