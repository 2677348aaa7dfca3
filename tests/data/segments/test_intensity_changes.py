"""Contrast, resolution and noise: hand arithmetic, and laws that hold in all pathways."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.data.segments.intensity_changes import (
    NO_CHANGE,
    IntensityChange,
    coarsened,
    random_change,
)

RNG = np.random.default_rng(0)
FINE = RNG.normal(size=(2, 9, 7, 5)).astype(np.float32)
CONTEXT = RNG.normal(size=(2, 5, 6, 3)).astype(np.float32)
STEPS = [(1, 1, 1), (3, 3, 3)]


def factors(*numbers):
    return np.array(numbers, np.float32)


def drawn(seed, channels=2, **settings):
    settings = Augmentation.model_validate(settings)
    return random_change(settings, channels, rng=np.random.default_rng(seed))


def test_no_settings_change_nothing_and_draw_nothing():
    rng = np.random.default_rng(3)
    assert random_change(Augmentation(), 2, rng=rng) == NO_CHANGE
    assert rng.random() == np.random.default_rng(3).random()
    for block, same in zip([FINE, CONTEXT], NO_CHANGE.of([FINE, CONTEXT], STEPS), strict=True):
        assert np.array_equal(block, same)


def test_gamma_keeps_the_extremes_of_all_pathways_and_the_order_of_voxels():
    fine, context = IntensityChange(gamma=factors(2, 1)).of([FINE, CONTEXT], STEPS)
    for channel in range(2):
        low = min(FINE[channel].min(), CONTEXT[channel].min())
        high = max(FINE[channel].max(), CONTEXT[channel].max())
        changed = np.concatenate([fine[channel].ravel(), context[channel].ravel()])
        assert changed.min() == pytest.approx(low, abs=1e-6)
        assert changed.max() == pytest.approx(high, abs=1e-6)
        assert (np.argsort(fine[channel].ravel()) == np.argsort(FINE[channel].ravel())).all()
    middle = (FINE[0] - low_of(0)) / (high_of(0) - low_of(0))
    np.testing.assert_allclose(fine[0], low_of(0) + (high_of(0) - low_of(0)) * middle**2, atol=1e-5)
    np.testing.assert_allclose(fine[1], FINE[1], atol=1e-6)


def low_of(channel):
    return min(FINE[channel].min(), CONTEXT[channel].min())


def high_of(channel):
    return max(FINE[channel].max(), CONTEXT[channel].max())


def test_gamma_of_a_constant_channel_changes_nothing():
    flat = np.full((1, 3, 4, 2), 5, np.float32)
    (changed,) = IntensityChange(gamma=factors(2)).of([flat], STEPS[:1])
    assert (changed == 5).all()


@pytest.mark.parametrize("factor", [2, 3, 2.5])
def test_coarser_voxels_are_those_of_scipy(factor):
    remaining = [
        np.unique(np.round(np.arange(0, count, factor)).astype(int).clip(max=count - 1))
        for count in FINE.shape[1:]
    ]
    thin = FINE[0][np.ix_(*remaining)]
    places = [
        np.interp(np.arange(count), axis, np.arange(len(axis)))
        for count, axis in zip(FINE.shape[1:], remaining, strict=True)
    ]
    expected = map_coordinates(thin, np.meshgrid(*places, indexing="ij"), order=1)
    changed = coarsened(FINE, factors(factor, 1), (1, 1, 1))
    np.testing.assert_allclose(changed[0], expected, atol=1e-5)
    assert np.array_equal(changed[1], FINE[1])


def test_a_pathway_that_is_coarser_already_stays_as_it_is():
    fine, context = IntensityChange(voxel_size=factors(2.5, 2)).of([FINE, CONTEXT], STEPS)
    assert not np.allclose(fine, FINE)
    assert np.array_equal(context, CONTEXT)


def test_noise_has_its_deviation_and_comes_again_from_its_seed():
    zeros = np.zeros((2, 31, 32, 33), np.float32)
    change = IntensityChange(noise=factors(0.5, 0), noise_seed=9)
    (noisy,), (again,) = change.of([zeros], STEPS[:1]), change.of([zeros], STEPS[:1])
    assert np.array_equal(noisy, again)
    assert noisy.dtype == np.float32
    assert noisy[0].std() == pytest.approx(0.5, rel=0.02)
    assert (noisy[1] == 0).all()


@pytest.mark.parametrize(
    ("block", "attribute", "neutral", "low", "high"),
    [
        ("gamma", "gamma", 1, 1 / 1.5, 1.5),
        ("low_resolution", "voxel_size", 1, 1, 2),
        ("noise", "noise", 0, 0, 0.2),
    ],
)
def test_each_channel_changes_as_often_as_asked_and_within_its_limits(
    block, attribute, neutral, low, high
):
    changes = [
        getattr(drawn(seed, **{block: {"probability": 0.25}}), attribute) for seed in range(3000)
    ]
    values = np.array([factors(neutral, neutral) if v is None else v for v in changes])
    different = values != np.float32(neutral)
    assert different.mean(0) == pytest.approx([0.25, 0.25], abs=0.03)
    assert abs(np.corrcoef(different.T)[0, 1]) < 0.06
    assert low - 1e-6 <= values.min()
    assert values.max() <= high + 1e-6
    assert values[different].max() > 0.95 * high
