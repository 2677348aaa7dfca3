"""Candidates: which voxels count in each category, and that draws of them are uniform."""

import numpy as np
import pytest

from deepseg.config.blocks.sampling import Sampling
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.candidates import (
    CandidateRules,
    Candidates,
    find_candidates,
    open_candidates,
    write_candidates,
)

SHAPE = (7, 9, 11)


def rules(kind="uniform", *, segment=(1, 1, 1), prediction=(1, 1, 1)) -> CandidateRules:
    return CandidateRules(Sampling(type=kind), 3, segment, prediction)


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
        result = find_candidates(case(labels, roi), rules(kind))
        assert [voxels(result, i) for i in range(len(masks))] == [flat(mask) for mask in masks]
        assert result.counts == tuple(int(mask.sum()) for mask in masks)


@pytest.mark.parametrize("kind", ["foreground_background", "uniform", "per_class"])
def test_no_segment_is_centred_on_an_unlabelled_voxel(kind):
    labels = some_labels().astype(np.int8)
    labels[:, 3:] = -1
    result = find_candidates(case(labels), rules(kind))
    assert sorted(result.voxels.tolist()) == np.flatnonzero(labels >= 0).tolist()


def test_weight_maps_replace_labels_and_roi():
    weights = np.zeros((2, *SHAPE), np.float32)
    weights[0, 0, 0, :2] = [1, 3]
    weights[1, 6, 8, 10] = 5
    result = find_candidates(
        case(some_labels(), some_roi(), weights), rules("foreground_background")
    )
    assert result.counts == (2, 1)
    rng = np.random.default_rng(0)
    drawn = [result.draw(0, SHAPE, rng=rng) for _ in range(4000)]
    assert set(drawn) == {(0, 0, 0), (0, 0, 1)}
    assert drawn.count((0, 0, 1)) == pytest.approx(3000, abs=120)
    assert result.draw(1, SHAPE, rng=rng) == (6, 8, 10)


def test_the_prediction_around_a_centre_lies_inside_the_image():
    # segment 5, prediction 3: it covers c - 1 … c + 1; even prediction 4 of 6: c - 1 … c + 2
    result = find_candidates(case(), rules(segment=(5, 6, 17), prediction=(3, 4, 13)))
    x, y, z = np.unravel_index(result.voxels, SHAPE)
    assert (x.min(), x.max()) == (1, 5)
    assert (y.min(), y.max()) == (1, 6)
    assert set(z.tolist()) == {5}  # the image is smaller than the prediction: its middle


def test_every_voxel_of_a_category_is_equally_likely():
    result = find_candidates(case(some_labels()), rules("per_class"))
    rng = np.random.default_rng(5)
    drawn = [result.draw(2, SHAPE, rng=rng) for _ in range(5000)]
    counts = {voxel: drawn.count(voxel) for voxel in set(drawn)}
    assert set(counts) == {(4, 4, z) for z in range(4, 9)}
    assert max(abs(n - 1000) for n in counts.values()) < 120


def test_candidates_come_back_from_disk_as_they_went(tmp_path):
    weights = np.zeros((1, *SHAPE), np.float32)
    weights[0, 2, 3, 4:6] = [2, 6]
    for item in (
        find_candidates(case(some_labels()), rules("per_class")),
        find_candidates(case(weights=weights), rules()),
    ):
        write_candidates(item, tmp_path / f"{len(item.ends)}")
        back = open_candidates(tmp_path / f"{len(item.ends)}")
        assert back.counts == item.counts
        assert np.array_equal(back.voxels, item.voxels)
        drawn = [c.draw(0, SHAPE, rng=np.random.default_rng(1)) for c in (item, back)]
        assert drawn[0] == drawn[1]
