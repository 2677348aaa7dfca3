"""The line about steps that wait for segments, and the workers that `auto` stands for."""

import pytest

from deepseg.data.segments.workers import worker_count
from deepseg.sessions.training.run import TrainingRun
from deepseg.sessions.training.timer import EpochTimer


class Lines:
    """Keeps the lines that are printed."""

    def __init__(self):
        self.lines = []
        self.console = self

    def say(self, text):
        self.lines.append(text)


def waiting_run(monkeypatch, waited):
    """A session that is at the end of an epoch of 200 seconds."""
    run = object.__new__(TrainingRun)
    monkeypatch.setattr(TrainingRun, "workers", 2)
    monkeypatch.setattr(EpochTimer, "seconds", 200.0)
    run.folder, run._timer, run._has_told = Lines(), EpochTimer({"waited": waited}), False
    return run


@pytest.mark.parametrize(("waited", "lines"), [(19.0, 0), (20.0, 1)])
def test_more_workers_are_advised_once_from_a_tenth_of_the_epoch_on(monkeypatch, waited, lines):
    run = waiting_run(monkeypatch, waited)
    run._tell_of_waiting()
    run._tell_of_waiting()
    assert (
        run.folder.lines
        == ["steps have waited 10% of the epoch for segments: raise workers, now 2"] * lines
    )


def test_auto_is_one_worker_beside_a_processor_and_cores_of_the_rank_beside_a_gpu(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert worker_count("auto", is_for_gpu=False) == 1
    assert worker_count("auto", is_for_gpu=True) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count("auto", is_for_gpu=True) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert worker_count("auto", is_for_gpu=True) == 1
    assert worker_count(0, is_for_gpu=True) == 0
