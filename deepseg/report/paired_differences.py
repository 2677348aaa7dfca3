"""Statistics of paired differences: mean, bootstrap interval and Wilcoxon's signed-rank test.

Values only: which scores are paired, and why, is not known here. The same values give the same
numbers, since the resamples are drawn with a fixed seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
EXACT_UP_TO = 100  # pairs, for which the distribution of the rank sum is counted out
SEED = 0


@dataclass(frozen=True)
class MeanDifference:
    """The mean of paired differences, and how sure it is.

    Attributes:
        pairs: Number of differences.
        mean: Their mean.
        low: Lower end of its 95 % interval; None for fewer than two pairs.
        high: Upper end.
        p: Of Wilcoxon's signed-rank test, two-sided; None for fewer than two pairs.
    """

    pairs: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


def mean_difference(differences: Sequence[float]) -> MeanDifference:
    """Mean, interval and p-value of at least one difference.

    >>> mean_difference([0.25, 0.25, 0.25, 0.25])
    MeanDifference(pairs=4, mean=0.25, low=0.25, high=0.25, p=0.125)
    >>> mean_difference([0.5])
    MeanDifference(pairs=1, mean=0.5, low=None, high=None, p=None)
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return MeanDifference(len(differences), mean, None, None, None)
    low, high = bootstrap_interval(differences)
    return MeanDifference(len(differences), mean, low, high, wilcoxon_p(differences))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile interval of the mean: 95 % of the means of resamples lie in it.

    Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993,
    doi:10.1201/9780429246593.

    >>> bootstrap_interval([0.0] * 5 + [1.0] * 5)
    (0.2, 0.8)
    """
    array = np.asarray(values, float)
    rng = np.random.default_rng(SEED)
    means = array[rng.integers(len(array), size=(RESAMPLES, len(array)))].mean(axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric around 0.

    Differences of 0 are left out, and equal ones share their mean rank. Up to 100 differences the
    value is exact, with ties too; beyond that the rank sum is taken as normal.

    Source: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945,
    doi:10.2307/3001968.

    >>> wilcoxon_p([0.1, 0.2, 0.3])  # one of 8 sign patterns is as positive, one as negative
    0.25
    >>> wilcoxon_p([0.0, 0.0])
    1.0
    """
    values = [value for value in differences if value != 0]
    doubled = _doubled_ranks([abs(value) for value in values])
    positive = sum(rank for rank, value in zip(doubled, values, strict=True) if value > 0)
    total = sum(doubled)
    if 2 * positive == total:
        return 1.0
    lower = min(positive, total - positive)
    if len(values) <= EXACT_UP_TO:
        patterns = _sign_patterns_up_to(lower, doubled)
        return min(1.0, math.ldexp(2 * patterns, -len(values)))
    deviation = math.sqrt(sum(rank * rank for rank in doubled)) / 2
    return math.erfc((total / 2 - lower) / deviation / math.sqrt(2))


def _doubled_ranks(magnitudes: Sequence[float]) -> list[int]:
    """Twice the rank of each from 1, equal ones with twice their mean rank: whole numbers.

    >>> _doubled_ranks([0.5, 0.25, 0.5])
    [5, 2, 5]
    """
    ordered = sorted(magnitudes)
    first = {value: place for place, value in reversed(list(enumerate(ordered, start=1)))}
    last = {value: place for place, value in enumerate(ordered, start=1)}
    return [first[value] + last[value] for value in magnitudes]


def _sign_patterns_up_to(limit: int, ranks: Sequence[int]) -> int:
    """Number of the 2^n choices of signs whose positive ranks sum up to ``limit`` or less.

    >>> _sign_patterns_up_to(4, [2, 4, 6])
    3
    """
    ways = [1] + [0] * limit
    for rank in ranks:
        for total in range(limit, rank - 1, -1):
            ways[total] += ways[total - rank]
    return sum(ways)
