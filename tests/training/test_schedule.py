"""Schedules: against DeepMedic's numbers, hand arithmetic, and torch's plateau."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseg.config.blocks.optimisers import Adam, Rmsprop, Sgd
from deepseg.config.blocks.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Plateau,
    Poly,
    Predefined,
    StepDecay,
)
from deepseg.training.schedule import learning_rate, momentum, warm_up


def rate(schedule, epoch, epochs=35, initial=1.0, history=()):
    return learning_rate(schedule, initial, epoch=epoch, epochs=epochs, history=history)


def test_a_constant_rate_stays():
    assert [rate(Constant(type="constant"), e, initial=0.3) for e in (0, 1, 34)] == [0.3] * 3


def test_a_predefined_rate_is_divided_behind_each_listed_epoch():
    schedule = Predefined(type="predefined", epochs=(2, 5))
    assert [rate(schedule, e) for e in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    by_ten = Predefined(type="predefined", epochs=(0,), divide_by=10)
    assert [rate(by_ten, e, initial=3) for e in range(2)] == [3, pytest.approx(0.3)]


CLOSED_FORMS = {
    "step": (StepDecay(type="step"), lambda e: 0.993**e),
    "step of three": (StepDecay(type="step", every=3, factor=0.5), lambda e: 2.0 ** -(e // 3)),
    "inverse time": (InverseTime(type="inverse_time", decay=0.25), lambda e: 4 / (4 + e)),
    "poly": (Poly(wait=0, power=2), lambda e: (1 - e / 20) ** 2),
    "exponential": (
        Exponential(type="exponential", wait=0, final_learning_rate=0.2 * math.exp(-3)),
        lambda e: math.exp(-3 * e / 20),
    ),
    "cosine": (Cosine(type="cosine"), lambda e: (1 + math.cos(math.pi * e / 20)) / 2),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_policies_of_n2d2_are_their_closed_forms(name):
    schedule, share = CLOSED_FORMS[name]
    result = [rate(schedule, e, epochs=20, initial=0.2) for e in range(20)]
    assert result == pytest.approx([0.2 * share(e) for e in range(20)], abs=1e-9)


@pytest.mark.parametrize(
    ("wait", "epoch", "expected"),
    [
        (10, 0, 1), (10, 10, 1), (10, 11, 0.96393), (10, 20, 0.63145), (10, 34, 0.05519),
        (10, 35, 0), (None, 11, 1), (None, 12, 0.98713), (None, 20, 0.67190), (None, 34, 0.05872),
    ],
)  # fmt: skip
def test_the_polynomial_rate_is_deepmedics(wait, epoch, expected):
    assert rate(Poly(wait=wait), epoch) == pytest.approx(expected, abs=1e-5)


def test_the_polynomial_rate_of_a_session_of_two_epochs():
    result = rate(Poly(), 1, epochs=2, initial=1e-3)
    assert result == pytest.approx(7.718895e-4, rel=1e-6)


def test_the_power_of_the_polynomial_can_be_chosen():
    # wait 1 of 5: epoch 3 is 2/4 of the way
    assert rate(Poly(wait=1, power=2), 3, epochs=5, initial=8) == 8 * 0.5**2


def test_the_exponential_rate_reaches_the_final_one_after_the_last_epoch():
    schedule = Exponential(type="exponential", wait=2, final_learning_rate=0.01)
    result = [rate(schedule, e, epochs=6, initial=1) for e in range(7)]
    assert result == pytest.approx([1, 1, 1, 0.1**0.5, 0.1, 0.1**1.5, 0.01])


def test_the_exponential_rate_falls_to_a_256th_by_default():
    schedule = Exponential(type="exponential", wait=0)
    assert [rate(schedule, e, epochs=8, initial=512) for e in (0, 1, 4, 8)] == pytest.approx(
        [512, 256, 32, 2]
    )


def test_the_cosine_rate_by_hand():
    schedule = Cosine(type="cosine", wait=2, final_learning_rate=0.2)
    result = [rate(schedule, e, epochs=8) for e in (0, 2, 4, 5, 6, 8)]
    # a third, half and two thirds of the way: cosines 1/2, 0 and -1/2
    assert result == pytest.approx([1, 1, 0.2 + 0.8 * 0.75, 0.6, 0.2 + 0.8 * 0.25, 0.2])


@settings(max_examples=60)
@given(
    schedule=st.sampled_from(
        [
            Poly(),
            Poly(wait=3, power=2),
            Exponential(type="exponential"),
            Exponential(type="exponential", wait=1.5),
            Cosine(type="cosine", wait=2),
            Predefined(type="predefined", epochs=(3, 7)),
        ]
    ),
    epochs=st.integers(4, 40),
)
def test_rates_start_at_the_initial_one_never_rise_and_stay_above_0(schedule, epochs):
    result = [rate(schedule, e, epochs=epochs, initial=0.05) for e in range(epochs)]
    assert result[0] == pytest.approx(0.05)
    assert all(later <= earlier for earlier, later in pairwise(result))
    assert result[-1] > 0


def plateau(history, initial=1.0, **settings_):
    schedule = Plateau.model_validate({"type": "plateau", **settings_})
    return rate(schedule, len(history), initial=initial, history=history)


def test_a_constant_score_lowers_the_rate_after_exactly_patience_epochs_without_improvement():
    # The first epoch is the best one; epochs 1 to 5 are the five without improvement.
    result = [plateau([0.7] * done, patience=5) for done in range(12)]
    assert result == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_patience_counts_epochs_in_a_row():
    assert plateau([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], patience=2) == 1
    assert plateau([0.5, 0.4, 0.6, 0.5, 0.5, 0.6], patience=2, divide_by=4) == 0.25


@pytest.mark.parametrize(("gain", "expected"), [(0.25, 0.5), (0.26, 1.0)])
def test_only_gains_above_the_smallest_improvement_count(gain, expected):
    result = plateau([0.5, 0.5 + gain], patience=1, min_improvement=0.25)
    assert result == expected


def test_small_gains_do_not_raise_the_mark_that_must_be_beaten():
    # 0.5 stays the best, so 0.7 is a gain of 0.2 although 0.6 came in between
    assert plateau([0.5, 0.6, 0.7], patience=2, min_improvement=0.125) == 1


def test_the_rate_never_falls_below_its_smallest_value():
    result = [
        plateau([0.7] * done, patience=1, divide_by=10, min_learning_rate=0.05) for done in range(5)
    ]
    assert result == [1, 1, 0.1, 0.05, 0.05]


def test_a_rate_that_starts_below_its_smallest_value_is_not_raised():
    assert plateau([0.7] * 9, initial=0.01, patience=2, min_learning_rate=0.05) == 0.01


def test_epochs_without_a_score_do_not_count():
    with_gaps = [None, 0.5, None, None, 0.5, None, 0.4]
    assert plateau(with_gaps[:5], patience=2) == 1
    assert plateau(with_gaps, patience=2) == 0.5


@settings(deadline=None)  # torch's scheduler is slow when it is first used
@given(
    history=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=30),
    patience=st.integers(1, 5),
    smallest=st.sampled_from([0.0, 0.03, 0.3]),
    improvement=st.sampled_from([0.0, 0.25, 0.3]),
)
def test_the_plateau_is_torchs_with_one_epoch_less_of_patience(
    history, patience, smallest, improvement
):
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience - 1, threshold=improvement,
        threshold_mode="abs", min_lr=smallest, eps=0,
    )  # fmt: skip
    for done, score in enumerate(history):
        oracle.step(score)
        result = plateau(
            history[: done + 1],
            patience=patience,
            min_learning_rate=smallest,
            min_improvement=improvement,
        )
        assert result == optimizer.param_groups[0]["lr"]


def test_momentum_stays_unless_the_schedule_moves_it():
    for schedule in (Poly(), Exponential(type="exponential"), Plateau(type="plateau")):
        assert momentum(schedule, Rmsprop(momentum=0.7), epoch=30, epochs=35) == 0.7


def test_the_exponential_schedule_moves_momentum_linearly():
    schedule = Exponential(type="exponential", wait=12, final_momentum=0.9)
    result = [
        momentum(schedule, Sgd(name="sgd", momentum=0.6), epoch=e, epochs=36)
        for e in (0, 12, 24, 30, 36)
    ]
    assert result == pytest.approx([0.6, 0.6, 0.75, 0.825, 0.9])


def test_the_exponential_schedule_waits_a_third_of_all_epochs_by_default():
    schedule = Exponential(type="exponential", final_learning_rate=0.01, final_momentum=1.0)
    assert [rate(schedule, e, epochs=30) for e in (10, 20)] == pytest.approx([1, 0.1])
    result = [momentum(schedule, Rmsprop(momentum=0.5), epoch=e, epochs=30) for e in (10, 20)]
    assert result == pytest.approx([0.5, 0.75])


def test_an_optimiser_without_momentum_has_momentum_0():
    schedule = Exponential(type="exponential", final_momentum=0.9)
    assert momentum(schedule, Adam(name="adam"), epoch=3, epochs=9) == 0


def test_the_cosine_rate_is_half_a_period():
    schedule = Cosine(type="cosine")
    result = [rate(schedule, e, epochs=12) for e in range(13)]
    assert result == pytest.approx([(1 + math.cos(math.pi * e / 12)) / 2 for e in range(13)])


@pytest.mark.parametrize(
    ("subepochs", "expected"),
    [
        pytest.param(0, [1, 1, 1, 1, 1], id="none"),
        pytest.param(1, [1 / 2, 1, 1, 1, 1], id="one sub-epoch"),
        pytest.param(3, [1 / 4, 2 / 4, 3 / 4, 1, 1], id="three"),
    ],
)
def test_the_rate_warms_up_by_equal_amounts(subepochs, expected):
    assert [warm_up(n, subepochs=subepochs) for n in range(5)] == pytest.approx(expected)
