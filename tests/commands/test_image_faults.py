"""Faults in images, labels and masks: refused with file, reason and remedy, or read as meant."""

import gzip
import re
import struct

import numpy as np
import pytest

COPY = "expected an image; fix: copy or download the file again from its source"
T1 = "b/T1.nii.gz"
FLAIR = "b/FLAIR.nii.gz"
LABELS = "b/labels.nii.gz"
ROI = "b/roi.nii.gz"
DIMENSIONS, SIDES, QFORM_CODE = 42, 80, 252  # bytes in the header of a NIfTI file


def halved(content):
    return content[: len(content) // 2]


def with_other_checksum(content):
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            with_other_checksum,
            r"\[image-damaged\] {}: got a damaged gzip stream \(CRC check failed 0x\w+ != 0x\w+\)",
            id="a wrong checksum",
        ),
        pytest.param(
            halved,
            r"\[image-truncated\] {}: got a gzip stream that ends early \(\d+ bytes unpacked\)",
            id="half a file",
        ),
        pytest.param(
            lambda content: content[:-8],
            r"\[image-truncated\] {}: got a gzip stream that ends early \(21472 bytes unpacked\)",
            id="the last eight bytes cut off",
        ),
        pytest.param(
            lambda _: b"", r"\[image-truncated\] {}: got an empty file", id="an empty file"
        ),
    ],
)
def test_a_damaged_file_is_never_read(refused, place, change, problem):
    place.damage(f"data/{T1}", change)
    (result,) = refused("-train", "train.yaml", session="training")
    pattern = problem.format(r"HERE/data/b/T1\.nii\.gz") + f"; {COPY}"
    assert re.fullmatch(pattern, result), result


def test_half_of_an_image_that_is_not_zipped_is_refused(refused, place):
    content = gzip.decompress((place / "data" / T1).read_bytes())
    (place / "data/b/T1.nii").write_bytes(halved(content))
    place.edit("data/train.csv", T1, "b/T1.nii")
    assert refused("-train", "train.yaml", session="training") == [
        "[image-truncated] HERE/data/b/T1.nii: got 10736 bytes; expected 21472 bytes: "
        "24 x 22 x 20 voxels of int16 from byte 352 on; "
        "fix: copy or download the file again from its source"
    ]


@pytest.mark.parametrize(
    ("content", "got", "fix"),
    [
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer",
            "fetch the file itself: git lfs pull",
            id="a Git LFS pointer",
        ),
        pytest.param(
            b"<!DOCTYPE html>\n<html></html>\n",
            "a web page",
            "download it again; the server sent a page, often one that asks to log in",
            id="a web page",
        ),
    ],
)
def test_what_stands_in_for_an_image_is_named(refused, place, content, got, fix):
    (place / "data" / T1).write_bytes(content)
    assert refused("-train", "train.yaml", session="training") == [
        f"[image-damaged] HERE/data/{T1}: got {got}; expected an image; fix: {fix}"
    ]


def test_dimensions_that_no_file_has_take_no_memory(refused, place):
    for name in (T1, FLAIR, LABELS, ROI):
        place.patch(name, DIMENSIONS, struct.pack("<3h", 32767, 32767, 32767))
    problems = refused("-train", "train.yaml", session="training")
    assert len(problems) == 4
    assert all(problem.startswith("[image-truncated]") for problem in problems)


def test_voxels_without_a_number_are_counted_and_the_first_is_named(refused, place):
    array = place.array(T1).astype(np.float32)
    array[3, 4, 5] = np.nan
    array[5, 0, 0] = np.inf
    place.store(T1, array)
    (problem,) = refused("-train", "train.yaml", session="training")
    assert problem.startswith(
        f"[image-not-finite] HERE/data/{T1}: got 2 voxels that are NaN or infinite, the first at "
        "voxel (3, 4, 5); expected a finite number in every voxel; fix: repair the image"
    )


def test_the_key_nan_makes_it_a_warning(command, place):
    array = place.array(T1).astype(np.float32)
    array[3, 4, 5] = np.nan
    place.store(T1, array)
    table = "    table: data/train.csv"
    place.edit("train.yaml", table, f"{table}\n    nan: replace")
    result = command("-train", "train.yaml")
    assert (result.returncode, result.stderr) == (
        0,
        f"WARNING HERE/data/{T1}: 1 voxel that is NaN or infinite, the first at voxel (3, 4, 5); "
        "read as 0\n",
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            lambda array: np.stack([array, array], axis=-1),
            "[image-not-3d] {}: got 4D with 2 volumes; expected 3D, one volume per file; "
            "fix: save them as one file each; list them as channels",
            id="two volumes",
        ),
        pytest.param(
            lambda array: array.astype(np.complex64),
            "[image-dtype] {}: got voxels of type complex64; expected one integer of at most 32 "
            "bits (64 if signed, or in labels) or one float of at most 64 bits per voxel; "
            "fix: convert the image, with one file per channel",
            id="complex numbers",
        ),
    ],
)
def test_images_that_are_no_channel_are_refused(refused, place, change, problem):
    place.store(T1, change(place.array(T1)))
    assert refused("-train", "train.yaml", session="training") == [
        problem.format(f"HERE/data/{T1}")
    ]


def test_a_flat_channel_is_not_stretched_over_the_other(refused, place):
    place.store(FLAIR, place.array(FLAIR)[:, :, 9:10])
    assert refused("-train", "train.yaml", session="training") == [
        f"[shape-mismatch] HERE/data/{FLAIR}: got 24 x 22 x 1 voxels; expected 24 x 22 x 20, as "
        f"HERE/data/{T1} has; fix: resample one onto the other, or correct the file in "
        "HERE/data/train.csv:3"
    ]


@pytest.mark.parametrize(
    ("shift", "distance"),
    [
        pytest.param(40.0, "40 mm (40 voxels)", id="40 mm to the right"),
        pytest.param(0.75, "0.75 mm (0.75 voxels)", id="three quarters of a voxel"),
    ],
)
def test_labels_that_lie_elsewhere_are_refused_with_the_distance(refused, place, shift, distance):
    affine = place.image(LABELS).affine
    affine[0, 3] += shift
    place.store(LABELS, place.array(LABELS), affine)
    assert refused("-train", "train.yaml", session="training") == [
        f"[geometry-mismatch] HERE/data/{LABELS}: got voxels that lie up to {distance} away from "
        f"HERE/data/{T1}; expected the same place in space, or at most 0.5 voxels away; "
        "fix: resample one onto the other or correct its header; if the voxels belong together "
        "as they are, set 'trust_arrays: true'"
    ]


def test_a_mirrored_label_file_is_refused(refused, place):
    affine = place.image(LABELS).affine @ np.diag([-1, 1, 1, 1])
    place.store(LABELS, place.array(LABELS), affine)
    (problem,) = refused("-train", "train.yaml", session="training")
    assert problem.startswith(f"[geometry-mismatch] HERE/data/{LABELS}: got voxels that lie")


@pytest.mark.parametrize(
    ("shift", "warnings"),
    [
        pytest.param(1e-6, [], id="a millionth of a voxel says nothing"),
        pytest.param(
            0.3,
            [
                f"WARNING HERE/data/{LABELS}: its voxels lie up to 0.3 mm (0.3 voxels) away from "
                f"HERE/data/{T1}; they are used as they are"
            ],
            id="a third of a voxel warns",
        ),
    ],
)
def test_labels_that_lie_almost_there_are_used(command, place, shift, warnings):
    affine = place.image(LABELS).affine
    affine[0, 3] += shift
    place.store(LABELS, place.array(LABELS), affine)
    result = command("-train", "train.yaml")
    assert (result.returncode, result.errors, result.warnings) == (0, [], warnings)


def test_images_without_a_place_in_space_are_a_warning(command, place):
    for name in (T1, FLAIR, LABELS, ROI):
        place.patch(name, QFORM_CODE, bytes(4))
    result = command("-train", "train.yaml")
    assert result.returncode == 0
    assert any(f"HERE/data/{T1}" in line and "left" in line for line in result.warnings)


def test_voxels_without_extent_are_refused(refused, place):
    place.patch(T1, SIDES, struct.pack("<f", 0.0))
    place.patch(T1, QFORM_CODE, struct.pack("<2h", 1, 0))
    (problem,) = refused("-train", "train.yaml", session="training")
    assert problem.startswith(f"[spacing-invalid] HERE/data/{T1}: got voxels with sides of 0 x")


def relabelled(place, **new):
    """Give some voxels of the corner, and all of a class, other labels."""
    array = place.array(LABELS).astype(np.int16)
    for old, value in new.items():
        array[array == int(old.removeprefix("_"))] = value
    place.store(LABELS, array)


def test_label_4_without_a_class_gives_the_line_to_paste(refused, place, command):
    relabelled(place, _2=4)
    assert refused("-train", "train.yaml", session="training") == [
        f"[label-values] HERE/data/{LABELS}: got labels {{0, 1, 4}} (4: 116 voxels); expected "
        "labels 0 to 2 (3 classes); fix: set 'label_map: {4: 2}' as it fits your data, or give "
        "the model 5 classes"
    ]
    table = "    table: data/train.csv"
    place.edit("train.yaml", table, f"{table}\n    label_map: {{4: 2}}")
    result = command("-train", "train.yaml")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            lambda array: np.where(array > 0, 255, 0).astype(np.uint8),
            "[label-values] {}: got labels {{0, 255}} (255: 697 voxels); expected labels 0 to 2 "
            "(3 classes); fix: set 'label_map: {{255: 2}}' as it fits your data",
            id="a mask of 255",
        ),
        pytest.param(
            lambda array: array.astype(np.int16) - 1,
            "[label-values] {}: got labels {{-1, 0, 1}} (-1: 9863 voxels); expected labels 0 to 2 "
            "(3 classes); fix: set 'label_map: {{-1: 0, 0: 1, 1: 2}}' as it fits your data",
            id="labels from -1",
        ),
        pytest.param(
            lambda array: (np.arange(array.size).reshape(array.shape) % 265 - 1024).astype("i2"),
            "[label-values] {}: got 265 different values from -1024 to -760, which looks like an "
            "image; expected labels 0 to 2 (3 classes); fix: correct the label file in "
            "HERE/data/train.csv:3",
            id="an image",
        ),
        pytest.param(
            lambda array: np.where(array == 2, np.float32(1.2), array),
            "[labels-not-integers] {}: got 116 voxels that are not a whole number, the first 1.2 "
            "at voxel (8, 11, 9); expected whole numbers (at most 0.001 beside one); fix: give "
            "the label file, not an image or a probability map, and resample labels with nearest "
            "neighbours",
            id="labels between two classes",
        ),
    ],
)
def test_labels_of_no_class_are_refused_with_their_counts(refused, place, change, problem):
    place.store(LABELS, change(place.array(LABELS)))
    assert refused("-train", "train.yaml", session="training") == [
        problem.format(f"HERE/data/{LABELS}")
    ]


def test_a_class_in_no_training_case_is_refused_unless_allowed(refused, command, place):
    for case in ("a", "b"):
        name = f"{case}/labels.nii.gz"
        place.store(name, np.minimum(place.array(name), 1))
    assert refused("-train", "train.yaml", session="training") == [
        "[class-in-no-case] train.yaml: got no voxel of class 2 (core) in any of the training "
        "cases; expected every class of the model in at least one case; fix: check the labels and "
        "the label_map, or set 'allow_missing_classes: true'"
    ]
    table = "    table: data/train.csv"
    place.edit("train.yaml", table, f"{table}\n    allow_missing_classes: true")
    result = command("-train", "train.yaml")
    assert (result.returncode, result.stderr) == (
        0,
        "WARNING no voxel of class 2 (core) in any of the training cases\n",
    )


def test_an_image_in_place_of_the_labels_is_recognised(refused, place):
    (place / "data" / LABELS).write_bytes((place / "data" / T1).read_bytes())
    problems = refused("-train", "train.yaml", session="training")
    assert problems[0] == (
        f"[labels-are-image] HERE/data/{LABELS}: got the same bytes as HERE/data/{T1}; expected "
        "labels, not one of the images; fix: correct the label file in HERE/data/train.csv:3"
    )


def test_a_probability_map_is_no_mask(refused, place):
    place.store(ROI, place.array(ROI) * np.float32(0.5))
    (problem,) = refused("-train", "train.yaml", session="training")
    assert problem.startswith(
        f"[mask-not-binary] HERE/data/{ROI}: got 3066 voxels that are neither 0 nor a positive "
        "whole number, the first 0.5 at voxel "
    )


def test_empty_masks_everywhere_are_refused(refused, place):
    for case in ("a", "b"):
        name = f"{case}/roi.nii.gz"
        place.store(name, np.zeros_like(place.array(name)))
    assert refused("-train", "train.yaml", session="training") == [
        "[roi-empty] train.yaml: got an empty region of interest in every case; expected voxels "
        "to learn from; fix: correct the masks, or leave out the roi"
    ]


def test_a_case_with_a_mask_of_one_corner_voxel_is_left_out_by_name(command, place):
    mask = np.zeros_like(place.array(ROI))
    mask[0, 0, 0] = 1
    place.store(ROI, mask)
    result = command("-train", "train.yaml")
    assert (result.returncode, result.errors) == (0, [])
    assert f"WARNING HERE/data/{ROI}: the region of interest has only 1 voxel" in result.warnings
    assert result.warnings[-1] == (
        "WARNING case b has no voxel to centre a segment on and is left out"
    )


def test_a_case_of_background_only_is_a_warning(command, place):
    place.store(LABELS, np.zeros_like(place.array(LABELS)))
    result = command("-train", "train.yaml")
    assert (result.returncode, result.stderr) == (
        0,
        f"WARNING HERE/data/{LABELS}: it is all background\n",
    )


@pytest.fixture
def weights(place):
    return place / "runs/training/models/last.save"


@pytest.mark.parametrize(
    ("factor", "dtype"),
    [
        pytest.param(1, "<i8", id="64 bits"),
        pytest.param(1, ">i2", id="big-endian"),
        pytest.param(0.9999999, "<f4", id="floats below the number"),
        pytest.param(0.99999997, "<f8", id="doubles below the number"),
        pytest.param(0.99999997, "<i2", id="integers with a slope"),
    ],
)
def test_labels_and_masks_mean_the_same_in_every_number_format(
    command, place, trained, same_weights, weights, factor, dtype
):
    for name in (LABELS, ROI):
        array = place.array(name)
        scaled = array.astype(dtype) if factor == 1 else array * np.float64(factor)
        place.store(name, scaled, dtype=dtype)
        assert (place.array(name) == array).all() == (factor == 1)
    result = command("-train", "train.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    same_weights(weights, trained / "runs/training/models/last.save")


@pytest.mark.parametrize("dtype", [">i2", "<i4", "<i8", "<f4", ">f4", "<f8"])
def test_images_mean_the_same_in_every_number_format(command, place, model, dtype):
    results = []
    for kind in ("<i2", dtype):
        for name in ("d/T1.nii.gz", "d/FLAIR.nii.gz"):
            place.store(name, place.array(name).astype(kind))
        assert place.image("d/T1.nii.gz").get_data_dtype() == np.dtype(kind)
        result = command("-test", "test.yaml", "-model", model)
        assert (result.returncode, result.stderr) == (0, "")
        results.append((place / "runs/results/predictions/d_Segm.nii.gz").read_bytes())
    assert results[0] == results[1]
