"""Checks: whatever can be wrong with a case is found, and nothing is said of a clean one."""

import json
import os
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from deepseg.data.cases.case import Case
from deepseg.data.cases.checks import examine
from deepseg.data.cases.cohort_checks import CohortRules, find_problems
from deepseg.data.cases.label_values import strange_labels
from deepseg.data.cases.summary import CaseSummary, Intensity
from deepseg.errors import Problem

SHAPE = (7, 5, 3)
AFFINE = np.diag([2.0, 1.0, 1.5, 1.0])
CLASSES = ["background", "core", "rim", "oedema"]


def voxels(seed=0):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def labels_of(*counts):
    """Labels with so many voxels of 0, 1, 2, …, and 0 for the rest."""
    array = np.zeros(SHAPE, np.uint8)
    array.flat[: sum(counts)] = np.repeat(np.arange(len(counts)), counts)
    return array


def save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


LABELS = labels_of(10, 5, 4, 3)  # and 83 more voxels of background
ROI = np.ones(SHAPE, np.uint8)


@pytest.fixture
def case(tmp_path):
    """A clean case with two channels, labels and a mask."""
    return Case(
        name="p1",
        channels=(save(tmp_path / "a.nii.gz", voxels(1)), save(tmp_path / "b.nii.gz", voxels(2))),
        labels=save(tmp_path / "labels.nii.gz", LABELS),
        roi=save(tmp_path / "roi.nii.gz", ROI),
        weight_maps=(),
        label_map=(),
        trust_arrays=False,
        where="train.csv:2",
    )


def found(case, needs_labels=True):
    return examine(case, class_count=len(CLASSES), needs_labels=needs_labels)


def problems(case, **more):
    return [str(problem) for problem in found(case, **more).problems]


def warnings(case, **more):
    summary = found(case, **more)
    assert summary.problems == ()
    return list(summary.warnings)


# ---- One case ----


def test_nothing_is_said_of_a_clean_case(case):
    summary = found(case)
    assert (summary.problems, summary.warnings) == ((), ())
    assert (summary.name, summary.where) == ("p1", "train.csv:2")
    assert (summary.shape, summary.spacing_mm, summary.orientation) == (
        SHAPE,
        (2, 1, 1.5),
        "RAS",
    )
    assert summary.class_voxels == (93, 5, 4, 3)
    assert summary.roi_voxels == 105
    assert summary.foreground_outside_roi == 0
    assert summary.missing_channels == ()


def test_intensities_are_those_inside_the_roi(case):
    image = np.arange(105, dtype=np.float32).reshape(SHAPE)
    save(case.channels[0], image)
    save(case.roi, ((image >= 10) & (image <= 12)).astype(np.uint8))
    save(case.labels, labels_of(10, 1, 1, 1))
    first = found(case).intensity[0]
    assert first == Intensity(
        mean=11,
        deviation=pytest.approx((2 / 3) ** 0.5),
        minimum=10,
        maximum=12,
        minimum_share=pytest.approx(1 / 3),
        second=11,
        low=pytest.approx(11.001),
        high=pytest.approx(11.999),
    )
    whole = found(replace(case, roi=None)).intensity[0]
    assert (whole.mean, whole.minimum, whole.maximum) == (52, 0, 104)


def test_facts_survive_json(case):
    save(case.labels, labels_of(10, 5), AFFINE + np.diag([0.2, 0, 0, 0]))
    for item in (found(case), found(replace(case, channels=(None, None)))):
        assert CaseSummary.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_shapes_must_agree_exactly(case):
    save(case.channels[1], voxels()[:, :, :1])
    save(case.labels, LABELS[:6])
    first = case.channels[0]
    assert problems(case) == [
        f"[shape-mismatch] {path}: got {shape} voxels; expected 7 x 5 x 3, as {first} has; "
        "fix: resample one onto the other, or correct the file in train.csv:2"
        for path, shape in [(case.labels, "6 x 5 x 3"), (case.channels[1], "7 x 5 x 1")]
    ]


def test_missing_files_come_with_everything_else_that_is_wrong(case, tmp_path):
    lost = tuple(
        Problem("file-missing", "no such file", "an image file", "correct the path", f"train:{n}")
        for n in (2, 3)
    )
    save(case.labels, labels_of(10, 5, 0, 0, 0, 2))
    save(case.roi, ROI[:6])
    gone = (tmp_path / "gone.nii.gz", case.channels[1])
    found_in_it = found(replace(case, channels=gone, weight_maps=gone[:1], missing=lost))
    assert found_in_it.problems[:2] == lost
    assert [problem.code for problem in found_in_it.problems[2:]] == [
        "shape-mismatch",  # seen against the second channel
        "label-values",
    ]
    assert (found_in_it.shape, found_in_it.images) == (SHAPE, None)
    assert found_in_it.missing_channels == ()
    assert [item is None for item in found_in_it.intensity] == [True, False]


@pytest.mark.parametrize("name", ["gone.nii.gz", "go\0ne.nii.gz"])
def test_a_missing_label_file_is_no_second_problem(case, tmp_path, name):
    lost = Problem("file-missing", "no such file", "an image file", "correct the path", "train:2")
    assert found(replace(case, labels=tmp_path / name, missing=(lost,))).problems == (lost,)


@pytest.fixture
def case_4d(case, tmp_path):
    """The clean case, its channels volumes 2 and 0 of a file of three, of which 1 is constant."""
    series = np.stack([voxels(2), np.full(SHAPE, 4, np.float32), voxels(1)], axis=3)
    return replace(case, channels=(save(tmp_path / "all.nii", series),) * 2, volumes=(2, 0))


def test_volumes_of_one_file_are_judged_like_files(case, case_4d):
    assert found(case_4d) == found(case)


def test_a_constant_volume_is_named_by_its_number(case_4d):
    file = case_4d.channels[0]
    assert warnings(replace(case_4d, volumes=(1, 0))) == [
        f"{file}: every voxel of the region of interest in volume 1 is 4"
    ]
    assert warnings(replace(case_4d, volumes=(2, 2))) == [
        f"{file}: it is more than one channel of p1"
    ]


def test_a_damaged_file_of_several_volumes_is_named_once(case_4d):
    file = case_4d.channels[0]
    file.write_bytes(file.read_bytes()[:-1])
    (problem,) = problems(case_4d)
    assert problem.startswith(f"[image-truncated] {file}: got ")


def shifted(voxels_along_y):
    affine = AFFINE.copy()
    affine[1, 3] = voxels_along_y  # the voxels are smallest, 1 mm, along y
    return affine


@pytest.mark.parametrize("which", ["channel", "labels", "roi", "weights"])
def test_the_distance_between_files_decides_what_is_said(case, tmp_path, which):
    weights = save(tmp_path / "w.nii.gz", ROI)
    case = replace(case, weight_maps=(weights,))
    path, array = {
        "channel": (case.channels[1], voxels(2)),
        "labels": (case.labels, LABELS),
        "roi": (case.roi, ROI),
        "weights": (weights, ROI),
    }[which]
    first = case.channels[0]

    save(path, array, shifted(0.0099))
    assert warnings(case) == []
    save(path, array, shifted(0.25))
    assert warnings(case) == [
        f"{path}: its voxels lie up to 0.25 mm (0.25 voxels) away from {first}; they are used as "
        "they are"
    ]
    save(path, array, shifted(40))
    assert problems(case) == [
        f"[geometry-mismatch] {path}: got voxels that lie up to 40 mm (40 voxels) away from "
        f"{first}; expected the same place in space, or at most 0.5 voxels away; fix: resample one "
        "onto the other or correct its header; if the voxels belong together as they are, set "
        "'trust_arrays: true'"
    ]
    assert warnings(replace(case, trust_arrays=True)) == [
        f"{path}: its voxels lie up to 40 mm (40 voxels) away from {first}; they are used as they "
        "are"
    ]


@pytest.mark.parametrize(("voxels_away", "count"), [(0.011, 1), (0.49, 1), (0.51, 0)])
def test_half_a_voxel_is_the_border_of_warnings(case, voxels_away, count):
    save(case.labels, LABELS, shifted(voxels_away))
    summary = found(case)
    assert (len(summary.warnings), len(summary.problems)) == (count, 1 - count)


def test_arrays_that_are_trusted_must_still_have_one_shape(case):
    save(case.labels, LABELS[:6])
    (problem,) = problems(replace(case, trust_arrays=True))
    assert problem.startswith("[shape-mismatch]")


def test_a_flipped_image_is_refused(case):
    save(case.channels[1], voxels(2), AFFINE * [[-1], [1], [1], [1]])
    (problem,) = problems(case)
    assert "up to 26 mm (13 voxels) away" in problem  # x ends at 13 mm, and at -13 mm
    assert problem.startswith(f"[geometry-mismatch] {case.channels[1]}")


@pytest.mark.parametrize(
    ("array", "label_map", "text"),
    [
        pytest.param(
            np.where(LABELS == 3, 4, LABELS),
            (),
            "labels {0, 1, 2, 4} (4: 3 voxels)|set 'label_map: {4: 3}' as it fits your data, or "
            "give the model 5 classes",
            id="a class is skipped",
        ),
        pytest.param(
            labels_of(1, 1, 1, 1, 6),
            (),
            "labels {0, 1, 2, 3, 4} (4: 6 voxels)|give the model 5 classes, or set "
            "'label_map: {4: 3}' as it fits your data",
            id="a class too many",
        ),
        pytest.param(
            LABELS.clip(0, 1) * 255,
            (),
            "labels {0, 255} (255: 12 voxels)|set 'label_map: {255: 3}' as it fits your data",
            id="a mask",
        ),
        pytest.param(
            np.where(LABELS == 3, 255, LABELS),
            (),
            "labels {0, 1, 2, 255} (255: 3 voxels)|set 'label_map: {255: ignore}' as it fits your "
            "data",
            id="a usual mark beside other labels",
        ),
        pytest.param(
            np.where(LABELS == 3, -100, LABELS.astype(np.int16)),
            (),
            "labels {-100, 0, 1, 2} (-100: 3 voxels)|set 'label_map: {-100: ignore}' as it fits "
            "your data",
            id="a mark below 0",
        ),
        pytest.param(
            np.where(LABELS == 0, -1024, LABELS.astype(np.int16)),
            (),
            "labels {-1024, 1, 2, 3} (-1024: 93 voxels)|set 'label_map: {-1024: 0}' as it fits "
            "your data",
            id="a background below 0",
        ),
        pytest.param(
            np.full(SHAPE, -7, np.int16),
            (),
            "labels {-7} (-7: 105 voxels)|set 'label_map: {-7: 0}' as it fits your data",
            id="one value below 0",
        ),
        pytest.param(
            np.where(LABELS == 3, 9, np.where(LABELS == 2, 7, LABELS)),
            ((7, 5), (1, 1)),
            "labels {0, 1, 5, 9} (5: 4 voxels, 9: 3 voxels)|set 'label_map: {7: 2, 1: 1, 9: 3}' "
            "as it fits your data",
            id="beside a map",
        ),
        pytest.param(
            LABELS.astype(np.int16) - 1,
            (),
            "labels {-1, 0, 1, 2} (-1: 93 voxels)|set 'label_map: {-1: 0, 0: 1, 1: 2, 2: 3}' as it "
            "fits your data",
            id="classes counted from minus one",
        ),
    ],
)
def test_labels_of_no_class_come_with_the_line_to_paste(case, array, label_map, text):
    save(case.labels, array.astype(np.int16))
    got, fix = text.split("|")
    assert problems(replace(case, label_map=label_map)) == [
        f"[label-values] {case.labels}: got {got}; expected labels 0 to 3 (4 classes); fix: {fix}"
    ]
    assert found(replace(case, label_map=label_map)).class_voxels is None


def test_many_structures_are_labels_and_no_image(case):
    """Dozens of labels in solid regions, with gaps between their numbers, as FreeSurfer writes."""
    array = np.kron(np.arange(35).reshape(7, 5, 1) * 7, np.ones((4, 4, 4), np.int16))
    problem = strange_labels(case, array, 4)
    assert (problem.got, problem.fix) == (
        "35 labels from 0 to 238, 34 of them of no class (7, 14, 21, …)",
        "name the class of each in label_map, or give the model a class for each and number them 0 "
        "to 34 in label_map",
    )


@pytest.mark.parametrize("touching", [False, True])
def test_objects_of_one_class_are_told_from_classes(case, touching):
    array = np.zeros(SHAPE, np.uint8)
    for number in range(1, 5):
        array[number, 1, 1] = number
    array[6, 4, 2] = 4 if touching else 0  # then a second place of label 4
    save(case.labels, array)
    (problem,) = examine(case, class_count=2, needs_labels=True).problems
    renaming = "set 'label_map: {2: 1, 3: 1, 4: 1}'"
    assert problem.fix == (
        f"give the model 5 classes, or {renaming} as it fits your data"
        if touching
        else f"{renaming} if the values number the objects of one class, or give the model 5 "
        "classes"
    )


def test_ignored_labels_are_of_no_class(case):
    save(case.labels, np.where(LABELS == 3, -100, LABELS.astype(np.int16)))
    summary = found(replace(case, label_map=((-100, -1),)))
    assert (summary.problems, summary.warnings) == ((), ())
    assert summary.class_voxels == (93, 5, 4, 0)
    save(case.labels, np.full(SHAPE, 255, np.uint8))
    assert warnings(replace(case, label_map=((255, -1),)))[0] == (
        f"{case.labels}: label_map ignores all of it"
    )


def test_remedies_are_those_of_the_kind_of_file(case):
    one_hot = np.stack([k == LABELS for k in range(4)], axis=-1).astype(np.uint8)
    save(case.labels, one_hot)
    save(case.roi, one_hot)
    assert [problem.split("; fix: ")[1] for problem in problems(case)] == [
        "save the mask as one volume, 1 inside and 0 outside",
        "save the labels as one volume that holds the class of every voxel; of one-hot labels, the "
        "number of the volume that is 1 there",
    ]


def test_the_suggested_map_makes_the_labels_right(case):
    save(case.labels, np.where(LABELS == 3, 4, LABELS))
    mended = found(replace(case, label_map=((4, 3),)))
    assert (mended.problems, mended.class_voxels) == ((), (93, 5, 4, 3))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        pytest.param(
            np.arange(105, dtype=np.int16).reshape(SHAPE) % 40 - 1024,
            "40 different values from -1024 to -985",
            id="far below 0",
        ),
        pytest.param(
            np.arange(105, dtype=np.int16).reshape(SHAPE) * 300,
            "105 different values from 0 to 31200",
            id="many values",
        ),
        pytest.param(
            np.arange(105, dtype=np.int32).reshape(SHAPE) * 1000,
            "105 different values from 0 to 104000",
            id="a wide range",
        ),
    ],
)
def test_labels_that_look_like_an_image_are_called_so(case, array, got):
    save(case.labels, array)
    assert problems(case) == [
        f"[label-values] {case.labels}: got {got}, which looks like an image; expected labels 0 to "
        "3 (4 classes); fix: correct the label file in train.csv:2"
    ]


def test_three_hundred_classes_are_fine(case):
    save(case.labels, np.arange(105, dtype=np.int16).reshape(SHAPE) + 195)
    summary = examine(case, class_count=300, needs_labels=True)
    assert summary.problems == ()
    assert summary.class_voxels == (0,) * 195 + (1,) * 105


def test_labels_are_needed_for_training_only(case):
    bare = replace(case, labels=None)
    assert problems(bare) == [
        "[labels-missing] train.csv:2: got no labels of case 'p1'; expected labels for every case; "
        "fix: give the label file, or take the case out"
    ]
    assert problems(bare, needs_labels=False) == []


@pytest.mark.parametrize("copied", [False, True], ids=["the same file", "a copy"])
def test_an_image_given_as_labels_is_named(case, tmp_path, copied):
    image = save(case.channels[1], LABELS)
    labels = image
    if copied:
        labels = tmp_path / "copy.nii.gz"
        labels.write_bytes(image.read_bytes())
    assert problems(replace(case, labels=labels)) == [
        f"[labels-are-image] {labels}: got the same bytes as {image}; expected labels, not one of "
        "the images; fix: correct the label file in train.csv:2"
    ]


def test_labels_of_the_size_and_time_of_an_image_are_not_the_image(case, tmp_path):
    image = save(tmp_path / "image.nii", LABELS + 1)
    labels = save(tmp_path / "labels.nii", LABELS)
    for path in (image, labels):
        os.utime(path, (1e9, 1e9))
    assert problems(replace(case, channels=(image, None), labels=labels)) == []


@pytest.mark.parametrize(
    ("array", "text"),
    [
        pytest.param(labels_of(105), "it is all background", id="background"),
        pytest.param(np.ones(SHAPE, np.uint8), "it has no background", id="foreground"),
    ],
)
def test_labels_of_one_kind_give_a_warning(case, array, text):
    save(case.labels, array)
    assert warnings(case) == [f"{case.labels}: {text}"]


def test_an_empty_roi_gives_a_warning(case):
    save(case.labels, labels_of(105))
    save(case.roi, np.zeros(SHAPE, np.uint8))
    assert warnings(case)[1:] == [
        f"{case.roi}: the region of interest is empty; nothing is learnt from p1, and its result "
        "is all background"
    ]
    assert found(case).roi_voxels == 0


def test_of_a_case_that_is_only_segmented_nothing_is_learnt_anyway(case):
    save(case.roi, np.zeros(SHAPE, np.uint8))
    summary = examine(case, class_count=3, needs_labels=False)
    assert (
        f"{case.roi}: the region of interest is empty; its result is all background"
        in summary.warnings
    )


def test_a_roi_of_one_voxel_without_the_foreground_gives_two_warnings(case):
    corner = np.zeros(SHAPE, np.uint8)
    corner[0, 0, 0] = 1
    save(case.roi, corner)
    assert found(case).foreground_outside_roi == 1
    # One voxel is also an image without contrast.
    assert [w for w in warnings(case) if "every voxel" not in w] == [
        f"{case.roi}: the region of interest has only 1 voxel",
        f"{case.roi}: 100 % of the foreground of {case.labels} lies outside the region of interest",
    ]


@pytest.mark.parametrize(("count", "is_small"), [(10, True), (11, False)])
def test_ten_voxels_are_a_small_roi(case, count, is_small):
    save(case.roi, labels_of(105 - count, count))
    text = f"{case.roi}: the region of interest has only {count} voxels"
    assert (text in warnings(case)) == is_small


def test_the_share_of_foreground_outside_the_roi_is_counted(case):
    inside = ROI.copy()
    inside[LABELS == 3] = 0
    save(case.roi, inside)
    assert warnings(case) == []
    assert found(case).foreground_outside_roi == 3 / 12


def test_an_image_that_is_constant_inside_the_roi_gives_a_warning(case):
    image = voxels()
    image[:5] = 2.5
    save(case.channels[1], image)
    assert warnings(case) == []
    inside = ROI.copy()
    inside[5:] = 0
    save(case.roi, inside)
    path = case.channels[1]
    assert warnings(case) == [f"{path}: every voxel of the region of interest is 2.5"]
    save(path, np.full(SHAPE, 3.0, np.float32))
    assert warnings(replace(case, roi=None)) == [f"{path}: every voxel is 3"]


def test_one_file_for_two_channels_gives_a_warning(case):
    first = case.channels[0]
    twice = replace(case, channels=(first, first))
    assert warnings(twice) == [f"{first}: it is more than one channel of p1"]


def test_negative_weights_are_refused(case, tmp_path):
    weights = np.ones(SHAPE, np.float32)
    weights[0, 1] = [-0.5, 0, -0.25]
    path = save(tmp_path / "w.nii.gz", weights)
    assert problems(replace(case, weight_maps=(path,))) == [
        f"[weights-negative] {path}: got 2 negative weights, down to -0.5; expected weights of 0 "
        "or more; fix: correct the weight map"
    ]


def test_a_missing_channel_is_no_problem_but_a_case_without_any_is(case):
    summary = found(replace(case, channels=(None, case.channels[1])))
    assert (summary.problems, summary.warnings) == ((), ())
    assert (summary.missing_channels, summary.shape) == ((0,), SHAPE)
    assert summary.intensity[0] is None
    assert summary.intensity[1] == found(case).intensity[1]
    assert problems(replace(case, channels=(None, None))) == [
        "[case-without-channels] train.csv:2: got no image of case 'p1'; expected at least one of "
        "its channels; fix: give an image, or take the case out"
    ]


def test_every_broken_file_of_a_case_is_named_at_once(case, tmp_path):
    for path in (case.channels[0], case.labels):
        path.write_bytes(path.read_bytes()[:-9])
    save(case.roi, np.full(SHAPE, 0.5, np.float32))
    nan = voxels()
    nan[1, 1, 1] = np.nan
    save(case.channels[1], nan)
    weights = tmp_path / "none.nii.gz"
    summary = found(replace(case, weight_maps=(weights,)))
    assert {problem.where: problem.code for problem in summary.problems} == {
        str(case.channels[0]): "image-truncated",
        str(case.labels): "image-truncated",
        str(case.roi): "mask-not-binary",
        str(case.channels[1]): "image-not-finite",
        str(weights): "file-missing",
    }
    assert (summary.class_voxels, summary.roi_voxels, summary.images) == (None, None, None)


# ---- Many cases ----


@pytest.fixture
def summary(case):
    return found(case)


def judged(*summaries, **more):
    """Problems and warnings of all cases together, as text."""
    rules = CohortRules(
        **{"channels": ("T1", "FLAIR"), "classes": CLASSES, "needs_labels": True, **more}
    )
    problems, warnings = find_problems(summaries, rules)
    return [str(problem) for problem in problems], warnings


def other(summary, **changes):
    """Another case like this one."""
    usual = {"name": "p2", "where": "train.csv:3", "images": "other", "labels": None}
    return replace(summary, **{**usual, **changes})


def test_nothing_is_said_of_clean_cases(summary):
    assert judged(summary, other(summary)) == ([], [])


def test_the_problems_and_warnings_of_every_case_come_once(case, summary):
    save(case.labels, labels_of(105))
    broken = found(replace(case, channels=(case.channels[0], case.channels[0])))
    problems, warnings = judged(broken, other(broken), allow_missing_classes=True)
    assert problems == []
    assert warnings == [
        *broken.warnings,
        *(f"no voxel of class {i} ({CLASSES[i]}) in any of the cases" for i in (1, 2, 3)),
    ]
    assert len(broken.warnings) == 2
    unlabelled = found(replace(case, labels=None))
    expected = [str(unlabelled.problems[0])]
    assert judged(unlabelled, other(summary), other(unlabelled, images="3"))[0] == expected


def test_a_class_in_no_case_is_refused_unless_allowed(summary):
    first, second = (
        replace(summary, class_voxels=(5, 1, 0, 0)),
        other(summary, class_voxels=(0, 0, 0, 2)),
    )
    assert judged(first, second) == (
        [
            "[class-in-no-case] got no voxel of class 2 (rim) in any of the cases; expected every "
            "class of the model in at least one case; fix: check the labels and the label_map, or "
            "set 'allow_missing_classes: true'"
        ],
        [],
    )
    allowed = judged(first, second, allow_missing_classes=True)
    assert allowed == ([], ["no voxel of class 2 (rim) in any of the cases"])
    assert judged(first, second, needs_labels=False) == ([], [])


def test_classes_are_not_judged_while_labels_are_broken(summary):
    assert judged(
        replace(summary, class_voxels=None), other(summary, class_voxels=(1, 0, 0, 0))
    ) == (
        [],
        [],
    )


def test_a_channel_in_no_case_is_refused(summary):
    without = replace(summary, missing_channels=(1,))
    assert judged(without, other(summary)) == ([], [])
    assert judged(without, other(without), needs_labels=False)[0] == [
        "[channel-in-no-case] got no image of channel FLAIR in any case; expected every channel of "
        "the model in at least one case; fix: give the images, or use a model without this channel"
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"roi_voxels": 0},
            "[roi-empty] got an empty region of interest in every case; expected voxels to learn "
            "from; fix: correct the masks, or leave out the roi",
        ),
        (
            {"foreground_outside_roi": 1.0},
            "[roi-without-foreground] got all foreground outside the region of interest, in every "
            "case; expected foreground to learn from; fix: correct the masks, or leave out the roi",
        ),
    ],
    ids=["empty", "elsewhere"],
)
def test_a_useless_roi_in_every_case_is_refused_for_training(summary, changes, text):
    useless = replace(summary, **changes)
    assert judged(useless, other(useless)) == ([text], [])
    assert judged(useless, other(summary)) == ([], [])
    assert judged(useless, other(useless), needs_labels=False) == ([], [])


def test_the_same_case_twice_gives_a_warning(case, summary, tmp_path):
    copies = tuple(tmp_path / f"copy_{path.name}" for path in case.channels)
    for path, copy in zip(case.channels, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    copied = found(replace(case, name="p2", channels=copies, where="train.csv:3"))
    swapped = found(replace(case, name="p3", channels=case.channels[::-1], where="train.csv:4"))
    assert judged(summary, copied, swapped) == (
        [],
        [
            "train.csv:3: p2 has the same images as p1 (train.csv:2)",
            "train.csv:4: p3 has the same labels as p1 (train.csv:2)",
        ],
    )


def test_images_that_cannot_be_read_are_not_the_same(summary):
    broken = replace(summary, images=None)
    assert judged(broken, other(broken, images=None)) == ([], [])


def test_voxels_of_different_sizes_give_a_warning_unless_they_are_resampled(summary):
    coarse = other(summary, spacing_mm=(1.0, 1.0, 6.0))
    text = (
        "the voxels of the cases are from 1 x 1 x 1.5 to 2 x 1 x 6 mm large; "
        "consider the key 'resample'"
    )
    assert judged(summary, coarse) == ([], [text])
    assert judged(summary, coarse, spacings_mm=[(1.0, 1.0, 1.0)]) == ([], [])
    assert judged(summary, other(summary, spacing_mm=(2.001, 1.0, 1.5))) == ([], [])


def test_axes_that_point_different_ways_give_a_warning(summary):
    turned = [other(summary, orientation="LAS", images=str(i)) for i in range(2)]
    text = "the axes of the cases do not point the same way: 2 LAS, 1 RAS"
    assert judged(summary, *turned) == ([], [text])


# ---- Many processes ----
