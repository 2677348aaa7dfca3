"""Stopping and going on: whatever ends a session, the same command brings it to the same end."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

EPOCHS = 6
TRAIN = ("-train", "train.yaml")


@pytest.fixture(scope="session")
def uninterrupted(template, tmp_path_factory, begin):
    """The last model of a session that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "place"
    shutil.copytree(template, folder)
    lengthen(folder / "train.yaml")
    assert begin("-train", str(folder / "train.yaml"), "-quiet") == 0
    return folder / "runs/training/models/last.save"


@pytest.fixture
def long(place):
    """The session of the test takes `EPOCHS` epochs; gives its folder."""
    lengthen(place / "train.yaml")
    return place / "runs/training"


def lengthen(file):
    file.write_text(file.read_text().replace("\nepochs: 2", f"\nepochs: {EPOCHS}"))


def finished_epochs(folder):
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["epoch"] for line in lines]


def wait_for_an_epoch(folder, process):
    deadline = time.monotonic() + 60
    while not (folder / "models/last.save").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "workers", "code", "said"),
    [
        pytest.param(
            signal.SIGINT,
            1,
            130,
            "ERROR [interrupted] stopped by Ctrl-C; the same command goes on\n",
            id="Ctrl-C",
        ),
        pytest.param(
            signal.SIGTERM,
            0,
            143,
            "ERROR [terminated] stopped by SIGTERM; the same command goes on\n",
            id="SIGTERM",
        ),
        pytest.param(
            signal.SIGUSR1,
            0,
            143,
            "ERROR [terminated] stopped by SIGUSR1; the same command goes on\n",
            id="SIGUSR1",
        ),
        pytest.param(signal.SIGKILL, 0, -signal.SIGKILL, "", id="SIGKILL"),
    ],
)
def test_a_stopped_session_goes_on_to_the_same_weights(
    start, wait, command, place, long, uninterrupted, same_weights, number, workers, code, said
):
    place.edit("train.yaml", "workers: 0", f"workers: {workers}")
    process = start(*TRAIN)
    wait_for_an_epoch(long, process)
    began = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does, to the workers too
    stopped = wait(process)
    assert time.monotonic() - began < 30
    assert (stopped.returncode, stopped.stderr) == (code, said)
    assert 1 <= len(finished_epochs(long)) < EPOCHS
    if code > 0:
        assert json.loads((long / "outcome.json").read_text())["exit_code"] == code

    place.edit("train.yaml", f"workers: {workers}", "workers: 0")
    again = command(*TRAIN)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"continuing the session in HERE/{long.relative_to(place.path)}\n" in again.stdout
    assert finished_epochs(long) == list(range(EPOCHS))
    assert list(long.rglob("*.partial.*")) == []
    same_weights(long / "models/last.save", uninterrupted)


@pytest.mark.parametrize("moment", ["best.save", "last.save"])
def test_ctrl_c_while_saving_loses_at_most_the_epoch(
    command, long, uninterrupted, same_weights, monkeypatch, moment
):
    calls = []
    replace = os.replace

    def interrupted(source, target):
        calls.append(Path(target).name)
        if calls.count(moment) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", interrupted)
    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    stopped = command(*TRAIN)
    assert stopped.returncode == 130
    assert 1 <= len(finished_epochs(long)) < EPOCHS
    monkeypatch.undo()
    assert command("-train", str(long.parents[1] / "train.yaml")).returncode == 0
    assert finished_epochs(long) == list(range(EPOCHS))
    same_weights(long / "models/last.save", uninterrupted)


def test_a_finished_session_says_so_and_changes_no_model(command, trained_here, place):
    before = place.files()
    again = command(*TRAIN)
    after = place.files()
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[-1] == "nothing is left to do; raise epochs to train on"
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {
        f"runs/training/{name}" for name in ("log.txt", "outcome.json", "events.jsonl")
    }


def left_out(place):
    table = (place / "data/train.csv").read_text()
    place.write("data/train.csv", re.sub(r"\nb,.*", "", table))
    return "training cases changed since the last epoch: left out: b"


def added(place):
    place.write("data/validation.csv", (place / "data/validation.csv").read_text() + "d" + TRUTH)
    return "validation cases changed since the last epoch: added: d"


TRUTH = ",d/T1.nii.gz,d/FLAIR.nii.gz,d/labels.nii.gz,d/roi.nii.gz\n"


def another_image(place):
    place.store("a/FLAIR.nii.gz", place.array("a/FLAIR.nii.gz") + 1)
    return "training cases changed since the last epoch: other files: a (FLAIR)"


def exchanged_labels(place):
    place.edit("data/train.csv", "a/labels.nii.gz", "x")
    place.edit("data/train.csv", "b/labels.nii.gz", "a/labels.nii.gz")
    place.edit("data/train.csv", "x", "b/labels.nii.gz")
    return "training cases changed since the last epoch: other files: a (labels), b (labels)"


@pytest.mark.parametrize("change", [left_out, added, another_image, exchanged_labels])
def test_cases_that_changed_are_named_when_a_session_goes_on(command, place, trained_here, change):
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    warning = f"WARNING {change(place)}\n"
    again = command(*TRAIN)
    assert again.returncode == 0
    lines = again.stderr.splitlines()
    if change is exchanged_labels:  # which is odd by itself
        assert lines.pop(0).startswith("WARNING HERE/data/train.csv:2 labels: the labels b/labels")
    assert lines[0] == "WARNING epochs changed since the last epoch: 2 → 3"
    assert again.stderr.endswith(warning)
    place.edit("train.yaml", "\nepochs: 3", "\nepochs: 4")
    assert "cases changed" not in command(*TRAIN).stderr


def test_a_session_goes_on_silently_with_the_same_files_elsewhere(command, place, trained_here):
    (place / "data").rename(place / "moved")
    (place / "data").mkdir()
    for name in ("train.csv", "validation.csv"):
        table = (place / "moved" / name).read_text()
        place.write(f"data/{name}", re.sub(r",(\w/)", r",../moved/\1", table))
    again = command(*TRAIN)
    assert (again.returncode, again.stderr) == (0, "")


def test_a_damaged_newest_model_is_replaced_by_the_one_before_it(
    command, place, trained_here, trained, same_weights
):
    models = "runs/training/models"
    place.damage(f"{models}/last.save", lambda content: content[:-100])
    again = command(*TRAIN)
    assert (again.returncode, again.stderr) == (
        0,
        f"WARNING [model-damaged] HERE/{models}/last.save: got no complete zip container; "
        "expected a whole .save file; fix: copy the file again, or use an earlier one of the "
        f"same session; continuing from HERE/{models}/previous.save\n",
    )
    same_weights(place / models / "last.save", trained / models / "last.save")


def test_a_session_without_a_whole_model_is_not_begun_anew(refused, place, trained_here):
    for name in ("last", "previous"):
        place.damage(f"runs/training/models/{name}.save", lambda content: content[:-100])
    assert refused(*TRAIN, session="training") == [
        f"[model-damaged] HERE/runs/training/models/{name}.save: got no complete zip container; "
        "expected a whole .save file; fix: copy the file again, or remove it to begin the "
        "session anew"
        for name in ("last", "previous")
    ]


def test_settings_that_changed_are_named_when_a_session_goes_on(command, place, trained_here):
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    place.edit("train.yaml", "batch_size: 4", "batch_size: 2")
    again = command(*TRAIN)
    assert (again.returncode, again.stderr) == (
        0,
        "WARNING epochs changed since the last epoch: 2 → 3\n"
        "WARNING training.batch_size changed since the last epoch: 4 → 2\n",
    )
    assert finished_epochs(place / "runs/training") == [0, 1, 2]
