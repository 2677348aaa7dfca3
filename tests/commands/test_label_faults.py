"""Labels that nobody has given, or that mean something else than the model's classes."""

import csv

import numpy as np
import pytest

LABELS = "d/labels.nii.gz"


def dice(place):
    rows = csv.DictReader((place / "runs/results/cases.csv").read_text().splitlines())
    return {row["class"]: row["dice"] for row in rows}


@pytest.fixture
def truth(place, model, command):
    """The model's own segmentation of the test case, as its labels."""
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    segmentation = place.array("../runs/results/predictions/d_Segm.nii.gz").astype(np.int16)
    (place / "runs/results").rename(place / "first")
    assert set(np.unique(segmentation)) == {0, 1, 2}
    return segmentation


def test_ignored_voxels_enter_no_score(place, model, command, truth):
    marked = truth.copy()
    marked[8:13] = 255
    place.store(LABELS, marked)
    place.edit("test.yaml", "data/test.csv", "data/test.csv\n  label_map: {255: ignore}")
    result = command("-test", "test.yaml", "-model", model)
    assert (result.returncode, result.stderr) == (0, "")
    assert dice(place) == {"foreground": "1", "rim": "1", "core": "1"}


def test_voxels_that_are_ignored_do_not_change_what_is_learnt(place, command, same_weights):
    """Whatever an annotator left in the voxels that are to be ignored, the model is the same."""
    table = "    table: data/train.csv"
    place.edit("train.yaml", table, f"{table}\n    label_map: {{9: ignore, 255: ignore}}")
    labels = place.array("a/labels.nii.gz")
    for session, value in (("one", 255), ("other", 9)):
        labels[:, 12:] = value
        place.store("a/labels.nii.gz", labels)
        place.edit(
            "train.yaml", "name: training" if session == "one" else "name: one", f"name: {session}"
        )
        assert command("-train", "train.yaml").returncode == 0
    same_weights(place / "runs/one/models/last.save", place / "runs/other/models/last.save")
