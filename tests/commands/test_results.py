"""What commands leave behind: results on the grid of their images, records of how it went."""

import gzip
import json
import os
import socket
from datetime import datetime, timezone

import nibabel
import numpy as np
import pytest
import SimpleITK

from deepseg.version import VERSION

TEST = ("-test", "test.yaml", "-model", "M.save")
PLACE_IN_SPACE = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units",
)  # fmt: skip


def outcome(place, session):
    return json.loads((place / f"runs/{session}/outcome.json").read_text())


def test_a_segmentation_lies_exactly_where_its_image_does(command, place, model):
    assert command(*TEST).returncode == 0
    file = place / "runs/results/predictions/d_Segm.nii.gz"
    result, image = nibabel.load(file), place.image("d/T1.nii.gz")
    for field in PLACE_IN_SPACE:
        assert result.header[field].tobytes() == image.header[field].tobytes(), field
    assert result.affine.tobytes() == image.affine.tobytes()
    assert result.get_data_dtype() == np.uint8
    assert result.shape == image.shape


def test_a_segmentation_reads_the_same_elsewhere(command, place, model):
    assert command(*TEST).returncode == 0
    file = place / "runs/results/predictions/d_Segm.nii.gz"
    array = np.asarray(nibabel.load(file).dataobj)
    assert set(np.unique(array)) <= {0, 1, 2}
    assert (array[place.array("d/roi.nii.gz") == 0] == 0).all()
    second = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    assert np.array_equal(second.transpose(2, 1, 0), array)
    assert len(gzip.decompress(file.read_bytes())) == 352 + array.size


def test_the_same_command_gives_the_same_bytes(command, place, model):
    results = []
    for _ in range(2):
        assert command(*TEST).returncode == 0
        results.append((place / "runs/results/predictions/d_Segm.nii.gz").read_bytes())
    assert results[0] == results[1]


def test_bfloat16_is_a_setting_and_an_option_and_says_nearly_the_same(command, place, model):
    place.edit("test.yaml", "pictures: false", "pictures: false\n  probabilities: true")

    def maps(*options):
        result = command(*TEST, *options)
        assert (result.returncode, "done already" in result.stdout) == (0, False), result.stderr
        folder = place / "runs/results/predictions"
        files = [folder / f"d_ProbMapClass{label}.nii.gz" for label in range(3)]
        return np.stack([np.asarray(nibabel.load(file).dataobj) for file in files])

    exact, typed = maps(), maps("-precision", "bfloat16")
    place.write("test.yaml", (place / "test.yaml").read_text() + "inference: {memory: 4 GB}\n")
    place.edit("test.yaml", "{memory", "{precision: bfloat16, memory")
    assert "1 of 1 cases are done already\n" in command(*TEST).stdout
    away = np.abs(exact - typed)
    assert 1e-6 < away.max() < 0.05
    np.testing.assert_allclose(typed.sum(0)[place.array("d/roi.nii.gz") > 0], 1, atol=1e-5)
    assert np.array_equal(maps("-precision", "float32"), exact)


def test_the_outcome_of_a_good_session_says_so(command, place, model):
    result = command(*TEST)
    assert (result.returncode, result.stderr) == (0, "")
    record = outcome(place, "results")
    times = [datetime.fromisoformat(record.pop(key)) for key in ("started", "ended")]
    assert times[0] <= times[1] <= datetime.now(timezone.utc)
    assert record.pop("settings")["name"] == "results"
    assert isinstance(record.pop("command"), str)
    assert record == {
        "schema": "outcome-1",
        "state": "ended",
        "exit_code": 0,
        "errors": [],
        "warnings": [],
        "session": "results",
        "version": VERSION,
        "process": {"pid": os.getpid(), "host": socket.gethostname()},
    }


def test_the_outcome_of_a_refused_session_holds_every_problem_and_warning(command, place):
    labels = "b/labels.nii.gz"
    place.store(labels, place.array(labels) * 0)
    place.edit("data/train.csv", "a/T1", "a/T0")
    warning = f"{place.path}/data/{labels}: it is all background"
    (place / "runs/training").mkdir(parents=True)  # a folder made by the command would be removed
    command("-train", "train.yaml")
    record = outcome(place, "training")
    assert (record["exit_code"], record["errors"], record["warnings"]) == (
        2,
        [
            {
                "code": "file-missing",
                "got": "no such file",
                "expected": "an image file",
                "fix": "correct the path; did you mean 'T1.nii.gz'?",
                "where": f"{place.path}/data/train.csv:2 channel_T1 a/T0.nii.gz",
            }
        ],
        [warning],
    )
    place.edit("data/train.csv", "a/T0", "a/T1")
    assert command("-train", "train.yaml").returncode == 0
    assert outcome(place, "training")["warnings"] == [warning]


@pytest.fixture
def two_cases(place):
    """The test file lists d, in which something fails, and c."""
    place.edit("test.yaml", "name: results", "name: results\nkeep_going: true")
    rows = (place / "data/validation.csv").read_text().splitlines()[1]
    place.write("data/test.csv", (place / "data/test.csv").read_text() + rows + "\n")


def demand_only_c(place, result):
    assert result.returncode == 3, result.stderr
    assert len(result.errors) == 1
    assert (place / "runs/results/predictions/c_Segm.nii.gz").is_file()
    assert not (place / "runs/results/predictions/d_Segm.nii.gz").is_file()
    assert list(json.loads((place / "runs/results/cases.json").read_text())["cases"]) == ["c"]
    assert "\nc,core," in (place / "runs/results/cases.csv").read_text()
    assert outcome(place, "results")["exit_code"] == 3


def test_with_keep_going_a_result_that_cannot_be_written_costs_only_its_case(
    command, place, model, two_cases
):
    (place / "runs/results/predictions/d_Segm.nii.gz/in the way").mkdir(parents=True)
    result = command(*TEST)
    demand_only_c(place, result)
    assert result.stderr == (
        "WARNING no result for d; going on with the other cases\n"
        "ERROR [output-not-writable] HERE/runs/results/predictions/d_Segm.nii.gz: got a folder "
        "of this name; expected a place where this file can be written; fix: choose another "
        "output name\n"
    )


def test_with_keep_going_a_damaged_image_costs_only_its_case(command, place, model, two_cases):
    place.damage("data/d/T1.nii.gz", lambda content: content[:-8])
    result = command(*TEST)
    demand_only_c(place, result)
    assert result.errors[0].startswith("ERROR [image-truncated] HERE/data/d/T1.nii.gz: got ")


def test_with_keep_going_a_missing_image_costs_only_its_case(command, place, model, two_cases):
    (place / "data/d/T1.nii.gz").rename(place / "data/d/T2.nii.gz")
    result = command(*TEST)
    demand_only_c(place, result)
    assert result.errors[0] == (
        "ERROR [file-missing] HERE/data/test.csv:2 channel_T1 d/T1.nii.gz: got no such file; "
        "expected an image file; fix: correct the path; did you mean 'T2.nii.gz'?"
    )


def test_two_trained_sessions_are_compared(command, place, trained_here):
    place.edit("train.yaml", "name: training", "name: longer")
    place.edit("train.yaml", "epochs: 2\nsub", "epochs: 3\nsub")
    assert command("-train", "train.yaml").returncode == 0
    before = place.files()
    result = command("-compare", "runs/training", "runs/longer", "-reach", "0.001", "-out", "here")
    assert (result.returncode, result.stderr) == (0, "")
    written = {"here/comparison.csv", "here/comparison.json", "here/comparison.png"}
    new = place.files().keys() - before.keys()
    tables = [
        f"here/{name}.{end}"
        for name in ("sessions", "classes", "differences")
        for end in ("csv", "tex")
    ]
    pictures = [f"here/comparison.{end}" for end in ("pdf", "svg")]
    records = ["here/cases.csv", "here/report.html", "here/.written/comparison.json"]
    assert new == written | {*tables, *pictures, *records}
    actual = json.loads((place / "here/comparison.json").read_text())
    assert [
        (
            group["name"],
            [(session["epochs"], list(session["scores"])) for session in group["sessions"]],
        )
        for group in actual["groups"]
    ] == [("training", [(2, ["2"])]), ("longer", [(3, ["2", "3"])])]
    assert actual["reach"] == 0.001
