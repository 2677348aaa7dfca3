"""outcome.json and events.jsonl: right while a session runs, and after every end of it."""

import json
import os
import signal
import socket
import time

import pytest

from deepseg.parent_process import is_alive
from deepseg.sessions.folder import SessionFolder

TRAIN = ("-train", "train.yaml")
TEST = ("-test", "test.yaml", "-model", "M.save")
SESSION = "runs/training"
LONG_S = 120


def outcome(place, session=SESSION):
    return json.loads((place / session / "outcome.json").read_text())


def events(place, session=SESSION):
    lines = (place / session / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def begun(place, process):
    """Wait until an epoch is over."""
    until = time.monotonic() + LONG_S
    while not (place / SESSION / "models/last.save").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_while_a_session_runs_its_outcome_says_so(command, place, monkeypatch):
    read, append = [], SessionFolder.append_record

    def watched(folder, record):
        read.append(outcome(place))
        append(folder, record)

    monkeypatch.setattr(SessionFolder, "append_record", watched)
    assert command(*TRAIN).returncode == 0
    assert {record["state"] for record in read} == {"running"}
    assert {record["exit_code"] for record in read} == {None}
    assert read[0]["process"] == {"pid": os.getpid(), "host": socket.gethostname()}
    assert (outcome(place)["state"], outcome(place)["exit_code"]) == ("ended", 0)


@pytest.mark.parametrize(
    ("number", "state", "code"),
    [(signal.SIGKILL, "running", None), (signal.SIGTERM, "ended", 143), (2, "ended", 130)],
)
def test_a_session_that_was_killed_is_running_in_a_process_that_is_gone(
    start, place, number, state, code
):
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 5000")
    process = start(*TRAIN)
    begun(place, process)
    process.send_signal(number)
    process.communicate(timeout=LONG_S)
    record = outcome(place)
    assert (record["state"], record["exit_code"]) == (state, code)
    assert record["process"]["pid"] == process.pid
    assert not is_alive(process.pid)


def test_events_tell_epochs_warnings_and_the_end(command, place):
    place.store("a/labels.nii.gz", place.array("a/labels.nii.gz") * 0)
    assert command(*TRAIN).returncode == 0
    lines = events(place)
    assert [line["event"] for line in lines] == ["started", "warning", "epoch", "epoch", "ended"]
    assert lines[0]["pid"] == os.getpid()
    assert lines[1]["text"].endswith("it is all background")
    metrics = (place / SESSION / "metrics.jsonl").read_text().splitlines()
    assert [line["record"] for line in lines[2:4]] == [json.loads(line) for line in metrics]
    assert lines[-1]["exit_code"] == 0
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_events_tell_cases_and_are_never_shortened(command, place, model):
    assert command(*TEST).returncode == 0
    file = place / "runs/results/events.jsonl"
    before = file.read_text()
    (case,) = [line for line in events(place, "runs/results") if line["event"] == "case"]
    assert (case["name"], case["files"]) == ("d", ["predictions/d_Segm.nii.gz"])
    file.write_text(before + '{"time": "torn')
    assert command(*TEST).returncode == 0
    after = file.read_text()
    assert after.startswith(before + '{"time": "torn\n')
    again = [json.loads(line)["event"] for line in after[len(before) :].splitlines()[1:]]
    assert again == ["started", "ended"]


def test_a_refused_command_leaves_no_folder(refused, place):
    place.edit("train.yaml", "output: runs", "output: new/runs")
    place.edit("data/train.csv", "a/T1", "a/T0")
    assert len(refused(*TRAIN)) == 1
    assert not (place / "new").exists()


def test_a_folder_that_was_there_stays_with_the_outcome(command, place):
    (place / SESSION).mkdir(parents=True)
    place.edit("data/train.csv", "a/T1", "a/T0")
    assert command(*TRAIN).returncode == 2
    assert outcome(place)["errors"][0]["code"] == "file-missing"


def test_parts_that_are_refused_leave_no_folder(run, place, model):
    head, row = (place / "data/test.csv").read_text().replace("d/T1", "d/T0").splitlines()
    place.write("data/test.csv", f"{head}\n{row}\n{row.replace('d,', 'e,', 1)}\n")
    result = run(*TEST, "-devices", "2", "-dev", "cpu")
    assert result.returncode == 2
    assert not (place / "runs").exists()


@pytest.mark.parametrize("best", [True, False])
def test_a_session_is_a_model_too(command, place, trained_here, best):
    name = "best" if best else "last"
    if not best:
        (place / SESSION / "models/best.save").unlink()
    file = f"{SESSION}/models/{name}.save"
    shown = command("-show", SESSION)
    assert (shown.returncode, shown.stdout) == (0, command("-show", file).stdout)
    assert f" {file}\n" in shown.stdout
    assert f"model: {file}\n" in command("-check", "test.yaml", "-model", SESSION).stdout
    result = command("-test", "test.yaml", "-model", SESSION)
    assert (result.returncode, f"weights: {file}\n" in result.stdout) == (0, True), result.stderr
    place.edit("train.yaml", "name: training", "name: again")
    tuned = command(*TRAIN, "-model", SESSION, "-resetOptimizer")
    assert (tuned.returncode, f" from {file}" in tuned.stdout) == (0, True), tuned.stderr


def test_a_folder_without_models_is_none(refused, place):
    assert refused("-show", "data") == [
        "[model-missing] data: got a folder; expected a .save file; fix: give the path of the file"
    ]
