"""Normalisation: against hand arithmetic and the formula of each cut-off."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.config.cases import ZScore
from deepseg.data.intensity import (
    mean_and_deviation,
    normalise,
    statistics_voxels,
    z_score,
)

SHAPE = (2, 3, 4)


def image(*values):
    return np.array(values, np.float32).reshape(1, 1, -1)


def kept(values, settings, roi=None):
    """The values that give mean and deviation."""
    whole = image(*values)
    inside = whole.ravel() if roi is None else whole[np.array(roi, bool).reshape(whole.shape)]
    return inside[statistics_voxels(inside, whole, settings)].tolist()


def test_a_ramp_by_hand():
    ramp = np.arange(24, dtype=np.float32).reshape(SHAPE)
    result = z_score(ramp, None, ZScore())
    # mean 23/2, population variance (24^2 - 1) / 12
    assert result[1, 2, 3] == pytest.approx(11.5 / (575 / 12) ** 0.5, rel=1e-6)
    assert result[0, 0, 0] == -result[1, 2, 3]
    assert result.dtype == np.float32
    assert ramp[1, 2, 3] == 23  # the argument stays


@given(st.integers(0, 1000), st.floats(0.01, 1000), st.floats(-1e4, 1e4))
def test_brightness_and_contrast_do_not_matter(seed, contrast, brightness):
    volume = np.random.default_rng(seed).normal(size=SHAPE)
    expected = (volume - volume.mean()) / volume.std()
    result = z_score((contrast * volume + brightness).astype(np.float32), None, ZScore())
    np.testing.assert_allclose(result, expected, atol=0.2)
    assert abs(result.mean()) < 1e-4
    assert result.std() == pytest.approx(1, abs=1e-4)


def test_the_roi_gives_mean_and_deviation_and_all_voxels_are_normalised():
    roi = np.array([1, 0, 1, 0], bool).reshape(1, 1, 4)
    result = z_score(image(2, 100, 6, 0), roi, ZScore())
    assert result.ravel().tolist() == [-1, 48, 1, -2]  # mean 4, deviation 2


def test_an_empty_roi_counts_as_none():
    volume = image(1, 2, 3, 7)
    result = z_score(volume, np.zeros(volume.shape, bool), ZScore())
    assert np.array_equal(result, z_score(volume, None, ZScore()))


@pytest.mark.parametrize("value", [0, 7, 0.1, -1e30])
def test_a_constant_image_becomes_0(value):
    constant = np.full((31, 17, 13), value, np.float32)
    result = z_score(constant, None, ZScore())
    assert not result.any()
    assert result.dtype == np.float32


def test_an_image_that_is_constant_inside_the_roi_becomes_0():
    roi = np.array([1, 1, 0], bool).reshape(1, 1, 3)
    assert z_score(image(5, 5, 9), roi, ZScore()).ravel().tolist() == [0, 0, 0]


def test_small_differences_beside_a_large_mean_survive():
    result = z_score(image(1e6, 1e6 + 1, 1e6 + 2), None, ZScore())
    assert result.ravel().tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], rel=1e-6)


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        pytest.param(
            [0, 1, 2, 3, 4, 5, 6],
            {"cutoff_percentiles": (0, 100)},
            [1, 2, 3, 4, 5],
            id="smallest and largest are out",
        ),
        pytest.param(
            # ranks 0.8 and 3.2 of 0 to 4: percentiles 8 and 62
            [0, 10, 20, 50, 110],
            {"cutoff_percentiles": (20, 80)},
            [10, 20, 50],
            id="percentiles between values",
        ),
        pytest.param(
            # mean 4, deviation sqrt(26): above -1.1 and below 9.1
            [0, 1, 2, 3, 14],
            {"cutoff_deviations": (1, 1)},
            [0, 1, 2, 3],
            id="within deviations",
        ),
        pytest.param(
            # above 4 - 0.5 sqrt(26) = 1.45 and below 4 + 3 sqrt(26) = 19.3
            [0, 1, 2, 3, 14],
            {"cutoff_deviations": (0.5, 3)},
            [2, 3, 14],
            id="below, then above",
        ),
        pytest.param(
            # mean 2, deviation 2: the bounds 0 and 4 themselves are out
            [0, 0, 4, 4],
            {"cutoff_deviations": (1, 1)},
            [],
            id="bounds are out",
        ),
        pytest.param([0, 1, 5, 6, 9], {"above_mean": True}, [5, 6], id="above the mean, not max"),
        pytest.param([1, 2, 3, 3, 6], {"above_mean": True}, [], id="the mean itself is out"),
        pytest.param(
            # the deviations are those of all values, not of those between the percentiles
            [0, 1, 2, 3, 14],
            {"cutoff_percentiles": (0, 100), "cutoff_deviations": (0.5, 3)},
            [2, 3],
            id="cut-offs combine",
        ),
        pytest.param([0, 1, 2], {}, [0, 1, 2], id="none"),
    ],
)
def test_voxels_that_pass_the_cutoffs(values, settings, expected):
    assert kept(values, ZScore.model_validate(settings)) == expected


def test_percentiles_and_deviations_are_those_of_the_roi():
    values, roi = [0, 1, 2, 3, 4, 900, 900], [1, 1, 1, 1, 1, 0, 0]
    assert kept(values, ZScore(cutoff_percentiles=(0, 100)), roi) == [1, 2, 3]
    # of the ROI: mean 2, deviation sqrt(2)
    assert kept(values, ZScore(cutoff_deviations=(1, 1)), roi) == [1, 2, 3]


def test_above_mean_looks_at_the_whole_image():
    values, roi = [0, 0, 0, 4, 6, 8, 10], [0, 0, 0, 1, 1, 1, 0]
    # the whole image: mean 4, largest 10; the ROI alone would have 6 and 8
    assert kept(values, ZScore(above_mean=True), roi) == [6, 8]


def test_cutoffs_choose_the_statistics_and_clip_nothing():
    result = z_score(image(0, 1, 5, 6, 9), None, ZScore(above_mean=True))
    assert result.ravel().tolist() == [-11, -9, -1, 1, 7]  # mean 5.5, deviation 0.5


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        pytest.param((0, 0, 4, 4), {"cutoff_deviations": (1, 1)}, id="no voxel"),
        # mean 7, largest 20: only 9 is left
        pytest.param((0, 1, 5, 7, 9, 20), {"above_mean": True}, id="one voxel, without deviation"),
    ],
)
def test_cutoffs_that_leave_nothing_to_measure_count_as_none(values, settings):
    result = z_score(image(*values), None, ZScore.model_validate(settings))
    assert np.array_equal(result, z_score(image(*values), None, ZScore()))
    assert result.any()


def test_only_the_named_channels_are_normalised():
    volume = np.random.default_rng(3).normal(5, 2, SHAPE).astype(np.float32)
    for settings, name, expected in [
        (ZScore(), "T1", z_score(volume, None, ZScore())),
        (ZScore(channels=("T2",)), "T1", volume),
        (ZScore(channels=("T2",)), "T2", z_score(volume, None, ZScore())),
        ("none", "T1", volume),
    ]:
        result = volume.copy()
        normalise(result, None, settings, name)
        assert np.array_equal(result, expected)


def test_an_image_is_normalised_in_place_where_that_is_wished():
    ramp = np.arange(24, dtype=np.float32).reshape(SHAPE)
    expected = z_score(ramp, None, ZScore())
    assert z_score(ramp, None, ZScore(), out=ramp) is ramp
    assert np.array_equal(ramp, expected)


def test_mean_and_deviation_do_not_depend_on_slabs():
    values = np.random.default_rng(0).normal(1e4, 1, (7, 11, 13)).astype(np.float32)
    expected = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    for slab in (1, 10, 5000):
        assert mean_and_deviation(values, slab=slab) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("settings", [ZScore(), ZScore(above_mean=True)])
def test_normalising_makes_no_float64_copy(settings):
    image = np.random.default_rng(0).normal(size=(64, 128, 128)).astype(np.float32)
    tracemalloc.start()
    z_score(image, None, settings, out=image, slab=1 << 14)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.3 * image.nbytes  # the voxels kept and a mask, or next to nothing
