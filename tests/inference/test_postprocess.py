"""Labels from probabilities, against numpy's argmax."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseg.inference.postprocess import most_probable

SHAPE = (2, 3, 5)

# Few distinct values, so that ties are common.
probability_maps = st.integers(1, 4).flatmap(
    lambda classes: arrays(
        np.float32, (classes, *SHAPE), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])
    )
)


@given(probabilities=probability_maps)
def test_the_first_of_the_most_probable_classes_wins(probabilities):
    np.testing.assert_array_equal(most_probable(probabilities), probabilities.argmax(axis=0))


def test_a_voxel_that_was_never_predicted_is_background():
    assert not most_probable(np.zeros((4, *SHAPE), np.float32)).any()


@pytest.mark.parametrize(("classes", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_the_highest_label_fits_the_type(classes, dtype):
    probabilities = np.zeros((classes, *SHAPE), np.float32)
    probabilities[-1] = 1
    labels = most_probable(probabilities)
    assert labels.dtype == dtype
    assert (labels == classes - 1).all()


def test_the_probabilities_are_left_as_they_were():
    probabilities = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    before = probabilities.copy()
    most_probable(probabilities)
    np.testing.assert_array_equal(probabilities, before)
