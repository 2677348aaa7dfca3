"""``-segment``: files given by name become the same segmentation as by a test file."""

import shutil

import nibabel
import numpy as np
import pytest

T1, FLAIR, ROI = "data/d/T1.nii.gz", "data/d/FLAIR.nii.gz", "data/d/roi.nii.gz"


def labels(path):
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def test_named_files_become_what_a_test_file_makes_of_them(model, place, command):
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    expected, affine = labels(place / "runs/results/predictions/d_Segm.nii.gz")
    words = (f"FLAIR={FLAIR}", f"roi={ROI}", f"T1={T1}")
    result = command("-segment", model, *words, "-out", "mine")
    assert (result.returncode, result.warnings) == (0, [])
    segmented, place_of_it = labels(place / "mine/FLAIR_Segm.nii.gz")
    np.testing.assert_array_equal(segmented, expected)
    np.testing.assert_array_equal(place_of_it, affine)
    rim_ml = (expected == 1).sum() * 0.003
    assert f"rim    {rim_ml:.3f}\n" in result.stdout


def test_files_without_names_are_the_channels_in_their_order(model, place, command, refused):
    shutil.copy(place / T1, place / "a.nii.gz")
    shutil.copy(place / FLAIR, place / "b.nii.gz")
    assert refused("-segment", model, "a.nii.gz", "b.nii.gz")[0].startswith("[roi-missing]")
    result = command("-segment", model, "T1=a.nii.gz", "FLAIR=b.nii.gz", "roi=nonzero")
    assert result.returncode == 0
    by_name, _ = labels(place / "segmentations/a_Segm.nii.gz")
    named = command("-segment", model, f"T1={T1}", f"FLAIR={FLAIR}", f"roi={ROI}", "-out", "other")
    assert named.returncode == 0
    np.testing.assert_array_equal(by_name, labels(place / "other/T1_Segm.nii.gz")[0])


def test_nothing_is_written_over(model, place, refused):
    (place / "segmentations").mkdir()
    place.write("segmentations/T1_Segm.nii.gz", "mine")
    assert refused("-segment", model, f"T1={T1}", f"FLAIR={FLAIR}", f"roi={ROI}") == [
        "[file-exists] segmentations/T1_Segm.nii.gz: got a file that is there; expected a name "
        "that is free; fix: choose another -out, or remove the file"
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            (),
            "[command-line] M.save: got -segment without an image; expected -segment MODEL "
            "IMAGE..., or T1=FILE ...; fix: name the images behind the model",
        ),
        (
            (T1, f"FLAIR={FLAIR}"),
            "[command-line] M.save: got images with and without a name; expected -segment MODEL "
            "IMAGE..., or T1=FILE ...; fix: give all of them as NAME=FILE, or none",
        ),
        (
            (f"T1={T1}", f"T1={FLAIR}"),
            "[command-line] M.save: got two images with one name; expected -segment MODEL "
            "IMAGE..., or T1=FILE ...; fix: give every channel once",
        ),
        (
            (T1,),
            "[channel-count] M.save: got 1 image; expected 2, one per channel: T1, FLAIR; "
            "fix: give them in this order, or by name as T1=FILE; T1= for a channel that "
            "is missing",
        ),
        (
            (f"T1={T1}", f"FLAR={FLAIR}", f"roi={ROI}"),
            "[channel-unknown] M.save: got channel 'FLAR'; expected channels of the model: T1, "
            "FLAIR; fix: correct the name; did you mean 'FLAIR'?",
        ),
    ],
)
def test_wrong_words_are_told(model, place, refused, words, line):
    assert refused("-segment", model, *words)[0] == line


def test_a_missing_channel_is_refused_by_name(model, place, refused):
    (line,) = refused("-segment", model, f"T1={T1}", "FLAIR=", f"roi={ROI}")
    assert line.startswith("[channel-lacking]")
    assert "FLAIR" in line


def test_two_images_with_one_name_are_refused(place, command, refused):
    place.edit("model.yaml", "[T1, FLAIR]", "[T1]")
    assert command("-newModel", "model.yaml", "-out", "one.save").returncode == 0
    words = ("data/c/T1.nii.gz", "data/d/T1.nii.gz")
    assert refused("-segment", "one.save", *words) == [
        "[file-exists] segmentations/T1_Segm.nii.gz: got results of two images; expected a name "
        "that is free; fix: give images with different names, or one at a time with another -out"
    ]
