"""Labels from probabilities: against numpy's argmax, and outside the region of interest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseg.inference.postprocess import masked, segmentation

SHAPE = (2, 3, 5)
ROI = np.arange(30).reshape(SHAPE) % 4 == 0

# Few distinct values, so that ties are common.
probability_maps = st.integers(1, 4).flatmap(
    lambda classes: arrays(
        np.float32, (classes, *SHAPE), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])
    )
)


@given(probabilities=probability_maps)
def test_the_first_of_the_most_probable_classes_wins(probabilities):
    np.testing.assert_array_equal(segmentation(probabilities, None), probabilities.argmax(axis=0))


@given(probabilities=probability_maps)
def test_outside_the_roi_the_label_is_background_and_inside_it_is_untouched(probabilities):
    np.testing.assert_array_equal(
        segmentation(probabilities, ROI), np.where(ROI, probabilities.argmax(axis=0), 0)
    )


def test_a_voxel_that_was_never_predicted_is_background():
    assert not segmentation(np.zeros((4, *SHAPE), np.float32), None).any()


def test_an_integer_roi_selects_the_voxels_above_0():
    probabilities = np.stack([np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)])
    roi = np.zeros(SHAPE, np.int16)
    roi[1, 2, 3], roi[0, 1, 4], roi[0, 0, 0] = 1, 7, -1
    assert np.argwhere(segmentation(probabilities, roi)).tolist() == [[0, 1, 4], [1, 2, 3]]
    assert np.argwhere(masked(probabilities, roi)).tolist() == [[1, 0, 1, 4], [1, 1, 2, 3]]


@pytest.mark.parametrize(("classes", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_the_highest_label_fits_the_type(classes, dtype):
    probabilities = np.zeros((classes, *SHAPE), np.float32)
    probabilities[-1] = 1
    labels = segmentation(probabilities, None)
    assert labels.dtype == dtype
    assert (labels == classes - 1).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masked_probabilities_are_0_outside_the_roi_for_every_class(dtype):
    probabilities = np.full((3, *SHAPE), 0.25, dtype)
    result = masked(probabilities, ROI)
    assert result.dtype == dtype
    assert (result[:, ROI] == 0.25).all()
    assert (result[:, ~ROI] == 0).all()


def test_without_a_roi_nothing_is_masked():
    probabilities = np.ones((3, *SHAPE), np.float32)
    assert masked(probabilities, None) is probabilities


def test_the_probabilities_are_left_as_they_were():
    probabilities = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    before = probabilities.copy()
    segmentation(probabilities, ROI)
    masked(probabilities, ROI)
    np.testing.assert_array_equal(probabilities, before)
