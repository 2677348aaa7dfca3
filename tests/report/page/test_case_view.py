"""Slices of a case on a page: the right voxels, at the right place, in few bytes."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from deepseg.report.page.case_view import (
    UNKNOWN,
    CaseVolumes,
    case_view,
    clearest_channel,
    cropped,
    slices_to_view,
)

SHAPE = (20, 24, 16)
# A voxel of 1 x 2 x 3 mm; the first lies at (-5, 7, -9).
AFFINE = np.array([[1.0, 0, 0, -5], [0, 2, 0, 7], [0, 0, 3, -9], [0, 0, 0, 1]])


def volumes(**changes):
    rng = np.random.default_rng(0)
    truth = np.zeros(SHAPE, int)
    truth[12:17, 4:9, 6:10] = 2  # on the patient's left, at the back
    prediction = np.roll(truth, 1, axis=0)
    prediction[2, 20, 1] = 1
    values = {
        "name": "a",
        "channels": {"T1": rng.normal(size=SHAPE) + 5},
        "affine": AFFINE,
        "spacing_mm": (1.0, 2.0, 3.0),
        "prediction": prediction,
        "truth": truth,
        **changes,
    }
    return CaseVolumes(**values)


def pixels(text, plane):
    """Slices of an image of the page, ``(slices, height, width)``."""
    image = Image.open(BytesIO(base64.b64decode(text.partition(",")[2])))
    assert image.width == plane["width"]
    return np.asarray(image.convert("L")).reshape(-1, plane["height"], plane["width"])


def test_every_voxel_of_the_labels_is_where_a_radiologist_expects_it():
    case = volumes()
    for name, axis in {"axial": 2, "coronal": 1, "sagittal": 0}.items():
        plane = case_view(case)["planes"][name]
        shown = pixels(plane["prediction"], plane)
        assert len(shown) == len(plane["indices"])
        for slice_shown, index in zip(shown, plane["indices"], strict=True):
            # Rows from the top or front downwards, columns from the right of the patient or front.
            expected = case.prediction.take(index, axis=axis).T[::-1, ::-1]
            rows = (np.arange(plane["height"]) + 0.5) * expected.shape[0] / plane["height"]
            columns = (np.arange(plane["width"]) + 0.5) * expected.shape[1] / plane["width"]
            assert (slice_shown == expected[np.ix_(rows.astype(int), columns.astype(int))]).all()


def test_a_lesion_on_the_left_of_the_patient_is_at_the_right_of_the_picture():
    plane = case_view(volumes())["planes"]["axial"]
    truth = pixels(plane["truth"], plane)[plane["first"]]
    rows, columns = np.nonzero(truth == 2)
    assert columns.mean() < plane["width"] / 2  # X grows to the right: 12 to 16 of 20
    assert rows.mean() > plane["height"] / 2  # at the back: below
    assert plane["letters"] == ("R", "L", "A", "P")


def test_slices_say_where_they_lie_in_the_patient():
    planes = case_view(volumes())["planes"]
    for name, axis, start, mm in (
        ("axial", 2, -9, 3), ("coronal", 1, 7, 2), ("sagittal", 0, -5, 1),
    ):  # fmt: skip
        plane = planes[name]
        assert plane["of"] == SHAPE[axis]
        assert plane["positions_mm"] == [start + mm * index for index in plane["indices"]]
        assert (
            plane["indices"][plane["first"]]
            in {2: range(6, 10), 1: range(4, 9), 0: range(12, 18)}[axis]
        )


def test_unknown_truth_has_a_label_of_its_own():
    truth = np.zeros(SHAPE, int)
    truth[3:9] = -1
    plane = case_view(volumes(truth=truth))["planes"]["axial"]
    assert set(np.unique(pixels(plane["truth"], plane))) == {0, UNKNOWN}


def test_empty_space_is_cut_off_and_slices_keep_their_numbers():
    channel = np.zeros(SHAPE)
    channel[4:18, 6:20, 3:12] = 1 + np.random.default_rng(1).random((14, 14, 9))
    none = np.zeros(SHAPE, int)
    case = cropped(volumes(channels={"T1": channel}, prediction=none, truth=none))
    assert case.prediction.shape == (14, 14, 9)
    assert case.part_of == ((4, 6, 3), SHAPE)
    assert case.affine[:3, 3].tolist() == [-1, 19, 0]
    view = case_view(volumes(channels={"T1": channel}, prediction=none, truth=none))
    plane = view["planes"]["axial"]
    assert (plane["indices"][0], plane["indices"][-1], plane["of"]) == (3, 11, 16)
    assert plane["positions_mm"][0] == 0.0


def test_a_case_that_takes_many_bytes_is_shown_more_coarsely():
    noise = {f"channel {n}": np.random.default_rng(n).random((30, 30, 30)) for n in range(2)}
    labels = np.zeros((30, 30, 30), int)
    labels[5:25, 5:25, 5:25] = 1
    case = volumes(channels=noise, prediction=labels, truth=labels)
    fine, coarse = case_view(case), case_view(case, limit=200_000)
    assert len(str(coarse)) < 220_000 < len(str(fine))
    assert len(coarse["planes"]["axial"]["indices"]) < len(fine["planes"]["axial"]["indices"])


def test_most_slices_lie_where_the_foreground_is():
    foreground = np.zeros((5, 100, 7), bool)
    foreground[2, 40:60, 3] = True
    indices = slices_to_view(foreground, axis=1, most=15)
    assert indices[0] == 0
    assert indices[-1] == 99
    assert sum(40 <= index < 60 for index in indices) >= 10
    assert len(indices) <= 15


@pytest.mark.parametrize("inverted", [False, True])
def test_the_channel_is_shown_in_which_the_foreground_stands_out(inverted):
    foreground = np.zeros(SHAPE, bool)
    foreground[5:9, 5:10, 5:8] = True
    noise = np.random.default_rng(2).normal(size=(2, *SHAPE))
    clear = noise[1] + (-4 if inverted else 4) * foreground
    channels = {"T1": 100 * noise[0], "FLAIR": clear}
    assert clearest_channel(channels, foreground) == "FLAIR"
    assert clearest_channel(channels, np.zeros(SHAPE, bool)) == "T1"
