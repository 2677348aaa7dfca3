"""Metrics: against hand arithmetic, their own laws, and a comparison of every pair of voxels."""

from itertools import product
from math import dist, floor, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseg.inference.metrics import (
    MEASURES,
    Confusion,
    Counts,
    Scores,
    class_scores,
    lesion_counts,
    scores,
    summary,
)

SHAPE = (3, 4, 5)
SPACING_MM = (1.0, 2.0, 3.5)
CLASSES = ["background", "oedema", "core"]

masks = arrays(bool, SHAPE)
label_maps = arrays(np.int16, SHAPE, elements=st.integers(-1, 2))
predicted_maps = arrays(np.int16, SHAPE, elements=st.integers(0, 2))
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.25, 3.0])] * 3)


def mask(*voxels, shape=SHAPE):
    result = np.zeros(shape, bool)
    for voxel in voxels:
        result[voxel] = True
    return result


# --- By hand ---


def test_two_voxels_are_as_far_apart_as_their_centres():
    result = scores(mask((1, 0, 0)), mask((1, 3, 4)), spacing_mm=(1, 2, 3))
    assert result.hausdorff95_mm == pytest.approx(sqrt(6**2 + 12**2))
    assert result.surface_distance_mm == pytest.approx(sqrt(6**2 + 12**2))
    assert (result.dice, result.precision, result.sensitivity) == (0, 0, 0)


def test_the_percentile_is_taken_per_direction_and_the_mean_over_both():
    prediction = mask((0, 0, 0))
    truth = mask(*[(0, 0, z) for z in range(5)])
    result = scores(prediction, truth, spacing_mm=(1, 1, 2))
    # To the truth: 0 mm. Back: 0, 2, 4, 6, 8 mm, of which the 95th percentile lies at 3.8 steps.
    assert result.hausdorff95_mm == pytest.approx(7.6)
    assert result.surface_distance_mm == pytest.approx(20 / 6)


def test_the_inside_of_a_mask_is_not_its_surface():
    prediction = np.zeros((5, 6, 7), bool)
    prediction[1:4, 1:4, 1:4] = True
    result = scores(prediction, mask((2, 2, 2), shape=(5, 6, 7)), spacing_mm=(1, 1, 1))
    outward = 6 * 1 + 12 * sqrt(2) + 8 * sqrt(3)  # of 26 surface voxels; the centre sees 1 mm
    assert result.surface_distance_mm == pytest.approx((outward + 1) / 27)


def test_the_border_of_the_image_is_a_surface():
    everything = np.ones(SHAPE, bool)
    result = scores(everything, mask((1, 1, 2)), spacing_mm=(1, 1, 1))
    nearest = 1.0  # voxel (1, 1, 2) is inside; (0, 1, 2) lies on the border
    surface = [v for v in np.ndindex(SHAPE) if not (v[0] == 1 and v[1] in (1, 2) and 1 <= v[2] < 4)]
    expected = (sum(dist(v, (1, 1, 2)) for v in surface) + nearest) / (len(surface) + 1)
    assert len(surface) == 54
    assert result.surface_distance_mm == pytest.approx(expected)


def test_overlap_and_volumes_of_known_masks():
    prediction = mask((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3))
    truth = mask((0, 0, 2), (0, 0, 3), (0, 0, 4))
    result = scores(prediction, truth, spacing_mm=(1, 2, 3.5))
    assert result.dice == pytest.approx(4 / 7)
    assert result.precision == pytest.approx(2 / 4)
    assert result.sensitivity == pytest.approx(2 / 3)
    assert result.specificity == pytest.approx(55 / 57)  # 60 voxels, 3 true, 2 wrongly predicted
    assert result.predicted_ml == pytest.approx(0.028)  # 4 voxels of 7 mm³
    assert result.true_ml == pytest.approx(0.021)


# --- Empty masks ---


def test_nothing_predicted_and_nothing_true_has_no_dice():
    assert scores(mask(), mask(), spacing_mm=SPACING_MM) == Scores(
        dice=None,
        precision=None,
        sensitivity=None,
        specificity=1.0,
        hausdorff95_mm=None,
        surface_distance_mm=None,
        predicted_ml=0.0,
        true_ml=0.0,
        lesions_found=0,
        lesions_missed=0,
        lesions_false=0,
    )


def test_a_prediction_of_what_is_not_there_has_dice_0_and_no_distance():
    assert scores(mask((0, 1, 2)), mask(), spacing_mm=(10, 10, 10)) == Scores(
        dice=0.0,
        precision=0.0,
        sensitivity=None,
        specificity=59 / 60,
        hausdorff95_mm=None,
        surface_distance_mm=None,
        predicted_ml=1.0,
        true_ml=0.0,
        lesions_found=0,
        lesions_missed=0,
        lesions_false=1,
    )


def test_a_missed_truth_has_dice_0_and_no_distance():
    assert scores(mask(), mask((0, 1, 2)), spacing_mm=(10, 10, 10)) == Scores(
        dice=0.0,
        precision=None,
        sensitivity=0.0,
        specificity=1.0,
        hausdorff95_mm=None,
        surface_distance_mm=None,
        predicted_ml=0.0,
        true_ml=1.0,
        lesions_found=0,
        lesions_missed=1,
        lesions_false=0,
    )


def test_where_everything_is_true_there_is_no_specificity():
    everything = np.ones(SHAPE, bool)
    result = scores(everything, everything, spacing_mm=SPACING_MM)
    assert (result.dice, result.specificity, result.hausdorff95_mm) == (1.0, None, 0.0)


def test_an_empty_roi_leaves_nothing_to_score():
    everything = np.ones(SHAPE, bool)
    result = scores(everything, everything, spacing_mm=SPACING_MM, roi=mask())
    assert (result.dice, result.specificity, result.hausdorff95_mm) == (None, None, None)


# --- Against every pair of voxels ---


def surface(voxels):
    """Voxels with a 6-neighbour that is not in the mask; there is none outside the image."""
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    return [
        v for v in voxels if any(tuple(np.add(v, step).tolist()) not in voxels for step in steps)
    ]


def percentile95(values):
    values, position = sorted(values), 0.95 * (len(values) - 1)
    low = floor(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])


def nearest_mm(sources, targets, spacing_mm):
    return [
        min(dist(np.multiply(s, spacing_mm), np.multiply(t, spacing_mm)) for t in targets)
        for s in sources
    ]


@settings(deadline=None, max_examples=30)
@given(prediction=masks, truth=masks, spacing_mm=spacings)
def test_distances_are_those_of_all_pairs_of_surface_voxels(prediction, truth, spacing_mm):
    assume(prediction.any() and truth.any())
    a, b = (surface({tuple(v) for v in np.argwhere(m).tolist()}) for m in (prediction, truth))
    there, back = nearest_mm(a, b, spacing_mm), nearest_mm(b, a, spacing_mm)
    result = scores(prediction, truth, spacing_mm=spacing_mm)
    assert result.hausdorff95_mm == pytest.approx(max(percentile95(there), percentile95(back)))
    assert result.surface_distance_mm == pytest.approx(
        (sum(there) + sum(back)) / (len(there) + len(back))
    )


def nearest_on_axes_mm(sources, targets, axes_mm):
    return [min(dist(axes_mm @ s, axes_mm @ t) for t in targets) for s in sources]


SHEARED = np.array([[1.0, 0, 0], [0, 2, 0.7], [0.4, 0, 1.5]])


@settings(deadline=None, max_examples=30)
@given(prediction=masks, truth=masks)
def test_distances_on_sheared_axes_are_those_of_the_centres_of_voxels(prediction, truth):
    assume(prediction.any() and truth.any())
    a, b = (surface({tuple(v) for v in np.argwhere(m).tolist()}) for m in (prediction, truth))
    there, back = nearest_on_axes_mm(a, b, SHEARED), nearest_on_axes_mm(b, a, SHEARED)
    result = scores(prediction, truth, spacing_mm=SPACING_MM, axes_mm=SHEARED)
    assert result.hausdorff95_mm == pytest.approx(max(percentile95(there), percentile95(back)))
    assert result.surface_distance_mm == pytest.approx(
        (sum(there) + sum(back)) / (len(there) + len(back))
    )


def test_one_step_on_a_sheared_axis_is_as_long_as_its_column():
    result = scores(mask((1, 1, 0)), mask((1, 1, 1)), spacing_mm=(1, 1, 5), axes_mm=SHEARED)
    assert result.surface_distance_mm == pytest.approx(sqrt(0.7**2 + 1.5**2))
    # The nearest way from (0, 1, 1) to (0, 0, 3): one step back, two up.
    second = scores(mask((0, 1, 1)), mask((0, 0, 3)), spacing_mm=(1, 1, 5), axes_mm=SHEARED)
    assert second.hausdorff95_mm == pytest.approx(sqrt((2 * 0.7 - 2) ** 2 + 3**2))


def test_the_volume_of_a_sheared_voxel_is_that_of_its_parallelepiped():
    result = scores(mask((1, 1, 0)), mask(), spacing_mm=(9, 9, 9), axes_mm=SHEARED)
    assert result.predicted_ml == pytest.approx((1 * 2 * 1.5 + 0.4 * (0 - 0)) / 1000)


@settings(deadline=None, max_examples=30)
@given(prediction=masks, truth=masks, shear=st.sampled_from([0.0, 9e-5, 1.1e-4]))
def test_both_ways_to_the_nearest_voxel_agree_where_axes_are_perpendicular(
    prediction, truth, shear
):
    turned = np.array([[0, -1.25, shear], [3, 0, 0], [0, 0, 1]]) * [1, 1, 0.5]
    straight = scores(prediction, truth, spacing_mm=(3, 1.25, 0.5))
    result = scores(prediction, truth, spacing_mm=(1, 1, 1), axes_mm=turned)
    for measure in ("hausdorff95_mm", "surface_distance_mm", "predicted_ml", "dice"):
        expected = getattr(straight, measure)
        limit = None if expected is None else pytest.approx(expected, rel=3e-4)
        assert getattr(result, measure) == limit


# --- Laws ---


def same(result, **expected):
    for measure, value in expected.items():
        assert getattr(result, measure) == (None if value is None else pytest.approx(value))


@given(prediction=masks, truth=masks)
def test_exchanging_prediction_and_truth_exchanges_precision_and_sensitivity(prediction, truth):
    first = scores(prediction, truth, spacing_mm=SPACING_MM)
    second = scores(truth, prediction, spacing_mm=SPACING_MM)
    same(
        second,
        dice=first.dice,
        precision=first.sensitivity,
        sensitivity=first.precision,
        hausdorff95_mm=first.hausdorff95_mm,
        surface_distance_mm=first.surface_distance_mm,
        predicted_ml=first.true_ml,
        true_ml=first.predicted_ml,
    )


@given(prediction=masks, truth=masks, factor=st.sampled_from([0.5, 3.0]))
def test_larger_voxels_scale_distances_and_volumes_only(prediction, truth, factor):
    original = scores(prediction, truth, spacing_mm=SPACING_MM)
    larger = scores(prediction, truth, spacing_mm=[factor * mm for mm in SPACING_MM])
    distances = (original.hausdorff95_mm, original.surface_distance_mm)
    hausdorff95_mm, surface_mm = (None if mm is None else factor * mm for mm in distances)
    same(
        larger,
        dice=original.dice,
        specificity=original.specificity,
        hausdorff95_mm=hausdorff95_mm,
        surface_distance_mm=surface_mm,
        predicted_ml=factor**3 * original.predicted_ml,
        true_ml=factor**3 * original.true_ml,
    )


@given(prediction=masks, truth=masks, axes=st.permutations(range(3)))
def test_the_order_of_axes_does_not_matter(prediction, truth, axes):
    original = scores(prediction, truth, spacing_mm=SPACING_MM)
    turned = scores(
        prediction.transpose(axes), truth.transpose(axes), spacing_mm=[SPACING_MM[a] for a in axes]
    )
    same(turned, **{measure: getattr(original, measure) for measure in MEASURES})


@given(prediction=masks, truth=masks)
def test_more_background_around_the_image_changes_nothing_but_specificity(prediction, truth):
    original = scores(prediction, truth, spacing_mm=SPACING_MM)
    margins = [(1, 2), (0, 3), (4, 1)]
    padded = scores(np.pad(prediction, margins), np.pad(truth, margins), spacing_mm=SPACING_MM)
    unchanged = [measure for measure in MEASURES if measure != "specificity"]
    same(padded, **{measure: getattr(original, measure) for measure in unchanged})


@given(prediction=masks, truth=masks)
def test_outside_the_roi_nothing_is_looked_at(prediction, truth):
    box = (slice(1, 3), slice(0, 2), slice(2, 5))
    roi = np.zeros(SHAPE, np.uint8)
    roi[box] = 2  # any value above 0 is inside
    inside = scores(prediction, truth, spacing_mm=SPACING_MM, roi=roi)
    assert inside == scores(prediction[box], truth[box], spacing_mm=SPACING_MM)


def test_the_masks_are_left_as_they_were():
    prediction, truth = mask((0, 0, 0), (1, 1, 1)), mask((1, 1, 1))
    scores(prediction, truth, spacing_mm=SPACING_MM, roi=mask((1, 1, 1)))
    assert (prediction.sum(), truth.sum()) == (2, 1)


# --- Classes and groups ---


def labels(**voxels):
    """``labels(a=(1, [voxel, ...]))``: a map with label 1 at these voxels."""
    result = np.zeros(SHAPE, np.int16)
    for label, places in voxels.values():
        for voxel in places:
            result[voxel] = label
    return result


def test_foreground_comes_first_then_classes_then_groups():
    rows = class_scores(
        labels(),
        labels(),
        classes=["background", "a", "b", "c"],
        groups={"outer": [1, 2], "ends": [1, 3]},
        spacing_mm=SPACING_MM,
    )
    assert list(rows) == ["foreground", "a", "b", "c", "outer", "ends"]


def test_every_row_has_the_masks_of_its_labels():
    segmentation = labels(a=(1, [(0, 0, 0), (0, 0, 1)]), b=(2, [(1, 0, 0)]), c=(3, [(2, 0, 0)]))
    truth = labels(a=(1, [(0, 0, 0)]), b=(2, [(2, 0, 0)]), c=(3, [(1, 0, 0)]))
    rows = class_scores(
        segmentation,
        truth,
        classes=["background", "a", "b", "c"],
        groups={"b and c": [2, 3], "a and b": (1, 2)},
        spacing_mm=SPACING_MM,
    )
    assert {name: row.dice for name, row in rows.items()} == {
        "foreground": pytest.approx(2 * 3 / (4 + 3)),
        "a": pytest.approx(2 * 1 / (2 + 1)),
        "b": 0.0,
        "c": 0.0,
        "b and c": 1.0,
        "a and b": pytest.approx(2 * 1 / (3 + 2)),
    }


def test_a_class_absent_from_both_maps_has_no_dice_and_the_others_have():
    core = labels(core=(2, [(1, 2, 3)]))
    rows = class_scores(core, core, classes=CLASSES, groups={}, spacing_mm=SPACING_MM)
    assert {name: row.dice for name, row in rows.items()} == {
        "foreground": 1.0,
        "oedema": None,
        "core": 1.0,
    }


def test_voxels_of_unknown_truth_are_left_out_with_those_outside_the_roi():
    segmentation = labels(core=(2, [(0, 0, 0), (0, 0, 1), (2, 3, 4)]))
    truth = labels(core=(2, [(0, 0, 0)]), unknown=(-1, [(0, 0, 1)]))
    roi = ~mask((2, 3, 4))
    rows = class_scores(
        segmentation, truth, classes=CLASSES, groups={"all": [1, 2]}, spacing_mm=SPACING_MM, roi=roi
    )
    assert [rows[name].dice for name in ("foreground", "core", "all")] == [1.0, 1.0, 1.0]
    assert class_scores(segmentation, truth, classes=CLASSES, groups={}, spacing_mm=SPACING_MM)[
        "core"
    ].dice == pytest.approx(2 / 3)


# --- Summary over cases ---


def score(**measures):
    nothing = dict.fromkeys(MEASURES)
    return Scores(**{**nothing, "predicted_ml": 0.0, "true_ml": 0.0, **measures})


def test_undefined_cases_are_counted_and_stay_out_of_the_mean():
    dice = [0.0, 0.5, None, 0.75, 1.0, None, 0.75]
    table = summary({f"case {i}": {"core": score(dice=d)} for i, d in enumerate(dice)})
    assert table["core"]["dice"] == {
        "mean": pytest.approx(0.6),
        "median": 0.75,
        "standard_deviation": pytest.approx(sqrt(0.575 / 4)),  # 0.36 + 0.01 + 2 x 0.0225 + 0.16
        "defined": 5,
        "undefined": 2,
    }


def test_a_measure_that_no_case_defines_has_no_mean():
    table = summary({"a": {"core": score()}, "b": {"core": score()}})
    assert table["core"]["hausdorff95_mm"] == {
        "mean": None,
        "median": None,
        "standard_deviation": None,
        "defined": 0,
        "undefined": 2,
    }


def test_every_row_has_every_measure_and_rows_keep_their_order():
    table = summary({"a": {"foreground": score(true_ml=2.0), "core": score(true_ml=1.0)}})
    assert list(table) == ["foreground", "core"]
    assert list(table["core"]) == list(MEASURES)
    assert [table[row]["true_ml"]["mean"] for row in table] == [2.0, 1.0]


def test_no_cases_give_an_empty_summary():
    assert summary({}) == {}


# --- Counts of samples ---


def test_confusion_of_known_labels():
    truth = np.array([[0, 0, 1, 1, 2, 2, -1]])
    prediction = np.array([[0, 1, 1, 2, 2, 2, 2]], np.uint8)
    confusion = Confusion.of(prediction, truth, number_of_classes=4)
    assert confusion.classes == (
        Counts(true_positives=1, predicted=1, true=2, total=6),
        Counts(true_positives=1, predicted=2, true=2, total=6),
        Counts(true_positives=2, predicted=3, true=2, total=6),
        Counts(true_positives=0, predicted=0, true=0, total=6),
    )
    assert confusion.foreground == Counts(true_positives=4, predicted=5, true=4, total=6)
    assert confusion.accuracy == pytest.approx(4 / 6)


def test_measures_of_known_counts():
    counts = Counts(true_positives=3, predicted=5, true=4, total=20)
    assert counts.dice == pytest.approx(6 / 9)
    assert counts.precision == pytest.approx(3 / 5)
    assert counts.sensitivity == pytest.approx(3 / 4)
    assert counts.specificity == pytest.approx(14 / 16)
    assert counts.accuracy == pytest.approx(17 / 20)


@pytest.mark.parametrize(
    ("counts", "undefined"),
    [
        pytest.param(Counts(0, 0, 0, 9), {"dice", "precision", "sensitivity"}, id="absent"),
        pytest.param(Counts(0, 2, 0, 9), {"sensitivity"}, id="only predicted"),
        pytest.param(Counts(0, 0, 2, 9), {"precision"}, id="only true"),
        pytest.param(Counts(9, 9, 9, 9), {"specificity"}, id="everywhere"),
        pytest.param(
            Counts(0, 0, 0, 0),
            {"dice", "precision", "sensitivity", "specificity", "accuracy"},
            id="no voxels",
        ),
    ],
)
def test_what_the_counts_leave_undefined_is_none(counts, undefined):
    measures = ("dice", "precision", "sensitivity", "specificity", "accuracy")
    assert {measure for measure in measures if getattr(counts, measure) is None} == undefined


def test_foreground_stands_in_for_the_background_row():
    confusion = Confusion.of(np.array([0, 1, 2]), np.array([0, 2, 2]), number_of_classes=3)
    assert confusion.rows(CLASSES) == {
        "foreground": Counts(2, 2, 2, 3),
        "oedema": Counts(0, 1, 0, 3),
        "core": Counts(1, 1, 2, 3),
    }


@given(prediction=predicted_maps, truth=label_maps)
def test_counts_of_a_volume_give_the_overlap_of_its_scores(prediction, truth):
    confusion = Confusion.of(prediction, truth, number_of_classes=3)
    rows = class_scores(prediction, truth, classes=CLASSES, groups={}, spacing_mm=SPACING_MM)
    for name, measure in product(rows, ("dice", "precision", "sensitivity", "specificity")):
        assert getattr(confusion.rows(CLASSES)[name], measure) == getattr(rows[name], measure)


@given(prediction=predicted_maps, truth=label_maps, cut=st.integers(0, 5))
def test_the_counts_of_two_parts_add_up_to_those_of_the_whole(prediction, truth, cut):
    parts = Confusion.empty(3)
    for part in (np.s_[:, :, :cut], np.s_[:, :, cut:]):
        parts = parts.add(Confusion.of(prediction[part], truth[part], number_of_classes=3))
    assert parts == Confusion.of(prediction, truth, number_of_classes=3)


def test_counts_do_not_overflow():
    confusion = Confusion.of(np.uint8([0, 1]), np.int8([0, 1]), number_of_classes=2)
    for _ in range(70):
        confusion = confusion.add(confusion)
    assert confusion.classes == (Counts(2**70, 2**70, 2**70, 2**71),) * 2
    assert confusion.foreground.dice == 1.0


def components(mask):
    """Sets of voxels that touch by faces, edges or corners, found by walking from each to all."""
    left, result = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}, []
    while left:
        component, pending = set(), [left.pop()]
        while pending:
            voxel = pending.pop()
            component.add(voxel)
            steps = product((-1, 0, 1), repeat=3)
            near = {tuple(np.add(voxel, step).tolist()) for step in steps} & left
            left -= near
            pending += near
        result.append(component)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_lesions_are_counted_as_by_walking_from_voxel_to_voxel(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, 9, 11, 13)) < 0.045
    counts = lesion_counts(prediction, truth)
    true, predicted = components(truth), components(prediction)
    voxels, true_voxels = set().union(*predicted), set().union(*true)
    result = sum(not component.isdisjoint(voxels) for component in true)
    assert counts == (
        result,
        len(true) - result,
        sum(component.isdisjoint(true_voxels) for component in predicted),
    )
    assert min(counts) > 0


def test_one_component_that_covers_two_lesions_finds_both():
    truth, prediction = np.zeros((2, 3, 4, 9), bool)
    truth[1, 1, [1, 7]] = True
    prediction[1, 1, 1:8] = True
    assert lesion_counts(prediction, truth) == (2, 0, 0)


def test_lesions_outside_the_roi_do_not_count():
    truth, roi = np.zeros((2, 3, 4, 9), bool)
    truth[1, 1, [1, 7]] = True
    roi[:, :, :5] = True
    scored = scores(np.zeros_like(truth), truth, spacing_mm=(1, 1, 1), roi=roi)
    assert (scored.lesions_found, scored.lesions_missed, scored.lesions_false) == (0, 1, 0)
