"""Faults of the machine: unwritable output, a busy folder, memory, numbers, surroundings."""

import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[2]
TRAIN = ("-train", "train.yaml")
TEST = ("-test", "test.yaml", "-model", "M.save")
NEW_MODEL = ("-newModel", "model.yaml")


@contextmanager
def largest_file(size):
    """A limit on the size of files, also of the log to which the tests themselves may write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unwritable(where, got, fix):
    return (
        f"ERROR [output-not-writable] {where}: got {got}; expected a place where this file can "
        f"be written; fix: {fix}"
    )


@pytest.mark.parametrize(
    ("arguments", "blocked", "where"),
    [
        pytest.param(TRAIN, "runs", "HERE/runs/training", id="train, its output"),
        pytest.param(TRAIN, "runs/training", "HERE/runs/training", id="train, its folder"),
        pytest.param(TRAIN, "runs/training/models", "HERE/runs/training/models", id="its models"),
        pytest.param(TEST, "runs/results", "HERE/runs/results", id="test, its folder"),
        pytest.param(
            TEST, "runs/results/predictions", "HERE/runs/results/predictions", id="its results"
        ),
        pytest.param(NEW_MODEL, "runs", "HERE/runs/models/small.save", id="newModel, its output"),
        pytest.param(
            (*NEW_MODEL, "-out", "test.yaml/M.save"), "runs", "test.yaml/M.save", id="-out"
        ),
    ],
)
def test_a_file_in_place_of_a_folder_ends_with_5(command, place, model, arguments, blocked, where):
    (place / blocked).parent.mkdir(parents=True, exist_ok=True)
    place.write(blocked, "in the way")
    result = command(*arguments)
    assert result.returncode == 5, result.stderr
    assert result.stderr.splitlines() == [
        unwritable(where, "a file in place of the folder", "choose another output folder")
    ]
    assert (place / blocked).read_text() == "in the way"


def test_a_file_in_place_of_the_folder_of_the_demo_ends_with_5(command, place):
    pytest.importorskip("nilearn")
    result = command("-demo", "-out", "model.yaml")
    fix = "choose another output folder"
    assert (result.returncode, result.stderr.splitlines()) == (
        5,
        [unwritable("model.yaml", "a file in place of the folder", fix)],
    )


TOO_LARGE = (
    "a limit on the size of files",
    "raise the limit (ulimit -f) or choose another disk, then run the same command again",
)


def test_a_model_that_cannot_be_written_leaves_nothing_behind(command, place):
    with largest_file(4000):
        result = command(*NEW_MODEL)
    assert (result.returncode, result.stderr) == (
        5,
        unwritable("HERE/runs/models/small.save", *TOO_LARGE) + "\n",
    )
    assert list((place / "runs/models").iterdir()) == []


def test_a_case_that_cannot_be_prepared_for_want_of_room_ends_with_5(command, place):
    with largest_file(16_000):  # the log fits, the arrays do not
        result = command(*TRAIN)
    assert result.returncode == 5, result.stderr
    (error,) = result.errors
    assert error.startswith("ERROR [output-not-writable] HERE/runs/training/cache/a-")
    assert "got a full disk; expected a place where this file can be written; fix: make" in error


def test_a_checkpoint_that_cannot_be_written_costs_only_its_epoch(
    command, place, trained_here, same_weights
):
    place.edit("train.yaml", "\nepochs: 2", "\nreport: false\nepochs: 3")
    models = place / "runs/training/models"
    shutil.copytree(place / "runs/training", place / "copy")
    with largest_file((models / "last.save").stat().st_size - 100):
        full = command(*TRAIN)
    assert full.returncode == 5
    (error,) = full.errors
    where = "HERE/runs/training/models/last.save"
    assert error.replace("best.save", "last.save") == unwritable(where, *TOO_LARGE)
    assert [path.name for path in models.iterdir() if "partial" in path.name] == []
    again = command(*TRAIN)
    assert (again.returncode, again.errors) == (0, [])
    (place / "runs/training").rename(place / "stopped")
    (place / "copy").rename(place / "runs/training")
    assert command(*TRAIN).returncode == 0
    same_weights(place / "stopped/models/last.save", models / "last.save")


@pytest.mark.parametrize(
    ("arguments", "session"), [(TRAIN, "training"), (TEST, "results")], ids=["train", "test"]
)
def test_a_folder_in_use_ends_with_6_and_stays_untouched(command, place, model, arguments, session):
    folder = place / "runs" / session
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        lock.write("process 17 on otherhost")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = place.files()
        result = command(*arguments)
    assert (result.returncode, result.stderr) == (
        6,
        f"ERROR [folder-in-use] HERE/runs/{session}: got a session that is already running "
        "(process 17 on otherhost); expected one session per folder; fix: wait for it, end it, "
        "or give this session another name\n",
    )
    assert place.files() == before
    assert command(*arguments).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "session"), [(TRAIN, "training"), (TEST, "results")], ids=["train", "test"]
)
def test_a_disk_without_locks_is_no_session_that_is_running(
    command, place, model, monkeypatch, arguments, session
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    result = command(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert list((place / "runs").rglob("*.owner*")) == []
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    (place / "runs" / session / "lock.owner").write_text(f"{owner} [0123456789abcdef]")
    again = command(*arguments)
    assert (again.returncode, again.stderr) == (
        6,
        f"ERROR [folder-in-use] HERE/runs/{session}: got a session that is already running "
        f"({owner}); expected one session per folder; fix: wait for it, end it, or give this "
        "session another name; if it has ended, remove lock.owner\n",
    )


@pytest.mark.parametrize("rate", ["1.0e+10", "1.0e+30"])
def test_a_loss_that_explodes_ends_with_4_and_keeps_the_last_good_model(
    command, place, trained_here, rate
):
    models = place / "runs/training/models"
    good = (models / "last.save").read_bytes()
    text = (place / "train.yaml").read_text().replace("\nepochs: 2", "\nepochs: 9")
    place.write("train.yaml", f"{text}optimiser: {{learning_rate: {rate}, name: rmsprop}}\n")
    result = command(*TRAIN)
    assert result.returncode == 4
    (error,) = result.errors
    assert "not-finite] train.yaml: got " in error
    assert "fix: lower the learning rate (now " in error
    outcome = json.loads((place / "runs/training/outcome.json").read_text())
    assert (outcome["exit_code"], outcome["errors"][0]["where"]) == (4, "train.yaml")
    assert (models / "last.save").read_bytes() == good


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        torch.OutOfMemoryError("Unable to allocate 3 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 GiB"),
    ],
    ids=["of Python", "of the GPU", "of torch"],
)
def test_want_of_memory_ends_with_137(command, place, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("deepseg.model.network.Network.forward", fail)
    result = command(*TRAIN)
    assert (result.returncode, result.stderr) == (
        137,
        f"ERROR [out-of-memory] train.yaml: got {error}; expected memory for all segments or "
        "tiles of one batch; fix: lower batch_size, segments or tile in the config files\n",
    )
    assert json.loads((place / "runs/training/outcome.json").read_text())["exit_code"] == 137


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_new_files_follow_the_umask(command, place, model, mask, mode):
    before = os.umask(mask)
    try:
        assert command(*TRAIN).returncode == 0
        assert command(*TEST).returncode == 0
    finally:
        os.umask(before)
    modes = {
        str(path): stat.S_IMODE(path.stat().st_mode)
        for path in (place / "runs").rglob("*")
        if path.is_file()
    }
    assert len(modes) > 20
    assert {path: oct(result) for path, result in modes.items() if result != mode} == {}


def test_names_beyond_ascii_work_in_an_ascii_locale(run, place, model):
    place.edit("data/test.csv", "\nd,", "\nMüller ✓,")
    (place / "Köpfe.yaml").write_text((place / "test.yaml").read_text())
    surroundings = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    result = run("-test", "Köpfe.yaml", "-model", model, env=surroundings)
    assert (result.returncode, result.stderr) == (0, "")
    assert "small" not in result.stdout
    assert (place / "runs/results/predictions/Müller ✓_Segm.nii.gz").is_file()


def test_home_temporary_and_current_folder_are_not_needed(run, place, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    lost = (
        "-c",
        "import os, sys; os.rmdir(os.getcwd()); del os.environ['HOME']; "
        f"sys.path.insert(0, {os.fspath(CHECKOUT)!r}); "
        "from deepseg.cli.main import main; sys.exit(main())",
    )
    nowhere = {"TMPDIR": str(gone / "tmp")}
    file = str(place / "model.yaml")
    result = run("-show", file, program=lost, cwd=gone, env=nowhere)
    assert (result.returncode, result.stderr) == (0, "")
    assert "network small" in result.stdout
