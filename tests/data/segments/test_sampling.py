"""Sampling: which voxels count, how often each category is drawn, and that draws are uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.config.blocks.sampling import Sampling
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.sampling import (
    Candidates,
    candidates,
    category_names,
    keep_candidates,
    open_candidates,
    shares,
    subepoch_draws,
)

SHAPE = (7, 9, 11)
EVERYWHERE = {"segment": (1, 1, 1), "prediction": (1, 1, 1)}


def case(labels=None, roi=None, weights=None, shape=SHAPE) -> PreparedCase:
    return PreparedCase(
        name="case",
        channels=np.zeros((1, *shape), np.float32),
        labels=labels,
        roi=roi,
        weights=weights,
        geometry=Geometry(shape, np.eye(4)),
    )


def some_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:5, 3] = 1
    labels[4, 4, 4:9] = 2
    return labels


def some_roi() -> np.ndarray:
    roi = np.zeros(SHAPE, bool)
    roi[1:6, 1:8, 2:8] = True
    return roi


def voxels(found: Candidates, category: int) -> set[int]:
    ends = [0, *found.ends]
    return set(found.voxels[ends[category] : ends[category + 1]].tolist())


def flat(mask) -> set[int]:
    return set(np.flatnonzero(mask).tolist())


@pytest.mark.parametrize("with_roi", [True, False])
def test_the_categories_of_each_sampling_type(with_roi):
    labels, roi = some_labels(), some_roi() if with_roi else None
    inside = np.ones(SHAPE, bool) if roi is None else roi
    expected = {
        "foreground_background": [(labels > 0) & inside, (labels == 0) & inside],
        "uniform": [inside],
        "whole_image": [np.ones(SHAPE, bool)],
        "per_class": [(labels == c) & inside for c in range(3)],
    }
    for kind, masks in expected.items():
        found = candidates(case(labels, roi), Sampling(type=kind), classes=3, **EVERYWHERE)
        assert [voxels(found, i) for i in range(len(masks))] == [flat(mask) for mask in masks]
        assert found.counts == tuple(int(mask.sum()) for mask in masks)


def test_weight_maps_replace_labels_and_roi():
    weights = np.zeros((2, *SHAPE), np.float32)
    weights[0, 0, 0, :2] = [1, 3]
    weights[1, 6, 8, 10] = 5
    found = candidates(
        case(some_labels(), some_roi(), weights), Sampling(type="foreground_background"),
        classes=3, **EVERYWHERE,
    )  # fmt: skip
    assert found.counts == (2, 1)
    rng = np.random.default_rng(0)
    drawn = [found.draw(0, SHAPE, rng=rng) for _ in range(4000)]
    assert set(drawn) == {(0, 0, 0), (0, 0, 1)}
    assert drawn.count((0, 0, 1)) == pytest.approx(3000, abs=120)
    assert found.draw(1, SHAPE, rng=rng) == (6, 8, 10)


def test_the_prediction_around_a_centre_lies_inside_the_image():
    # segment 5, prediction 3: it covers c - 1 … c + 1; even prediction 4 of 6: c - 1 … c + 2
    found = candidates(
        case(), Sampling(type="uniform"), classes=2, segment=(5, 6, 17), prediction=(3, 4, 13)
    )
    x, y, z = np.unravel_index(found.voxels, SHAPE)
    assert (x.min(), x.max()) == (1, 5)
    assert (y.min(), y.max()) == (1, 6)
    assert set(z.tolist()) == {5}  # the image is smaller than the prediction: its middle


def test_every_voxel_of_a_category_is_equally_likely():
    found = candidates(case(some_labels()), Sampling(type="per_class"), classes=3, **EVERYWHERE)
    rng = np.random.default_rng(5)
    drawn = [found.draw(2, SHAPE, rng=rng) for _ in range(5000)]
    counts = {voxel: drawn.count(voxel) for voxel in set(drawn)}
    assert set(counts) == {(4, 4, z) for z in range(4, 9)}
    assert max(abs(n - 1000) for n in counts.values()) < 120


def test_candidates_come_back_from_disk_as_they_went(tmp_path):
    weights = np.zeros((1, *SHAPE), np.float32)
    weights[0, 2, 3, 4:6] = [2, 6]
    for one in (
        candidates(case(some_labels()), Sampling(type="per_class"), classes=3, **EVERYWHERE),
        candidates(case(weights=weights), Sampling(type="uniform"), classes=3, **EVERYWHERE),
    ):
        keep_candidates(one, tmp_path / f"{len(one.ends)}")
        back = open_candidates(tmp_path / f"{len(one.ends)}")
        assert back.counts == one.counts
        assert np.array_equal(back.voxels, one.voxels)
        drawn = [c.draw(0, SHAPE, rng=np.random.default_rng(1)) for c in (one, back)]
        assert drawn[0] == drawn[1]


def test_names_and_shares_of_the_categories():
    classes = ["healthy", "core", "edge"]
    assert category_names(Sampling(type="per_class"), classes) == tuple(classes)
    assert shares(Sampling(type="per_class"), classes).tolist() == pytest.approx([1 / 3] * 3)
    uneven = Sampling(type="foreground_background", proportions=(3, 1))
    assert shares(uneven, classes).tolist() == [0.75, 0.25]
    assert category_names(Sampling(type="uniform"), classes) == ("region of interest",)


def drawn(counts, wanted, *, segments, cases=9, seed=0):
    draws = subepoch_draws(
        counts, np.array(wanted), segments=segments, cases=cases, rng=np.random.default_rng(seed)
    )
    return [(draw.case, draw.category) for draw in draws]


def test_segments_are_shared_among_cases_and_categories():
    found = drawn([(50, 50), (50, 50)], [0.5, 0.5], segments=40)
    assert {pair: found.count(pair) for pair in set(found)} == {
        (0, 0): 10, (0, 1): 10, (1, 0): 10, (1, 1): 10,
    }  # fmt: skip


def test_the_share_of_a_category_that_a_case_lacks_goes_to_the_others():
    found = drawn([(0, 50, 9), (7, 0, 0)], [0.5, 0.25, 0.25], segments=40)
    assert {pair: found.count(pair) for pair in set(found)} == {
        (0, 1): 10, (0, 2): 10, (1, 0): 20,
    }  # fmt: skip


def test_a_case_without_candidates_is_never_drawn():
    found = drawn([(0, 0), (3, 4)], [0.5, 0.5], segments=10)
    assert {one for one, _ in found} == {1}


def test_a_subepoch_draws_from_a_limited_number_of_cases():
    cases = {one for one, _ in drawn([(5,)] * 30, [1.0], segments=12, cases=4)}
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
    found = drawn(counts, [0.2, 0.3, 0.5], segments=segments, cases=cases, seed=seed)
    assert len(found) == segments
    assert all(counts[one][category] > 0 for one, category in found)
