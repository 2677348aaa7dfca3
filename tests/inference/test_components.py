"""Components of a segmentation: taken out by size, holes filled, each class by its own rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseg.inference.components import Cleaning, cleaned

ml = 0.008  # of a voxel of 2 mm


def block(labels, start, size, label):
    labels[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label


@pytest.fixture
def labels():
    """Class 1: 12, 4 and 1 voxels; class 2: 6 voxels around nothing."""
    result = np.zeros((9, 11, 7), np.uint8)
    block(result, (0, 0, 0), (2, 3, 2), 1)
    block(result, (4, 0, 0), (1, 2, 2), 1)
    result[8, 10, 6] = 1
    block(result, (5, 6, 2), (1, 2, 3), 2)
    return result


def sizes(labels, label):
    from scipy import ndimage

    numbered, count = ndimage.label(labels == label)
    return sorted(int((numbered == n).sum()) for n in range(1, count + 1))


def test_only_the_largest_component_is_kept_and_other_classes_are_left_alone(labels):
    result = cleaned(labels, {1: Cleaning(keep="largest")}, voxel_ml=ml)
    assert (sizes(result, 1), sizes(result, 2)) == ([12], [6])


def test_components_below_a_volume_become_background(labels):
    result = cleaned(labels, {1: Cleaning(min_ml=4 * ml), 2: Cleaning(min_ml=7 * ml)}, voxel_ml=ml)
    assert (sizes(result, 1), sizes(result, 2)) == ([4, 12], [])


@pytest.mark.parametrize(("touching", "kept"), [("faces", 12), ("edges", 14), ("corners", 15)])
def test_voxels_touch_by_faces_edges_or_corners(labels, touching, kept):
    block(labels, (2, 3, 0), (1, 1, 2), 1)  # shares an edge with the block of 12
    labels[3, 4, 2] = 1  # shares a corner with the two
    rule = Cleaning(keep="largest", touching=touching)
    assert (cleaned(labels, {1: rule}, voxel_ml=ml) == 1).sum() == kept


def test_holes_become_part_of_the_class_around_them_but_other_classes_do_not():
    labels = np.zeros((7, 8, 9), np.uint8)
    block(labels, (1, 1, 1), (5, 6, 7), 1)
    block(labels, (2, 2, 2), (2, 2, 2), 0)
    labels[4, 5, 6] = 2
    result = cleaned(labels, {1: Cleaning(fill_holes=True)}, voxel_ml=ml)
    assert ((result == 1).sum(), (result == 2).sum()) == (5 * 6 * 7 - 1, 1)


@pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1)])
def test_where_a_small_component_was_taken_out_of_a_class_its_hole_is_filled(outer, inner):
    labels = np.zeros((7, 8, 9), np.uint8)
    block(labels, (1, 1, 1), (5, 6, 7), outer)
    block(labels, (2, 3, 4), (2, 1, 1), inner)
    rules = {outer: Cleaning(fill_holes=True), inner: Cleaning(min_ml=3 * ml)}
    result = cleaned(labels, rules, voxel_ml=ml)
    assert ((result == outer).sum(), (result == inner).sum()) == (5 * 6 * 7, 0)


def test_holes_outside_the_roi_stay():
    labels = np.ones((5, 6, 7), np.uint8)
    labels[2, 2, 2] = labels[2, 4, 4] = 0
    roi = np.ones_like(labels, bool)
    roi[2, 4, 4] = False
    result = cleaned(labels, {1: Cleaning(fill_holes=True)}, voxel_ml=ml, roi=roi)
    assert (result[2, 2, 2], result[2, 4, 4]) == (1, 0)


@given(labels=arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 2)))
def test_a_second_cleaning_changes_nothing_and_no_rule_changes_nothing(labels):
    rules = {1: Cleaning(min_ml=2 * ml, fill_holes=True), 2: Cleaning(keep="largest")}
    once = cleaned(labels, {1: rules[1]}, voxel_ml=ml)
    np.testing.assert_array_equal(cleaned(once, {1: rules[1]}, voxel_ml=ml), once)
    once = cleaned(labels, {2: rules[2]}, voxel_ml=ml)
    np.testing.assert_array_equal(cleaned(once, {2: rules[2]}, voxel_ml=ml), once)
    np.testing.assert_array_equal(cleaned(labels, {}, voxel_ml=ml), labels)


def test_a_class_that_is_not_there_stays_so():
    empty = np.zeros((3, 4, 5), np.uint8)
    assert not cleaned(empty, {1: Cleaning(keep="largest", fill_holes=True)}, voxel_ml=ml).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ring_in_the_only_slice_is_filled_and_an_open_one_is_not(axis):
    plane = np.zeros((6, 9), np.uint8)
    plane[1:4, 1:4], plane[2, 2] = 1, 0
    plane[1:4, 5:8], plane[2, 6:8] = 1, 0
    result = cleaned(np.expand_dims(plane, axis), {1: Cleaning(fill_holes=True)}, voxel_ml=ml)
    expected = plane.copy()
    expected[2, 2] = 1
    assert np.array_equal(result, np.expand_dims(expected, axis))


def test_a_ring_in_two_slices_is_open_to_above_and_below():
    labels = np.ones((3, 3, 2), np.uint8)
    labels[1, 1] = 0
    result = cleaned(labels, {1: Cleaning(fill_holes=True)}, voxel_ml=ml)
    assert np.array_equal(result, labels)
