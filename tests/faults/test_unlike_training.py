"""Cases unlike those that a model has learnt from: refused, turned, or a warning with numbers."""

import nibabel
import numpy as np
import pytest

TEST = ("-test", "test.yaml", "-model", "M.save")
HEADER = "case,channel_T1,channel_FLAIR,labels,roi\n"
WHOLE = "d,d/T1.nii.gz,d/FLAIR.nii.gz,d/labels.nii.gz,d/roi.nii.gz\n"


def segmentation(place, session="results"):
    return nibabel.load(place / f"runs/{session}/predictions/d_Segm.nii.gz")


def test_a_case_without_the_roi_of_training_is_refused_or_accepted(command, refused, place, model):
    place.write("data/test.csv", HEADER + "d,d/T1.nii.gz,d/FLAIR.nii.gz,d/labels.nii.gz,\n")
    assert refused(*TEST, session="results") == [
        "[roi-missing] HERE/data/test.csv:2: got no ROI for 1 of 1 cases (d); expected a ROI for "
        "every case, as all training cases of M.save have one; fix: give the masks (a dataset.json "
        "has none: use a table); or write 'preparation: {roi: nonzero}' for masks of the voxels "
        "that are not 0; or accept whole images with 'inference.accept: [roi]'"
    ]
    settings = (place / "test.yaml").read_text()
    place.write("test.yaml", settings + "inference: {accept: [roi]}\n")
    assert command(*TEST).returncode == 0
    whole = np.asarray(segmentation(place).dataobj)
    place.write("test.yaml", settings + "preparation: {roi: nonzero}\n")
    assert command(*TEST).returncode == 0
    computed = np.asarray(segmentation(place).dataobj)
    # The mask of this case is where its images are not 0.
    place.write("data/test.csv", HEADER + WHOLE)
    place.write("test.yaml", settings)
    assert command(*TEST).returncode == 0
    assert np.array_equal(computed, np.asarray(segmentation(place).dataobj))
    assert not np.array_equal(whole, computed)


@pytest.mark.parametrize("beside", ["", WHOLE.replace("d,", "e,", 1)], ids=["alone", "beside"])
def test_a_channel_that_training_never_lacked_is_refused_by_its_name(refused, place, model, beside):
    lacking = "d,d/T1.nii.gz,-,d/labels.nii.gz,d/roi.nii.gz\n"
    place.write("data/test.csv", HEADER + lacking + beside)
    count = 2 if beside else 1
    assert refused(*TEST, session="results") == [
        f"[channel-lacking] HERE/data/test.csv:2: got no image of channel FLAIR for 1 of {count} "
        "cases (d); expected FLAIR for every case: no training case of M.save lacks it; fix: give "
        "the images; or accept 0 in their place with 'inference.accept: [channels]'"
    ]


def test_a_case_with_other_axes_is_turned_and_its_result_turned_back(command, place, model):
    assert command(*TEST).returncode == 0
    expected = np.asarray(segmentation(place).dataobj)
    for name in ("T1", "FLAIR", "labels", "roi"):
        image = place.image(f"d/{name}.nii.gz")
        nibabel.save(nibabel.as_closest_canonical(image), place / f"data/d/{name}.nii.gz")
    result = command(*TEST)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "1 of 1 cases have other axes than the model's LSA (1 RAS): turned for it, and results "
        "back" in result.stdout
    )
    turned = segmentation(place)
    assert nibabel.aff2axcodes(turned.affine) == ("R", "A", "S")
    assert np.array_equal(np.asarray(turned.dataobj), expected[::-1].transpose(0, 2, 1))


def test_an_outlier_and_padding_give_warnings_with_the_numbers(command, place, model):
    flair = place.array("d/FLAIR.nii.gz").astype(np.float32)
    roi = place.array("d/roi.nii.gz") > 0
    t1 = place.array("d/T1.nii.gz").astype(np.int16)
    t1[tuple(np.argwhere(roi)[::9].T)] = -3024
    flair[tuple(np.argwhere(roi)[7])] = 1e38
    place.store("d/T1.nii.gz", t1)
    place.store("d/FLAIR.nii.gz", flair, dtype=np.float32)
    result = command(*TEST)
    assert result.returncode == 0
    padding, outlier = result.warnings
    assert padding.startswith("WARNING T1 of d: 11.1")
    assert " of the voxels of d are -3024, all others lie from " in padding
    assert outlier.startswith("WARNING FLAIR of d: a voxel of d is 1e+38, nearly all others lie ")


def test_foreground_outside_the_roi_and_mirrored_sides_are_told(command, place):
    roi = place.array("a/roi.nii.gz")
    labels = place.array("a/labels.nii.gz")
    remaining = np.argwhere(labels > 0)[:50]
    roi[labels > 0] = 0
    roi[tuple(remaining.T)] = 1
    place.store("a/roi.nii.gz", roi)
    place.edit("model.yaml", "[background, rim, core]", "[background, left_rim, right_rim]")
    place.edit(
        "train.yaml", "  batch_size: 4", "  batch_size: 4\n  augmentation: {reflect: [1, 0, 0]}"
    )
    result = command("-check", "train.yaml")
    share = 1 - 50 / np.count_nonzero(labels)
    assert (
        f"WARNING {share:.0%} of the foreground of a lies outside the region of interest, where "
        "nothing is learnt and all is background"
    ) in result.warnings
    assert (
        "WARNING training.augmentation.reflect mirrors x, from side to side, but left_rim and "
        "right_rim are on one side each: leave x out"
    ) in result.warnings


def test_voxels_in_metres_are_refused_where_they_are_resampled(refused, place):
    for file in ("T1", "FLAIR", "labels", "roi"):
        place.store(f"a/{file}.nii.gz", place.array(f"a/{file}.nii.gz"), np.diag([0.001] * 3 + [1]))
    place.write("train.yaml", (place / "train.yaml").read_text() + "preparation: {resample: 2}\n")
    (line,) = refused("-check", "train.yaml")
    assert line.startswith(
        "[spacing-implausible] HERE/data/train.csv:2: a: got 24 x 22 x 20 voxels"
    )


def test_a_class_that_resampling_removes_is_named(command, place):
    settings = (place / "train.yaml").read_text().replace("epochs: 2", "epochs: 1")
    place.write("train.yaml", settings.partition("validation:")[0] + "epochs: 1\nworkers: 0\n"
                "subepochs: 1\npreparation: {resample: 8}\n")  # fmt: skip
    labels = place.array("a/labels.nii.gz")
    labels[labels == 2] = 1
    labels[tuple(np.argwhere(labels == 1)[0])] = 2
    place.store("a/labels.nii.gz", labels)
    result = command("-train", "train.yaml")
    assert any(
        "resampling leaves no voxel of core in " in line and "lower preparation.resample" in line
        for line in result.warnings
    ), result.stderr


def test_a_header_in_centimetres_is_a_warning_where_voxels_are_resampled(command, place):
    for file in ("T1", "FLAIR", "labels", "roi"):
        affine = np.diag([0.1, 0.1, 0.15, 1])
        place.store(f"a/{file}.nii.gz", place.array(f"a/{file}.nii.gz"), affine)
    place.write("train.yaml", (place / "train.yaml").read_text() + "preparation: {resample: 1}\n")
    assert (
        "WARNING a has voxels of 0.1 x 0.1 x 0.15 mm, all sides at least 5 times other than the "
        "1 x 1 x 1 mm to which they are resampled; correct the header if it counts in centimetres"
    ) in command("-check", "train.yaml").warnings


def begin_session(place, command, *changes):
    """Train one epoch with other settings or cases."""
    text = (place / "train.yaml").read_text().partition("validation:")[0]
    place.write("train.yaml", f"{text}epochs: 1\nsubepochs: 1\nworkers: 0\n{''.join(changes)}")
    result = command("-train", "train.yaml")
    assert result.returncode == 0, result.stderr
    (place / "runs/training/models/last.save").rename(place / "M.save")


def test_intensities_of_another_scale_are_told_where_nothing_is_normalised(command, place):
    begin_session(place, command, "preparation: {z_score: none}\n")
    place.store("d/T1.nii.gz", 1000.0 * place.array("d/T1.nii.gz"), dtype=np.float32)
    (warning,) = command(*TEST).warnings
    assert warning.startswith("WARNING T1 of d: intensities of d lie from ")
    assert warning.endswith("and T1 is not normalised: expect a worse segmentation")


def test_a_roi_where_training_had_none_is_told(command, place):
    place.write("data/train.csv", (place / "data/train.csv").read_text().replace(",roi\n", "\n"))
    for case in "ab":
        place.edit("data/train.csv", f",{case}/roi.nii.gz", "")
    begin_session(place, command)
    assert command(*TEST).warnings == [
        "WARNING a ROI for 1 of 1 cases (d), where z-scores are taken; the training cases of "
        "M.save have none: expect a worse segmentation"
    ]


@pytest.mark.parametrize(
    ("row", "code", "key"),
    [
        ("d,d/T1.nii.gz,d/FLAIR.nii.gz,d/labels.nii.gz,\n", "roi-missing", "roi"),
        ("d,d/T1.nii.gz,,d/labels.nii.gz,d/roi.nii.gz\n", "channel-lacking", "channels"),
    ],
)
def test_fine_tuning_compares_its_cases_with_those_of_the_model(
    refused, command, place, model, row, code, key
):
    place.write("data/train.csv", HEADER + WHOLE + row.replace("d,", "e,", 1))
    text = (place / "train.yaml").read_text().partition("validation:")[0]
    place.write("train.yaml", f"{text}epochs: 1\nsubepochs: 1\nworkers: 0\n")
    arguments = ("-train", "train.yaml", "-model", model, "-resetOptimizer")
    (line,) = refused(*arguments, session="training")
    assert line.startswith(f"[{code}] HERE/data/train.csv:3: got no ")
    assert f"'accept: [{key}]'" in line
    place.write("train.yaml", (place / "train.yaml").read_text() + f"accept: [{key}]\n")
    assert command(*arguments).returncode == 0


def test_training_cases_with_other_axes_are_turned_and_give_the_same_weights(
    command, place, same_weights
):
    begin_session(place, command)
    expected = place / "straight.save"
    (place / "M.save").rename(expected)
    (place / "runs").rename(place / "runs-before")
    for name in ("T1", "FLAIR", "labels", "roi"):
        image = nibabel.as_closest_canonical(place.image(f"b/{name}.nii.gz"))
        nibabel.save(image, place / f"data/b/{name}.nii.gz")
    result = command("-train", "train.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "1 of 2 training cases have other axes than the model's LSA (1 RAS): turned for it, and "
        "results back"
    ) in result.stdout
    same_weights(expected, place / "runs/training/models/last.save")
