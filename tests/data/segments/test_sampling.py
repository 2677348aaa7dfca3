"""Sampling: how often each case and category is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.config.blocks.sampling import Sampling
from deepseg.data.segments.sampling import category_names, category_shares, subepoch_draws


def test_names_and_shares_of_the_categories():
    classes = ["healthy", "core", "edge"]
    assert category_names(Sampling(type="per_class"), classes) == tuple(classes)
    assert category_shares(Sampling(type="per_class"), classes).tolist() == pytest.approx(
        [1 / 3] * 3
    )
    uneven = Sampling(type="foreground_background", proportions=(3, 1))
    assert category_shares(uneven, classes).tolist() == [0.75, 0.25]
    assert category_names(Sampling(type="uniform"), classes) == ("region of interest",)


def drawn(counts, shares, *, segments, cases=9, seed=0):
    draws = subepoch_draws(
        counts, np.array(shares), segments=segments, cases=cases, rng=np.random.default_rng(seed)
    )
    return [(draw.case, draw.category) for draw in draws]


def test_segments_are_shared_among_cases_and_categories():
    result = drawn([(50, 50), (50, 50)], [0.5, 0.5], segments=40)
    assert {pair: result.count(pair) for pair in set(result)} == {
        (0, 0): 10,
        (0, 1): 10,
        (1, 0): 10,
        (1, 1): 10,
    }


def test_the_share_of_a_category_that_a_case_lacks_goes_to_the_others():
    result = drawn([(0, 50, 9), (7, 0, 0)], [0.5, 0.25, 0.25], segments=40)
    assert {pair: result.count(pair) for pair in set(result)} == {
        (0, 1): 10,
        (0, 2): 10,
        (1, 0): 20,
    }


def test_a_case_without_candidates_is_never_drawn():
    result = drawn([(0, 0), (3, 4)], [0.5, 0.5], segments=10)
    assert {number for number, _ in result} == {1}


def test_a_subepoch_draws_from_a_limited_number_of_cases():
    cases = {number for number, _ in drawn([(5,)] * 30, [1.0], segments=12, cases=4)}
    assert len(cases) == 4


def test_another_seed_draws_from_other_cases_in_another_order():
    same = [drawn([(5, 5)] * 9, [0.5, 0.5], segments=20, cases=3, seed=s) for s in (1, 1, 2)]
    assert same[0] == same[1]
    assert same[0] != same[2]
    assert same[0] != sorted(same[0])


@given(
    counts=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=5).filter(
        lambda rows: any(map(sum, rows))
    ),
    segments=st.integers(1, 50),
    cases=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_every_segment_is_drawn_from_a_category_that_exists(counts, segments, cases, seed):
    result = drawn(counts, [0.2, 0.3, 0.5], segments=segments, cases=cases, seed=seed)
    assert len(result) == segments
    assert all(counts[number][category] > 0 for number, category in result)
