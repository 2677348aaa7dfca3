"""Machines and folders as they should not be: noticed at once, and survived where they can be."""

import fcntl
import os
import socket
import subprocess
import time
from types import SimpleNamespace

import pytest

TRAIN = ("-train", "train.yaml")


@pytest.mark.parametrize(
    "name", ["log.txt", "lock", "metrics.jsonl", "models/last.save", "cache/facts/a.json"]
)
def test_a_pipe_in_the_folder_of_a_session_is_not_waited_for(command, place, name):
    pipe = place / "runs/training" / name
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    result = command(*TRAIN)
    assert (result.returncode, result.stderr) == (
        5,
        f"ERROR [output-not-writable] HERE/runs/training/{name}: got a pipe, socket or device; "
        "expected files and folders only; fix: remove it, or choose another output folder\n",
    )


def test_a_lock_that_only_a_child_of_a_dead_session_holds_is_waited_for(
    command, place, monkeypatch
):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (place / "runs/training").mkdir(parents=True)
    with (place / "runs/training/lock").open("w") as lock:
        lock.write(f"process {dead.pid} on {socket.gethostname()}")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        clock = SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda _: fcntl.flock(lock, fcntl.LOCK_UN)
        )
        monkeypatch.setattr("deepseg.sessions.folder_lock.time", clock)
        result = command("-train", "train.yaml")
    assert (result.returncode, result.errors) == (0, [])


def test_letters_that_the_locale_lacks_are_no_bug(command, monkeypatch):
    def refuse(_arguments):
        raise UnicodeEncodeError("ascii", "runs/Köpfe", 6, 7, "ordinal not in range(128)")

    monkeypatch.setattr("deepseg.cli.main._call", refuse)
    result = command("-show", "model.yaml")
    assert (result.returncode, result.stderr) == (
        2,
        "ERROR [path-unusable] model.yaml: got a name with '\\xf6', and a locale with the letters "
        "of ascii only; expected a locale that has all letters of the names; fix: set "
        "LC_ALL=C.UTF-8 or PYTHONUTF8=1, or rename it\n",
    )


def test_an_ascii_locale_is_named_where_a_path_needs_other_letters(run, place, model):
    place.edit("data/test.csv", "d/T1.nii.gz", "d/Köpfe.nii.gz")
    place.edit("test.yaml", "output: runs", "output: läufe")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    lines = []
    for output in ("läufe", "runs"):
        place.edit("test.yaml", "output: läufe", f"output: {output}")
        result = run("-test", "test.yaml", "-model", model, env=ascii_only)
        assert result.returncode == 2
        lines += result.errors
    letters = (
        "expected a locale that has all letters of the names; fix: set LC_ALL=C.UTF-8 or "
        "PYTHONUTF8=1, or rename it"
    )
    assert lines == [
        "ERROR [config-path] test.yaml:2 output: got a name with '\\xe4', and a locale with the "
        f"letters of ascii only; {letters}",
        "ERROR [path-unusable] HERE/data/test.csv:2 channel_T1 d/K\\xf6pfe.nii.gz: got a name with "
        f"'\\xf6', and a locale with the letters of ascii only; {letters}",
    ]


def test_a_folder_that_matplotlib_may_not_write_to_is_nothing_to_say(run, place):
    for variable in ("MPLCONFIGDIR", "HOME"):
        assert "/nowhere" not in os.environ.get(variable, "")
    lost = ("-c", "from deepseg.report.figure import is_possible; print(is_possible())")
    result = run(program=lost, env={"MPLCONFIGDIR": "/proc/nowhere", "HOME": "/proc/nowhere"})
    assert (result.stdout, result.stderr) == ("True\n", "")
