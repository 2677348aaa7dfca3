"""Images as people have them, through the command line: right, or refused with the true reason."""

import csv
import os

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from tests.dicom_files import write_series

# The grid of the test cases as DICOM counts it: to the left, upwards, to the front.
GRID = {"spacing": (1, 2, 1.5), "row": (1, 0, 0), "column": (0, 0, 1)}
PLACES = [(-11, 9 - 1.5 * k, -7) for k in range(20)]


def segmentation(place, case="d"):
    file = place / f"runs/results/predictions/{case}_Segm.nii.gz"
    return np.asarray(nibabel.load(file).dataobj)


def scores(place, case="d"):
    """The row of the foreground in cases.csv."""
    with (place / "runs/results/cases.csv").open(encoding="utf-8") as file:
        rows = {(row["case"], row["class"]): row for row in csv.DictReader(file)}
    return rows[case, "foreground"]


def use_series(place, stored, **settings):
    """Give channel T1 of the test case as a DICOM series."""
    write_series(place / "data/d/T1", stored, **{**GRID, "positions": PLACES, **settings})
    place.edit("data/test.csv", "d/T1.nii.gz", "d/T1")


def test_a_series_with_a_slope_for_every_slice_gives_the_result_of_its_nifti(place, model, command):
    slopes = [1, *np.linspace(0.003, 0.05, 19).round(4)]
    stored = np.rint(place.array("d/T1.nii.gz") / 10 / slopes).clip(-32768, 32767).astype(int)
    place.store("d/T1.nii.gz", stored * slopes, dtype=np.float64)
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    expected = segmentation(place)
    use_series(place, stored, slopes=slopes)
    result = command("-test", "test.yaml", "-model", model)
    assert (result.returncode, result.warnings) == (0, [])
    assert np.array_equal(segmentation(place), expected)
    assert len(np.unique(expected)) > 1


def test_a_film_is_refused_by_the_name_of_its_series(place, model, refused):
    use_series(place, place.array("d/T1.nii.gz"), positions=PLACES[:1] * 20)
    (line,) = refused("-test", "test.yaml", "-model", model, session="results")
    assert line.startswith(
        "[dicom-series] HERE/data/d/T1: got series 7 (CT, UID 1.2.3.10, 20 files): "
        "20 slices at 1 place, up to 20 at one"
    )


def test_an_image_replaced_by_one_of_the_same_size_and_date_is_computed_again(
    place, model, command
):
    path = place / "data/d/FLAIR.nii"
    nibabel.save(place.image("d/FLAIR.nii.gz"), path)
    place.edit("data/test.csv", "FLAIR.nii.gz", "FLAIR.nii")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    before, state = segmentation(place), path.stat()
    image = place.image("d/FLAIR.nii.gz")
    mirrored = np.asarray(image.dataobj)[::-1]
    nibabel.save(nibabel.Nifti1Image(mirrored, None, image.header), path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert not np.array_equal(segmentation(place), before)


def test_distances_on_a_tilted_grid_are_those_of_the_centres_of_voxels(place, model, command):
    axes = np.array([[-1.0, 0, 0, 11], [0, 0, 1.5, -9], [0, 2, 0.9, -7], [0, 0, 0, 1]])
    for name in ("T1", "FLAIR", "labels", "roi"):
        image = place.image(f"d/{name}.nii.gz")
        header = image.header.copy()
        header.set_qform(None, code=0)
        header.set_sform(axes, code=1)
        array = np.roll(np.asarray(image.dataobj), 2 * (name == "labels"), axis=2)
        nibabel.save(nibabel.Nifti1Image(array, None, header), place / f"data/d/{name}.nii.gz")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    masks = segmentation(place) > 0, place.array("d/labels.nii.gz") > 0
    first, second = (np.argwhere(m & ~binary_erosion(m)) @ axes[:3, :3].T for m in masks)
    distances = np.linalg.norm(first[:, None] - second, axis=2)
    there, back = distances.min(axis=1), distances.min(axis=0)
    row = scores(place)
    hausdorff = max(np.percentile(there, 95), np.percentile(back, 95))
    assert float(row["hausdorff95_mm"]) == pytest.approx(hausdorff, rel=1e-4)
    mean = np.concatenate([there, back]).mean()
    assert float(row["surface_distance_mm"]) == pytest.approx(mean, rel=1e-4)


def test_one_value_per_feature_map_is_refused_before_training(place, refused):
    place.edit("model.yaml", "train: 9", "train: 5")
    place.edit("train.yaml", "batch_size: 4", "batch_size: 7")
    (line,) = refused("-train", "train.yaml", session="training")
    assert line.startswith(
        "[batch-norm-one-value] train.yaml: got one value per feature map for the batch "
        "normalisation of fc.1, in the last batch of 8 segments by 7: 1 segment of 5 x 5 x 5 voxels"
    )


@pytest.mark.parametrize("length", [1.0000004, 1.000005])
def test_a_quaternion_that_is_too_long_by_rounding_is_no_fault(place, model, command, length):
    for name in ("T1", "FLAIR", "labels", "roi"):
        place.patch(f"d/{name}.nii.gz", 252, np.array([1, 0], "<i2").tobytes())
        place.patch(f"d/{name}.nii.gz", 256, np.array([length, 0, 0], "<f4").tobytes())
    result = command("-check", "test.yaml", "-model", model)
    assert (result.returncode, result.errors) == (0, [])
