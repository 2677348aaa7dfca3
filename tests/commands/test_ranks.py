"""Several processes that train together: as one would, and with one end for all of them."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from deepseg.model.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow  # each starts several processes

CHECKOUT = Path(__file__).parents[2]
TRAIN = ("-train", "train.yaml", "-dev", "cpu")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
D = "d,d/T1.nii.gz,d/FLAIR.nii.gz,d/labels.nii.gz,d/roi.nii.gz\n"
LONG_S = 120  # of what takes seconds, on a busy machine

# Read by Python at its start, in all processes; only rank 1 is touched.
SPOILT = """\
import os
if os.environ.get("RANK") == "1":
    import torch
    from deepseg.data.segments import loader
    from deepseg.errors import DeepsegError, Problem
    collate = loader.collate
    def spoilt(samples):
        batch = collate(samples)
        {what}
        return batch
    loader.collate = spoilt
"""
NOT_FINITE = "batch.inputs[0].fill_(float('nan'))"
RAISES = "raise DeepsegError(Problem('file-missing', 'no file', 'a file', 'add it', 'b/T1.nii.gz'))"
BUG = "raise ZeroDivisionError('a division')"


@pytest.fixture
def ranks(start):
    """Start two ranks, by torchrun or by ``-devices``."""

    def given(by, *arguments, **how):
        if by == "torchrun":
            run = str(CHECKOUT / "run.py")
            return start(*TRAIN, *arguments, program=(*TORCHRUN, run), **how)
        return start(*TRAIN, "-devices", "2", *arguments, **how)

    return given


def ended(process):
    """Exit code and stderr without what torchrun says; no process may be left."""
    out, err = (
        message.decode("utf-8", "replace") for message in process.communicate(timeout=LONG_S)
    )
    return process.returncode, [line for line in err.splitlines() if line.startswith("ERROR")], out


def processes_of(parent):
    """Processes that this one has started, in their order."""
    result = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sorted(int(process) for process in result)


def begun(place, process):
    """Wait until an epoch is over; gives the processes of the two ranks."""
    until = time.monotonic() + LONG_S
    while not (place / "runs/training/models/last.save").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return processes_of(process.pid)


def is_alive(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def zero_lost(place, process, by):
    """Kill rank 0 after an epoch; the outcome is written by those that are left."""
    rank, _ = begun(place, process) if by == "devices" else begun(place, process)[:2]
    assert outcome(place)["process"]["pid"] == rank
    os.kill(rank, signal.SIGKILL)
    process.communicate(timeout=LONG_S)
    return outcome(place)


@pytest.mark.parametrize("by", ["devices", "torchrun"])
def test_the_outcome_is_right_when_rank_0_is_killed(place, ranks, by):
    for_long(place)
    record = zero_lost(place, ranks(by), by)
    assert (record["state"], record["exit_code"]) == ("ended", 137)
    assert record["errors"][0]["code"] == "rank-lost"


def outcome(place):
    return json.loads((place / "runs/training/outcome.json").read_text())


def records(place, session="training"):
    lines = (place / f"runs/{session}/metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0, "waited": 0, "core_seconds": 0} for line in lines]


def weights(place, session="training"):
    return read_checkpoint(place / f"runs/{session}/models/last.save").weights


def for_long(place):
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 5000")


def spoil(place, what):
    place.write("sitecustomize.py", SPOILT.format(what=what))
    return {"PYTHONPATH": f"{place.path}{os.pathsep}{CHECKOUT}"}


def test_two_ranks_learn_what_one_learns_and_the_same_bits_each_time(place, command, ranks):
    # Batches of 4, 4 and 1: the ranks have parts of different sizes, one has none at last.
    place.edit("train.yaml", "segments_per_subepoch: 8", "segments_per_subepoch: 9")
    place.edit("train.yaml", "  samples:\n    segments: 4", "  samples:\n    segments: 3")
    place.write("data/validation.csv", (place / "data/validation.csv").read_text() + D)
    assert command(*TRAIN).returncode == 0
    alone, scores = weights(place), records(place)
    (place / "runs/training").rename(place / "runs/alone")
    assert ended(ranks("torchrun"))[:2] == (0, [])
    together = weights(place)
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(scores, records(place), strict=True):
        assert theirs["training"]["loss"] == pytest.approx(mine["training"]["loss"], rel=1e-5)
        assert theirs["validation_samples"]["loss"] == pytest.approx(
            mine["validation_samples"]["loss"], rel=1e-5
        )
        assert theirs["learning_rate"] == mine["learning_rate"]
        assert theirs.keys() == mine.keys()
    volumes = [lines[-1]["validation_volumes"]["dice"] for lines in (scores, records(place))]
    assert volumes[1] == pytest.approx(volumes[0], abs=0.01)
    first = records(place)
    (place / "runs/training").rename(place / "runs/first")
    assert ended(ranks("devices"))[:2] == (0, [])
    assert all(torch.equal(weight, together[name]) for name, weight in weights(place).items())
    assert records(place) == first
    log = (place / "runs/training/log.txt").read_text("utf-8")
    assert len(re.findall("train training on 2 ranks, each on CPU", log)) == 1


@pytest.mark.parametrize(("by", "code"), [("torchrun", 1), ("devices", 137)])
def test_when_a_rank_is_killed_all_end_and_one_line_says_so(place, ranks, by, code):
    for_long(place)
    process = ranks(by)
    alive = begun(place, process)
    os.kill(alive[1], signal.SIGKILL)
    at = time.monotonic()
    returned, errors, _ = ended(process)
    assert time.monotonic() - at < 60
    assert returned == code
    assert len(errors) == 1
    assert re.match(r"ERROR \[rank-lost\] .*rank 1", errors[0])
    assert not any(is_alive(item) for item in alive)
    assert outcome(place)["exit_code"] == 137
    assert outcome(place)["errors"][0]["code"] == "rank-lost"


def test_after_a_rank_was_killed_the_same_command_ends_with_the_same_bits(place, ranks):
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 8")
    assert ended(ranks("devices", "-seed", "1"))[:2] == (0, [])
    (place / "runs/training-seed1").rename(place / "runs/whole")
    (place / "runs/training").symlink_to("training-seed1")
    process = ranks("devices", "-seed", "1")
    os.kill(begun(place, process)[0], signal.SIGKILL)
    assert ended(process)[0] == 137
    assert ended(ranks("devices", "-seed", "1"))[:2] == (0, [])
    whole = weights(place, "whole")
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(place).items())
    assert records(place) == records(place, "whole")


@pytest.mark.parametrize(("by", "code"), [("torchrun", 1), ("devices", 2)])
def test_an_error_of_one_rank_is_said_once_and_ends_all(place, ranks, by, code):
    returned, errors, _ = ended(ranks(by, env=spoil(place, RAISES)))
    assert returned == code
    assert errors == ["ERROR [file-missing] b/T1.nii.gz: got no file; expected a file; fix: add it"]
    assert outcome(place)["exit_code"] == 2
    assert [error["where"] for error in outcome(place)["errors"]] == ["b/T1.nii.gz"]


def test_a_bug_in_one_rank_is_one_line_too(place, ranks):
    returned, errors, _ = ended(ranks("devices", env=spoil(place, BUG)))
    assert returned == 1
    assert len(errors) == 1
    assert errors[0].startswith("ERROR [bug] ZeroDivisionError: a division; please report it with")


def test_what_one_rank_computes_wrong_ends_all_and_names_the_cases_of_the_whole_batch(place, ranks):
    place.edit("train.yaml", "batch_size: 4", "batch_size: 8")
    returned, errors, _ = ended(ranks("devices", env=spoil(place, NOT_FINITE)))
    assert returned == 4
    assert len(errors) == 1
    assert "got a loss of nan on segments of a, b;" in errors[0]
    assert outcome(place)["exit_code"] == 4


def test_a_rank_that_is_silent_is_named(place, ranks):
    for_long(place)
    process = ranks("devices", env={"DEEPSEG_RANK_TIMEOUT": "5"})
    alive = begun(place, process)
    os.kill(alive[1], signal.SIGSTOP)
    returned, errors, _ = ended(process)
    assert returned == 137
    (line,) = errors
    assert line.startswith("ERROR [rank-lost] got no sign of life of rank 1 in 5 s;")
    assert not any(is_alive(item) for item in alive)
    assert outcome(place)["exit_code"] == 137


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interruption_ends_all_ranks_with_one_line(place, ranks, number, code, word):
    for_long(place)
    process = ranks("devices")
    alive = begun(place, process)
    process.send_signal(number)
    returned, errors, _ = ended(process)
    assert returned == code
    assert len(errors) == 1
    assert errors[0].startswith(f"ERROR [{word}] ")
    assert not any(is_alive(item) for item in alive)
    assert outcome(place)["exit_code"] == code


def test_ranks_end_when_the_process_that_started_them_is_killed(place, ranks):
    for_long(place)
    process = ranks("devices", env={"DEEPSEG_RANK_TIMEOUT": "3"})
    alive = begun(place, process)
    process.kill()
    until = time.monotonic() + 60
    while any(is_alive(item) for item in alive):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert outcome(place)["exit_code"] == 137


def test_what_is_wrong_at_the_start_is_said_once(place, ranks):
    (place / "data/b/T1.nii.gz").unlink()
    returned, errors, _ = ended(ranks("devices"))
    assert returned == 2
    assert len(errors) == 1
    assert errors[0].startswith("ERROR [file-missing] ")


def test_another_number_of_ranks_is_a_warning(place, command, ranks):
    assert ended(ranks("devices"))[0] == 0
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    result = command(*TRAIN)
    assert "WARNING ranks was 2 and is 1: results differ in the last digits" in result.warnings
    assert len(records(place)) == 3


def test_two_trainings_at_once_do_not_disturb_each_other(place, ranks):
    processes = [ranks(by, "-seed", seed) for by, seed in [("torchrun", "1"), ("devices", "2")]]
    assert [ended(process)[:2] for process in processes] == [(0, []), (0, [])]


def test_a_second_training_in_the_same_folder_is_refused(place, ranks):
    for_long(place)
    process = ranks("devices")
    begun(place, process)
    returned, errors, _ = ended(ranks("devices"))
    assert returned == 6
    assert len(errors) == 1
    assert errors[0].startswith("ERROR [folder-in-use] ")
    process.send_signal(signal.SIGINT)
    ended(process)


@pytest.mark.parametrize("number", ["0", "two", "-1", "1.5"])
def test_a_wrong_number_of_devices_is_refused(refused, number):
    (line,) = refused(*TRAIN, f"-devices={number}")
    assert line == (
        f"[command-line] got -devices {number}; expected a whole number from 1 to 1024; "
        "fix: choose another number"
    )


def test_devices_mean_nothing_in_a_rank_of_torchrun(refused, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    (line,) = refused(*TRAIN, "-devices", "2")
    assert line == (
        "[launched-twice] train.yaml: got -devices in a process that torchrun has started as one "
        "of its ranks; expected one way to start ranks; fix: leave out -devices, or start deepseg "
        "without torchrun"
    )


def test_one_gpu_is_not_named_for_several_devices(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    (line,) = refused("-train", "train.yaml", "-dev", "cuda0", "-devices", "2")
    assert line.startswith("[device-shared] -dev: got -dev cuda0 for several ranks;")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (
            ("-train", "train.yaml"),
            "start one task with 'srun --ntasks-per-node 1 torchrun ...', as in "
            "documentation/clusters.md, or with -devices; share folds with "
            "-part $((SLURM_PROCID + 1))/$SLURM_NTASKS",
        ),
        (
            ("-test", "test.yaml", "-model", "M.save"),
            "share the cases with -part $((SLURM_PROCID + 1))/$SLURM_NTASKS",
        ),
    ],
)
def test_tasks_of_srun_that_know_nothing_of_each_other_are_refused(
    refused, model, monkeypatch, words, fix
):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert refused(*words) == [
        f"[srun-without-torchrun] {words[1]}: got {words[0]} in each of 4 tasks that srun started; "
        f"expected one task, or tasks that know of each other; fix: {fix}"
    ]


def test_ranks_of_torchrun_share_the_cases_of_a_test(place, model, command, monkeypatch):
    place.write("data/test.csv", (place / "data/test.csv").read_text() + D.replace("d,", "e,", 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert command("-test", "test.yaml", "-model", model, "-dev", "cpu").returncode == 0
        results = sorted(file.name for file in (place / "runs/results/predictions").iterdir())
        assert results == ["d_Segm.nii.gz", "e_Segm.nii.gz"][: rank + 1]


def test_more_devices_than_gpus_are_refused(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    (line,) = refused("-train", "train.yaml", "-dev", "cuda", "-devices", "2")
    assert line == (
        "[device-absent] train.yaml: got -devices 2 on a machine where torch finds 1 GPUs; "
        "expected a GPU for every rank; fix: say -devices 1, or -dev cpu"
    )
