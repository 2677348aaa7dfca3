"""Images from Python: arrays, nibabel images and files as one case; all faults come at once."""

import nibabel
import numpy as np
import pytest

from deepseg.errors import DeepsegError
from deepseg.inference.image_input import Placement, case_images

CHANNELS = ("T1", "FLAIR")
SHAPE = (4, 5, 6)
AFFINE = np.array([[0, -2.0, 0, 9], [1.5, 0, 0, -4], [0, 0, 3, 7], [0, 0, 0, 1]])


def arrays():
    return np.random.default_rng(0).normal(size=(2, *SHAPE))


def problems(images, roi=None, **place):
    with pytest.raises(DeepsegError) as error:
        case_images(images, CHANNELS, placement=Placement(**place), roi=roi)
    return [str(problem) for problem in error.value.problems]


def test_all_forms_of_images_are_the_same_case(tmp_path):
    both = arrays().astype(np.float32)
    files = [tmp_path / f"{name}.nii.gz" for name in CHANNELS]
    images = [nibabel.Nifti1Image(array, AFFINE) for array in both]
    for image, file in zip(images, files, strict=True):
        nibabel.save(image, file)
    whole = nibabel.Nifti1Image(np.moveaxis(both, 0, -1), AFFINE)
    place = Placement(affine=AFFINE)
    forms = [
        (both, place),
        (list(both), place),
        ({"FLAIR": both[1], "T1": both[0]}, place),
        ({"FLAIR": images[1], "T1": both[0]}, place),
        (images, Placement()),
        (whole, Placement()),
        (files, Placement()),
        ([str(files[0]), images[1]], Placement()),
    ]
    for form, placement in forms:
        case = case_images(form, CHANNELS, placement=placement)
        for number, array in enumerate(both):
            volume = case.channel(number)
            assert volume.array.dtype == np.float32
            assert np.array_equal(volume.array, array)
            assert np.array_equal(volume.geometry.affine, AFFINE)


def test_the_arrays_of_the_caller_are_not_given_away():
    both = arrays().astype(np.float32)
    before = both.copy()
    case = case_images(both, CHANNELS, placement=Placement(spacing_mm=1))
    case.channel(0).array[:] = 7
    assert np.array_equal(both, before)


def test_a_spacing_stands_for_an_affine_without_rotation():
    case = case_images(arrays(), CHANNELS, placement=Placement(spacing_mm=(1, 2, 3)))
    assert np.array_equal(case.channel(0).geometry.affine, np.diag([1.0, 2, 3, 1]))


def test_a_channel_may_be_missing():
    case = case_images([None, arrays()[1]], CHANNELS, placement=Placement(spacing_mm=1))
    assert (case.first, case.channel(0)) == (1, None)
    assert case.channel(1).array.shape == SHAPE


def test_a_roi_is_an_array_an_image_or_a_file(tmp_path):
    roi = arrays()[0] > 0
    image = nibabel.Nifti1Image(roi.astype(np.uint8) * 3, AFFINE)
    nibabel.save(image, tmp_path / "roi.nii")
    for form in (roi, roi.astype(float), image, tmp_path / "roi.nii"):
        case = case_images(arrays(), CHANNELS, placement=Placement(affine=AFFINE), roi=form)
        assert case.roi.array.dtype == bool
        assert np.array_equal(case.roi.array, roi)


def test_images_that_lie_slightly_apart_are_used_with_a_warning():
    near = AFFINE.copy()
    near[0, 3] += 0.3
    images = [nibabel.Nifti1Image(a, m) for a, m in zip(arrays(), (AFFINE, near), strict=True)]
    lines = []
    case_images(images, CHANNELS, placement=Placement(), warn=lines.append)
    assert lines == [
        "channel FLAIR: its voxels lie up to 0.3 mm (0.15 voxels) away from channel T1; they are "
        "used as they are"
    ]


def test_the_wrong_number_of_images():
    assert problems(arrays()[:1], spacing_mm=1) == [
        "[channel-count] got 1 image; expected 2, one per channel: T1, FLAIR; fix: give the images "
        "in this order, or by name; None for a missing one"
    ]
    assert problems({"T1": arrays()[0], "FLAIRE": arrays()[1]}, spacing_mm=1) == [
        "[channel-unknown] got channel 'FLAIRE'; expected channels of the model: T1, FLAIR; fix: "
        "correct the name; did you mean 'FLAIR'?",
        "[channel-count] got no image of FLAIR; expected 2, one per channel: T1, FLAIR; fix: give "
        "them too, or None (NAME= on the command line) for a channel that "
        "the case lacks",
    ]
    assert problems([None, None]) == [
        "[case-without-channels] got no image; expected at least one of the channels; fix: give an "
        "image"
    ]


def test_everything_that_is_wrong_with_voxels_comes_at_once():
    first, second = arrays()
    first[1, 2, 3] = np.nan
    fraction = np.full((4, 5, 7), 0.5)
    assert problems([first, second], roi=fraction, spacing_mm=1) == [
        "[image-not-finite] channel T1: got 1 voxel that is NaN or infinite, the first at voxel "
        "(1, 2, 3); expected a finite number in every voxel; fix: repair the image, or replace "
        "these voxels, as by numpy.nan_to_num",
        "[mask-not-binary] roi: got 140 voxels that are neither 0 nor a positive whole number, the "
        "first at voxel (0, 0, 0); expected 0 or False outside and 1 or True inside; fix: "
        "threshold it",
    ]


def test_images_that_differ_in_shape_or_place():
    far = AFFINE.copy()
    far[2, 3] += 3
    shifted = nibabel.Nifti1Image(arrays()[1], far)
    roi = np.ones((4, 5, 7), bool)
    assert problems({"T1": arrays()[0], "FLAIR": shifted}, roi=roi, affine=AFFINE) == [
        "[geometry-mismatch] channel FLAIR: got voxels that lie up to 3 mm (1 voxels) away from "
        "channel T1; expected the same place in space, or at most 0.5 voxels away; fix: resample "
        "one onto the other, or correct its affine matrix",
        "[shape-mismatch] roi: got 4 x 5 x 7 voxels; expected 4 x 5 x 6, as channel T1 has; fix: "
        "resample one onto the other",
    ]


def test_images_that_are_none():
    assert problems([arrays(), arrays()[0] * 1j], spacing_mm=1) == [
        "[image-not-3d] channel T1: got an image of shape (2, 4, 5, 6); expected 3D, with at least "
        "one voxel along X, Y and Z; fix: give one 3D image per channel, or an array (C, X, Y, Z)",
        "[image-dtype] channel FLAIR: got voxels of type complex128; expected integers or floats; "
        "fix: convert the image",
    ]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (
            {"spacing_mm": (1, 0, 2)},
            "[spacing-invalid] spacing_mm: got sides of 1 x 0 x 2 mm; expected three sides above "
            "0, or one for cubes; fix: give the sides of the voxels along X, Y, Z",
        ),
        (
            {"affine": np.eye(3)},
            "[affine-singular] affine: got an affine matrix of shape (3, 3); expected a matrix of "
            "shape (4, 4) that gives every voxel its own place; fix: give the affine matrix of the "
            "image, or spacing_mm",
        ),
        (
            {"affine": np.zeros((4, 4))},
            "[affine-singular] affine: got a singular affine matrix; expected an affine matrix "
            "that gives every voxel its own place; fix: write the image again with the affine "
            "matrix of its source",
        ),
        (
            {"affine": AFFINE, "spacing_mm": 1},
            "[geometry-twice] got both affine and spacing_mm; expected the place of the voxels "
            "once; fix: give affine or spacing_mm for arrays, and neither for images that have a "
            "place",
        ),
    ],
)
def test_a_wrong_place_is_said_once(place, expected):
    assert problems(arrays(), **place) == [expected]


def test_an_array_needs_a_place_and_an_image_no_other():
    image = nibabel.Nifti1Image(arrays()[1], AFFINE)
    assert problems([arrays()[0], image]) == [
        "[geometry-missing] channel T1: got an array without a place; expected an affine matrix or "
        "the sides of its voxels; fix: give affine, or spacing_mm such as (1, 1, 1)"
    ]
    assert problems([image, image], affine=AFFINE) == [
        "[geometry-twice] got a place for images that have their own; expected the place of the "
        "voxels once; fix: give affine or spacing_mm for arrays, and neither for images that have "
        "a place"
    ]


def test_a_file_that_is_not_there_is_a_problem_like_the_others(tmp_path):
    first, second = problems([tmp_path / "none.nii", arrays()[0] * np.inf], spacing_mm=1)
    assert first.startswith(f"[file-missing] {tmp_path / 'none.nii'}: got no such file")
    assert second.startswith("[image-not-finite] channel FLAIR: got 120 voxels")
