"""BIDS trees in and out: sessions on their cases, and ``deepseg-bids``."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest

import deepseg
from deepseg.cli.bids import main as bids_app

CASES = {"sub-01": "a", "sub-02/ses-x": "d"}
CHANNELS = ("--channels", "T1=T1w", "FLAIR=FLAIR")
WITH_MASK = (*CHANNELS, "--roi", "desc-brain_mask", "--dev", "cpu")
FIRST = "sub-01/anat/sub-01_desc-deepseg_dseg.nii.gz"
SECOND = "sub-02/ses-x/anat/sub-02_ses-x_desc-deepseg_dseg.nii.gz"


@pytest.fixture
def tree(place):
    """Two participants, the second in a session; labels and masks among the derivatives."""
    for folder, case in CASES.items():
        name = folder.replace("/", "_")
        files = {
            f"tree/{folder}/anat/{name}_T1w": "T1",
            f"tree/{folder}/anat/{name}_FLAIR": "FLAIR",
            f"tree/derivatives/manual/{folder}/anat/{name}_dseg": "labels",
            f"tree/derivatives/manual/{folder}/anat/{name}_desc-brain_mask": "roi",
        }
        for target, source in files.items():
            (place / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place / f"data/{case}/{source}.nii.gz", place / f"{target}.nii.gz")
    place.write("tree/dataset_description.json", '{"Name": "two", "BIDSVersion": "1.9.0"}')
    return place / "tree"


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def labels(path):
    return np.asarray(nibabel.load(path).dataobj)


CASES_OF_TREE = """\
cases:
  bids: tree
  channels: {T1: T1w, FLAIR: FLAIR}
  labels: dseg
  roi: desc-brain_mask
"""


def test_a_session_segments_and_scores_the_cases_of_a_tree(model, place, command, tree):
    place.edit("test.yaml", "cases:\n  table: data/test.csv\n", CASES_OF_TREE)
    result = command("-test", "test.yaml", "-model", model)
    assert (result.returncode, result.errors) == (0, [])
    with (place / "runs/results/cases.csv").open() as file:
        scored = {row["case"]: row["dice"] for row in csv.DictReader(file)}
    assert set(scored) == {"sub-01", "sub-02_ses-x"}
    assert all(scored.values())


def test_a_train_file_takes_some_participants_of_a_tree(place, tree):
    some = "    bids: tree\n    participants: [sub-01]\n    channels: {T1: T1w, FLAIR: FLAIR}\n"
    text = (place / "train.yaml").read_text()
    place.write(
        "train.yaml", text.replace("    table: data/train.csv\n", f"{some}    labels: dseg\n")
    )
    report = deepseg.check("train.yaml", quiet=True)
    assert report.problems == ()
    assert [case.name for case in report.cases["training cases"]] == ["sub-01"]


def test_the_app_writes_derivatives_once(model, place, command, tree):
    words = ("tree", "out", "participant", "--model", model, *WITH_MASK)
    result = command(*words, program=bids_app)
    assert (result.returncode, result.stderr.count("ERROR")) == (0, 0)
    sidecars = [name.replace(".nii.gz", ".json") for name in (FIRST, SECOND)]
    assert files_in(place / "out") == {
        "dataset_description.json",
        "desc-deepseg_dseg.tsv",
        FIRST,
        SECOND,
        *sidecars,
    }
    description = json.loads((place / "out/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "deepseg"
    sidecar = json.loads((place / "out" / sidecars[1]).read_text())
    assert sidecar["Sources"] == [
        "bids:raw:sub-02/ses-x/anat/sub-02_ses-x_T1w.nii.gz",
        "bids:raw:sub-02/ses-x/anat/sub-02_ses-x_FLAIR.nii.gz",
        "bids:raw:derivatives/manual/sub-02/ses-x/anat/sub-02_ses-x_desc-brain_mask.nii.gz",
    ]
    before = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.nii.gz")}
    again = command(*words, program=bids_app)
    assert again.returncode == 0
    assert "2 of 2 are done already\n" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_app_gives_the_labels_of_a_session(model, place, command, tree):
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    words = ("tree", "out", "participant", "--model", model, *WITH_MASK)
    assert command(*words, "--participant-label", "02", program=bids_app).returncode == 0
    assert not (place / "out" / FIRST).exists()
    np.testing.assert_array_equal(
        labels(place / "out" / SECOND), labels(place / "runs/results/predictions/d_Segm.nii.gz")
    )


@pytest.mark.parametrize("change", ["model", "image", "settings"])
def test_results_that_would_be_others_now_are_refused(model, place, command, refused, tree, change):
    words = ("tree", "out", "participant", "--model", model, *WITH_MASK, "--participant-label", "1")
    shutil.move(tree / "sub-01", tree / "sub-1")
    shutil.move(tree / "derivatives/manual/sub-01", tree / "derivatives/manual/sub-1")
    for path in [*tree.rglob("sub-01_*")]:
        path.rename(path.with_name(path.name.replace("sub-01", "sub-1")))
    assert command(*words, program=bids_app).returncode == 0
    if change == "model":
        assert command("-newModel", "model.yaml", "-seed", "7", "-out", "M2.save").returncode == 0
        words = (*words[:4], "M2.save", *words[5:])
    elif change == "image":
        shutil.copy(place / "data/b/T1.nii.gz", tree / "sub-1/anat/sub-1_T1w.nii.gz")
    else:
        words = (*words, "--precision", "bfloat16")
    lines = refused(*words, program=bids_app)
    file = "out/sub-1/anat/sub-1_desc-deepseg_dseg.json"
    if change != "model":  # a new model has no record of a preparation either
        assert lines == [
            f"[file-exists] {file}: got a result of another model, other images or settings; "
            "expected results of this model and these images, or none; fix: remove it, or choose "
            "another output folder"
        ]
    else:
        assert any(file in line for line in lines)


def test_the_tree_itself_is_no_folder_for_derivatives(model, refused, tree):
    lines = refused("tree", "tree", "participant", "--model", model, *WITH_MASK, program=bids_app)
    assert lines == [
        "[file-exists] tree/dataset_description.json: got a BIDS tree that is not of deepseg; "
        "expected a folder for the derivatives of deepseg alone; fix: choose another output "
        "folder, such as derivatives/deepseg"
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("tree", "out", "group", "--model", "M.save"),
            "[command-line] got argument analysis_level: invalid choice: 'group' (choose from "
            "participant)",
        ),
        (
            ("tree", "out", "participant", "--model", "M.save", "--channels", "T1w"),
            "[command-line] got --channels T1w",
        ),
        (
            ("tree", "out", "participant", "--model", "M.save", "--participant-label", "7"),
            "[bids-participant] HERE/tree: got the participant sub-7",
        ),
    ],
)
def test_words_that_are_not_understood_are_refused(model, refused, tree, words, line):
    first = refused(*words, program=bids_app)[0]
    assert first.replace("'participant'", "participant").startswith(line)


def test_the_app_names_a_new_head_that_has_not_learnt(model, command, tree):
    fill = ("-newModel", "model.yaml", "-pretrained", model, "-out", "B.save")
    assert command(*fill).returncode == 0
    words = ("tree", "out", "participant", "--model", "B.save", *WITH_MASK)
    result = command(*words, "--participant-label", "02", program=bids_app)
    assert (result.returncode, result.warnings) == (
        0,
        [
            "WARNING B.save: weights of fc.1 are random: no older model has filled them, and they "
            "have learnt nothing since; train the model first"
        ],
    )
