"""Killed at any moment: the same command ends with the same bits, in the middle of an epoch too."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from functools import cache, partial

import pytest

from deepseg.data.segments.loader import SegmentLoader
from deepseg.sessions.folder import SessionFolder
from deepseg.training.optimization import Optimizer
from tests.commands.conftest import CHECKOUT

TRAIN = ("-train", "train.yaml")
EPOCHS, SUBEPOCHS = 3, 4

# Everything that has a state: dropout, momentum, an average, a warm-up, scores that a rate follows.
SETTINGS = f"""\
epochs: {EPOCHS}
subepochs: {SUBEPOCHS}
optimiser: {{name: adam, learning_rate: 0.01}}
schedule: {{type: plateau, patience: 1}}
steps: {{average: 0.9, warm_up: 1.5, clip_norm: 1, accumulate: 2}}
loss: {{l2_sp: 0.001}}
checkpoints: {{seconds: 0, best: training/loss}}
workers: 0
"""

# Gives the command again and again in processes that die, until one comes to its end.
REPEATING = """\
import os, random, signal, sys, time
from pathlib import Path
import deepseg.cli.commands, matplotlib.pyplot  # once, not in every attempt
from deepseg.cli.main import main

def attempt(moment):
    process = os.fork()
    if process == 0:
        how(moment)
        os._exit(main(["-train", "train.yaml", "-quiet"]))
    return process

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_while_writing(moment):
    write, count = Path.write_bytes, iter(range(moment, -1, -1))
    def half(path, content):
        if next(count) == 0:
            write(path, content[: len(content) // 2])
            die()
        write(path, content)
    Path.write_bytes = half

def die_while_flushing(moment):  # odd: before a file has its name; even: after
    flush, count = os.fsync, iter(range(moment, -1, -1))
    os.fsync = lambda file: die() if next(count) == 0 else flush(file)

def die_at_some_time(moment):
    pass

rng = random.Random(int(sys.argv[2]))
how = globals()[sys.argv[1]]
deaths = 0
while True:
    process = attempt(rng.randrange(1, 12))
    if how is die_at_some_time:
        # On a busy machine the time that progress takes is reached in few attempts.
        time.sleep(rng.uniform(0, max(0.4 + 0.1 * deaths, 0.3 * 1.2**deaths)))
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status):
        break
    deaths += 1
print(deaths, os.waitstatus_to_exitcode(status))
"""


@pytest.fixture(scope="module")
def undisturbed(template, tmp_path_factory, begin):
    """The folder of a session of some precision that nobody disturbed."""

    @cache
    def session(precision):
        folder = tmp_path_factory.mktemp("undisturbed") / "place"
        shutil.copytree(template, folder)
        prepare(folder, precision=precision)
        assert begin("-train", str(folder / "train.yaml"), "-quiet") == 0
        return folder / "runs/training"

    return session


def prepare(folder, workers=0, precision="float32"):
    text = (folder / "train.yaml").read_text()
    begin_of_ends = text.index("epochs: 2")
    settings = SETTINGS.replace("workers: 0", f"workers: {workers}")
    settings += f"precision: {precision}\n"
    (folder / "train.yaml").write_text(text[:begin_of_ends] + settings)
    with (folder / "model.yaml").open("a") as file:
        file.write("fc: {feature_maps: [5], dropout: [0, 0.3]}\n")


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0, "waited": 0, "core_seconds": 0} for line in lines]


@pytest.fixture
def same_session(same_weights):
    """Demand that two sessions left the same models and records."""

    def check(one, other):
        assert records(one) == records(other)
        files = [sorted(p.name for p in (f / "models").iterdir()) for f in (one, other)]
        assert files[0] == files[1] == ["best.save", "last.save", "previous.save"]
        for file in files[0]:
            same_weights(one / "models" / file, other / "models" / file)

    return check


@pytest.mark.parametrize(
    ("how", "workers", "precision"),
    [
        ("die_at_some_time", 0, "float32"),
        ("die_at_some_time", 1, "float32"),
        ("die_at_some_time", 4, "float32"),
        ("die_at_some_time", 1, "bfloat16"),
        ("die_while_writing", 0, "float32"),
        ("die_while_flushing", 0, "float32"),
    ],
)
def test_a_session_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    start, wait, place, undisturbed, same_session, how, workers, precision
):
    prepare(place.path, workers, precision)
    process = start(how, "1", program=("-c", REPEATING), env={"PYTHONPATH": str(CHECKOUT)})
    ended = wait(process)
    assert "ERROR" not in ended.stderr
    deaths, code = map(int, ended.stdout.split())
    assert code == 0
    assert deaths >= 3
    assert list(place.path.rglob("*.partial.*")) == []
    same_session(place / "runs/training", undisturbed(precision))


def test_the_middle_of_an_epoch_is_kept_only_so_often(command, place):
    prepare(place.path)
    place.edit("train.yaml", "seconds: 0", "seconds: 3600")
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SessionFolder, "save_running", lambda *_: written.append(1))
        assert command(*TRAIN).returncode == 0
    assert written == []


def test_a_damaged_middle_of_an_epoch_is_passed_over(command, place, undisturbed, same_session):
    prepare(place.path)
    stop_after(command, steps=6)
    file = "runs/training/models/running.save"
    place.damage(file, lambda content: content[:-100])
    again = command(*TRAIN)
    assert (again.returncode, again.stderr) == (
        0,
        f"WARNING [model-damaged] HERE/{file}: got no complete zip container; expected a whole "
        ".save file; fix: copy the file again, or use an earlier one of the same session; "
        "continuing from HERE/runs/training/models/last.save\n",
    )
    same_session(place / "runs/training", undisturbed("float32"))


def test_it_is_said_where_a_session_goes_on_in_the_middle_of_an_epoch(command, place):
    prepare(place.path)
    stop_after(command, steps=5)
    message = command(*TRAIN).stdout
    assert (
        "from HERE/runs/training/models/running.save; epoch 1 of 3, 1 of 4 sub-epochs; learning "
        "rate 0.00857\n"  # 0.01 times 6 / 7, since the warm-up takes 6 sub-epochs
    ) in message
    assert "epoch 2 of 3: 6/6 in " in message  # the steps that are left


def stop_after(command, *, steps):
    """Train until so many steps are done, one in each sub-epoch."""
    step, done = Optimizer.step, []

    def counted(self):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "step", counted)
        assert command(*TRAIN).returncode == 130


@pytest.fixture
def killing(monkeypatch):
    """Give the steps, counted from 0, before which all workers are killed."""
    step, done = Optimizer.step, []

    def given(*steps):
        def killing(self):
            if len(done) in steps:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)
            done.append(1)
            step(self)

        monkeypatch.setattr(Optimizer, "step", killing)

    return given


def lives(group):
    """Whether a process of a group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_do_not_outlive_a_killed_session(start, place):
    prepare(place.path, workers=2)
    place.edit("train.yaml", "epochs: 3", "epochs: 300")
    process = start(*TRAIN)
    deadline = time.monotonic() + 30
    while not (place / "runs/training/models/running.save").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    while lives(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_worker_costs_no_bits(command, place, undisturbed, same_session, killing):
    prepare(place.path, workers=1)
    killing(2)
    result = command(*TRAIN)
    assert result.returncode == 0
    assert re.sub(r"process \d+", "process 17", result.stderr) == (
        "WARNING [worker-killed] process 17 was ended by SIGKILL; new workers go on\n"
    )
    same_session(place / "runs/training", undisturbed("float32"))


def test_workers_that_die_again_and_again_end_the_session(command, place, monkeypatch, killing):
    prepare(place.path, workers=1)
    impatient = partial(SegmentLoader, attempts=1)
    monkeypatch.setattr("deepseg.commands.train_session.SegmentLoader", impatient)
    killing(5)
    result = command(*TRAIN)
    assert result.returncode == 137
    assert re.sub(r"process \d+", "process 17", result.stderr) == (
        "ERROR [worker-killed] train.yaml: got 1 times workers that were killed over one batch "
        "(process 17 was ended by SIGKILL); expected workers that live as long as the session; "
        "fix: lower workers or segments if memory ran out; the same command goes on\n"
    )
