"""Seconds of an epoch and seconds of waiting, over several processes."""

import time

import pytest

from deepseg.sessions.training.timer import EpochTimer


def slowly(items, seconds):
    for item in items:
        time.sleep(seconds)
        yield item


def test_time_until_a_batch_is_there_is_waited_and_the_step_is_not():
    clock = EpochTimer({})
    for _ in clock.timed(slowly("abc", 0.02)):
        time.sleep(0.05)
    assert 0.06 <= clock.waited < 0.15
    assert clock.seconds >= 0.21


def test_a_clock_goes_on_where_the_process_before_ended():
    clock = EpochTimer({"seconds": 100.0, "waited": 7.0, "core_seconds": 3.0})
    for _ in clock.timed([1, 2]):
        time.sleep(0.01)
    assert clock.state_dict() == {
        "seconds": pytest.approx(100.02, abs=1),
        "waited": pytest.approx(7, abs=0.005),
        "core_seconds": pytest.approx(3, abs=0.005),
    }


def test_processor_time_is_that_of_steps_and_not_of_sleeping():
    clock = EpochTimer({})
    for _ in clock.timed(slowly("ab", 0.05)):
        begun = time.process_time()
        while time.process_time() < begun + 0.05:
            pass
    assert 0.1 <= clock.core_seconds < 0.15
