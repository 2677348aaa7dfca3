"""Several answers as one: mean, spread, entropy, and mirror images."""

import numpy as np
import pytest

from deepseg.inference.averaging import Average, entropy, mirrored, mirrorings

SHAPE = (2, 3, 4)


def answers(count, classes=3, seed=0):
    raw = np.random.default_rng(seed).random((count, classes, *SHAPE)).astype(np.float32)
    return raw / raw.sum(1, keepdims=True)


def average(many, **choices):
    running = Average(many.shape[1], SHAPE, **choices)
    for values in many:
        running.add(values)
    return running.finalise()


def test_the_mean_and_the_variance_are_those_of_numpy():
    many = answers(5)
    mean, variance = average(many, with_variance=True)
    np.testing.assert_allclose(mean, many.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, many.var(0).mean(0), atol=1e-6)


def test_equal_answers_do_not_vary():
    many = np.repeat(answers(1), 3, axis=0)
    _, variance = average(many, with_variance=True)
    np.testing.assert_allclose(variance, 0, atol=1e-6)


def test_without_being_asked_for_a_variance_there_is_none():
    assert average(answers(2))[1] is None


def test_entropy_is_0_where_one_class_is_certain_and_1_where_all_are_equal():
    probabilities = np.zeros((4, 1, 1, 3), np.float32)
    probabilities[2, ..., 0] = 1
    probabilities[..., 1] = 0.25
    np.testing.assert_allclose(entropy(probabilities)[0, 0], [0, 1, 0], atol=1e-6)


def test_entropy_of_two_classes_by_hand():
    probabilities = np.array([0.25, 0.75], np.float32).reshape(2, 1, 1, 1)
    expected = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert entropy(probabilities).item() == pytest.approx(expected, rel=1e-6)


def test_every_combination_of_axes_is_mirrored_once_and_none_comes_first():
    assert mirrorings([]) == [()]
    assert mirrorings([1]) == [(), (1,)]
    assert mirrorings([2, 0]) == [(), (0,), (2,), (0, 2)]
    assert len(mirrorings([0, 1, 2])) == 8


def test_mirroring_turns_the_last_three_axes_and_is_its_own_inverse():
    array = np.arange(2 * 24).reshape(2, *SHAPE)
    turned = mirrored(array, (0, 2))
    np.testing.assert_array_equal(turned, array[:, ::-1, :, ::-1])
    np.testing.assert_array_equal(mirrored(turned, (0, 2)), array)
    assert mirrored(array, ()) is array
