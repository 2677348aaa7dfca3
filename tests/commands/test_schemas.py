"""What programs read: real outputs are as the schemas of the documentation say."""

import csv
import json

import nibabel
import numpy as np
import pytest
import torch

from tests.json_schema import SCHEMAS, faults, schema

TRAIN = ("-train", "train.yaml")
TEST = ("-test", "test.yaml", "-model", "M.save")


def lines(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_schema_is_listed_and_names_itself():
    page = (SCHEMAS / "README.md").read_text("utf-8")
    names = sorted(file.stem for file in SCHEMAS.glob("*.json"))
    assert names == ["check-1", "events-1", "outcome-1", "pipeline-1", "show-1"]
    for name in names:
        assert f"[{name}.json]({name}.json)" in page
        assert schema(name)["$id"] == f"{name}.json"


def test_outcomes_and_events_of_training_and_testing(command, place, model):
    place.store("a/labels.nii.gz", place.array("a/labels.nii.gz") * 0)
    assert command(*TRAIN).returncode == 0
    assert command(*TEST).returncode == 0
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    place.edit("data/train.csv", "b/T1", "b/T0")
    assert command(*TRAIN).returncode == 2
    calls = set()
    for session in ("training", "results"):
        folder = place / "runs" / session
        assert faults(json.loads((folder / "outcome.json").read_text()), schema("outcome-1")) == []
        for line in lines(folder / "events.jsonl"):
            assert faults(line, schema("events-1")) == []
            calls.add(line["event"])
    assert calls == {"started", "warning", "epoch", "case", "ended"}


def test_a_check_prints_json_and_nothing_else(command, place, model):
    for arguments in (("model.yaml",), ("train.yaml",), ("test.yaml", "-model", model)):
        result = command("-check", *arguments, "-json")
        assert (result.returncode, result.stderr) == (0, "")
        record = json.loads(result.stdout)
        assert faults(record, schema("check-1")) == []
        assert (record["file"], record["problems"]) == (arguments[0], [])
        assert record["network"]["classes"] == ["background", "rim", "core"]
    record = json.loads(command("-check", "train.yaml", "-json").stdout)
    assert {
        title: [case["name"] for case in cases] for title, cases in record["cases"].items()
    } == {
        "training cases": ["a", "b"],
        "validation cases": ["c"],
    }
    assert record["cases"]["training cases"][0]["shape"] == [24, 22, 20]


def test_a_check_that_finds_problems_prints_them_as_json_too(command, place):
    place.edit("data/train.csv", "a/T1", "a/T0")
    place.store("b/labels.nii.gz", place.array("b/labels.nii.gz") * 0)
    result = command("-check", "train.yaml", "-json")
    record = json.loads(result.stdout)
    assert faults(record, schema("check-1")) == []
    assert (result.returncode, len(result.errors), len(record["warnings"])) == (2, 1, 1)
    assert [problem["code"] for problem in record["problems"]] == ["file-missing"]
    assert record["network"] is None


def test_everything_that_is_shown_is_shown_as_json_too(command, place, model):
    torch.save({"conv.weight": torch.zeros(2, 3)}, place / "weights.pt")
    kinds = {
        model: "model",
        "model.yaml": "model",
        "weights.pt": "weights",
        "train.yaml": "train file",
        "test.yaml": "test file",
    }
    for file, kind in kinds.items():
        result = command("-show", file, "-json")
        assert (result.returncode, result.stderr) == (0, "")
        record = json.loads(result.stdout)
        assert faults(record, schema("show-1")) == []
        assert (record["file"], record["kind"]) == (file, kind)
    trained = json.loads(command("-show", model, "-json").stdout)
    assert trained["training"]["epoch"] == 2
    assert [layer["address"] for layer in trained["layers"]][-1] == "fc.1"


def test_json_means_nothing_to_commands_that_work(refused):
    assert refused("-train", "train.yaml", "-json") == [
        "[command-line] got -json with -train; expected -json with -check, -show; fix: remove -json"
    ]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, "$: no a"),
        ({"a": "x"}, "$.a: no integer"),
        ({"a": True}, "$.a: no integer"),
        ({"a": 1, "b": 2}, "$: b is unknown"),
    ],
)
def test_the_judge_of_schemas_finds_faults(value, fault):
    rules = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert faults(value, rules) == [fault]


def test_volumes_are_listed_with_a_truth_and_without(command, place, model):
    row = (place / "data/validation.csv").read_text().splitlines()[1]
    bare = row.replace("c,", "e,", 1).replace(",c/labels.nii.gz", ",")
    place.write("data/test.csv", (place / "data/test.csv").read_text() + f"{row}\n{bare}\n")
    assert command(*TEST).returncode == 0
    with (place / "runs/results/cases.csv").open() as file:
        rows = {(line["case"], line["class"]): line for line in csv.DictReader(file)}
    assert {case for case, _ in rows} == {"d", "c", "e"}
    voxel_ml = abs(np.linalg.det(place.image("c/T1.nii.gz").affine[:3, :3])) / 1000
    labels = place / "runs/results/predictions/e_Segm.nii.gz"
    predicted = np.asarray(nibabel.load(labels).dataobj)
    for name, voxels in {
        "foreground": (predicted > 0).sum(),
        "rim": (predicted == 1).sum(),
        "core": (predicted == 2).sum(),
    }.items():
        line = rows["e", name]
        assert float(line["predicted_ml"]) == pytest.approx(voxels * voxel_ml, rel=1e-5)
        assert line["predicted_ml"] == rows["c", name]["predicted_ml"]
        assert (line["dice"], line["true_ml"]) == ("", "")
        assert rows["c", name]["true_ml"] != ""
