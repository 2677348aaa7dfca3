"""Paired differences: against scipy, against all sign patterns, and against hand arithmetic."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from deepseg.report.paired_differences import bootstrap_interval, mean_difference, wilcoxon_p


@pytest.mark.parametrize("pairs", [2, 3, 7, 30, 150])
def test_without_ties_scipy_gives_the_same_value(pairs):
    values = np.random.default_rng(pairs).normal(0.3, 1, pairs)
    method = "exact" if pairs <= 100 else "approx"
    expected = stats.wilcoxon(values, method=method, correction=False).pvalue
    assert wilcoxon_p(list(values)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.5, 0.5, 0.5, -0.5, 0.25], id="ties"),
        pytest.param([0.0, 0.5, -0.25, 0.25, 1.0, 0.0], id="zeros are left out"),
        pytest.param([-1.0, -2.0, -3.0, -3.0], id="all of one sign"),
    ],
)
def test_with_ties_it_is_the_share_of_sign_patterns_at_least_as_uneven(values):
    remaining = [value for value in values if value]
    ranks = stats.rankdata(np.abs(remaining))
    sums = [np.dot(ranks, signs) for signs in product([0, 1], repeat=len(remaining))]
    uneven = abs(np.dot(ranks, [value > 0 for value in remaining]) - ranks.sum() / 2)
    expected = np.mean([abs(total - ranks.sum() / 2) >= uneven - 1e-9 for total in sums])
    assert wilcoxon_p(values) == pytest.approx(expected)


def test_the_interval_of_two_values_reaches_from_one_to_the_other():
    assert bootstrap_interval([0.25, 0.75]) == (0.25, 0.75)  # a quarter of the means at each end


def test_the_interval_covers_the_mean_about_19_times_of_20():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(60):
        low, high = bootstrap_interval(list(rng.normal(1.0, 2.0, 40)))
        covered += low <= 1.0 <= high
    assert 51 <= covered <= 60


def test_turning_signs_turns_the_difference_only():
    values = [0.1, -0.3, 0.7, 0.2]
    there, back = mean_difference(values), mean_difference([-value for value in values])
    assert (back.mean, back.p) == (-there.mean, there.p)
    assert (back.low, back.high) == (pytest.approx(-there.high), pytest.approx(-there.low))
