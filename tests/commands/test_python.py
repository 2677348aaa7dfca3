"""The notebook and the page on Python run as they stand, and do what they say."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import deepseg
from deepseg.inference import metric_registry
from deepseg.training import loss_registry

DOCUMENTATION = Path(__file__).parents[2] / "documentation"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def registries():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_registry, "_registered", {})
        patch.setattr(metric_registry, "_registered", {})
        yield


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, registries):
    """The folder in which the cells of the notebook have run, and their names."""
    home = tmp_path_factory.mktemp("notebook")
    cells = json.loads((DOCUMENTATION / "notebook.ipynb").read_text("utf-8"))["cells"]
    names, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            for cell in cells:
                if cell["cell_type"] == "code":
                    exec("".join(cell["source"]), names)
    finally:
        torch.set_num_threads(threads)
    return home / "deepseg_notebook", names


def test_the_notebook_has_no_outputs_that_could_be_out_of_date():
    notebook = json.loads((DOCUMENTATION / "notebook.ipynb").read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 4)
    assert [c for c in notebook["cells"] if c.get("outputs") or c.get("execution_count")] == []


def test_the_notebook_learns_to_segment(notebook):
    _, names = notebook
    assert names["dice"] > 0.8  # by the loop of the notebook
    assert 2 * (names["segmentation"].labels * names["case"]["labels"]).sum() > 0.8 * (
        names["segmentation"].labels.sum() + names["case"]["labels"].sum()
    )
    assert names["losses"][-1] < 0.2 * names["losses"][0]


def test_a_registered_loss_and_metric_are_in_the_lines_of_a_session(notebook):
    folder, _ = notebook
    lines = (folder / "runs/session/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(record["training"]["parts"]["tversky"] > 0 for record in records)
    assert records[-1]["validation_volumes"]["volume_error_ml"]["lesion"] >= 0
    checkpoint = deepseg.load(folder / "runs/session")
    assert checkpoint.training["settings"]["loss"]["custom"] == {"tversky": 0.5}


def test_a_process_without_the_loss_and_metric_refuses_the_session(notebook, monkeypatch):
    folder, _ = notebook
    monkeypatch.setattr(loss_registry, "_registered", {})
    monkeypatch.setattr(metric_registry, "_registered", {})
    report = deepseg.check(folder / "train.yaml", model=folder / "new.save", quiet=True)
    assert [(problem.code, problem.got) for problem in report.problems] == [
        ("loss-unknown", "'tversky' in loss.custom"),
        ("metric-unregistered", "'volume_error_ml' in validation.volumes.metrics"),
    ]


def labels_of(batches):
    return [batch.labels for batch in batches]


def test_epochs_follow_from_the_seed_and_a_loop_that_was_left_ends_its_epoch(notebook):
    folder, _ = notebook
    settings = {
        "model": folder / "new.save",
        "training": {"segments_per_subepoch": 5, "batch_size": 2},
        "cache": folder / "cache",
        "quiet": True,
    }
    table = {"table": str(folder / "cases.csv")}
    with deepseg.segment_batches(table, seed=3, **settings) as batches:
        first, second, third = (labels_of(batches) for _ in range(3))
    assert [len(labels) for labels in first] == [2, 2, 1]
    assert not torch.equal(first[0], second[0])
    with deepseg.segment_batches(table, seed=3, **settings) as batches:
        assert len(batches) == 3
        assert all(map(torch.equal, labels_of(batches), first))
        for batch in batches:
            assert torch.equal(batch.labels, second[0])
            break
        assert all(map(torch.equal, labels_of(batches), third))
        checkpoint = batches.checkpoint(batches.model.network())
    assert checkpoint.provenance.trained_by[-1].epochs == 3
    assert checkpoint.preparation.orientation == "RAS"
    assert [case.name for case in (folder / "cache").iterdir() if case.is_dir()]


@pytest.fixture(scope="module")
def page(notebook, tmp_path_factory):
    """The folder in which the blocks of the page have run one after the other, and their names."""
    home = tmp_path_factory.mktemp("page") / "study"
    shutil.copytree(notebook[0], home, ignore=shutil.ignore_patterns("runs", "*_Segm*", "*.save"))
    shutil.copy(notebook[0] / "runs/session/models/last.save", home / "M.save")
    names, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            for block in BLOCK.findall((DOCUMENTATION / "python.md").read_text("utf-8")):
                exec(block, names)
    finally:
        torch.set_num_threads(threads)
    return home, names


def test_the_blocks_of_the_page_run(page):
    home, names = page
    assert names["segmentation"].labels.shape == (26, 24, 22)
    assert names["logits"].shape == (4, 2, 9, 9, 9)
    assert deepseg.load(home / "loop.save").provenance.trained_by[-1].session == "segment_batches"


def test_a_registered_metric_has_a_column_and_a_mean_in_the_results_of_a_test(page):
    home, _ = page
    with (home / "runs/test/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows] == [
        ("p3", "foreground"),
        ("p3", "lesion"),
    ]
    error = abs(float(rows[1]["predicted_ml"]) - float(rows[1]["true_ml"]))
    assert float(rows[1]["volume_error_ml"]) == pytest.approx(error, abs=1e-5)
    summary = json.loads((home / "runs/test/cases.json").read_text())["summary"]
    assert summary["lesion"]["volume_error_ml"]["mean"] == pytest.approx(error, abs=1e-5)
    report = (home / "runs/test/report.html").read_text()
    assert ">volume_error_ml<" in report
