"""Labels that nobody has given, or that mean something else than the model's classes."""

import csv
import json
import shutil

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


@pytest.fixture
def dataset(place):
    """Test case d as a dataset of nnU-Net 2, with the labels that are given."""

    def written(labels, array=None):
        folder = place / "nnunet"
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        for number, channel in enumerate(("FLAIR", "T1")):
            shutil.copy(
                place / f"data/d/{channel}.nii.gz", folder / f"imagesTr/d_000{number}.nii.gz"
            )
        if array is not None:
            place.store(LABELS, array)
        shutil.copy(place / f"data/{LABELS}", folder / "labelsTr/d.nii.gz")
        content = {"channel_names": {"0": "FLAIR", "1": "T1"}, "labels": labels}
        (folder / "dataset.json").write_text(json.dumps(content))
        place.edit("test.yaml", "table: data/test.csv", "dataset: nnunet")
        place.edit("test.yaml", "save:\n", "inference:\n  accept: [roi]\nsave:\n")
        return folder

    return written


def test_classes_in_another_order_than_the_model_has_are_refused(
    place, model, command, refused, truth, dataset
):
    """With the map that the message proposes, the scores are those of labels in the right order."""
    names = {"background": 0, "core": 1, "rim": 2}
    folder = dataset(names, np.array([0, 2, 1])[truth].astype(np.int16))
    assert refused("-test", "test.yaml", "-model", model, session="results") == [
        "[dataset-labels] HERE/nnunet/dataset.json labels: got labels of which 1 is core, 2 is "
        "rim; expected the numbers of the model's classes: 0 background, 1 rim, 2 core; fix: set "
        "'label_map: {1: 2, 2: 1}'"
    ]
    place.edit("test.yaml", "dataset: nnunet", "dataset: nnunet\n  label_map: {1: 2, 2: 1}")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    mapped = dice(place)
    assert len(set(mapped.values())) > 1
    place.edit("test.yaml", "\n  label_map: {1: 2, 2: 1}", "")
    place.store(LABELS, truth)
    shutil.copy(place / f"data/{LABELS}", folder / "labelsTr/d.nii.gz")
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace(json.dumps(names), "{}"))
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert dice(place) == mapped
