"""Memory of the process: plausible, and never nothing."""

from deepseg.inference import memory
from deepseg.inference.memory import LEAST, available, left, peak, resident


def test_what_is_in_use_lies_below_its_peak_and_counts_new_arrays():
    before = resident()
    block = bytearray(b"x") * (64 << 20)
    assert resident() - before > 60 << 20
    assert 0 < resident() <= peak() + (8 << 20)  # the system counts both in batches
    del block


def test_a_limit_is_for_the_whole_process():
    used = resident()
    assert abs(left(used + (1 << 30)) - (1 << 30)) < 64 << 20


def test_without_a_limit_half_of_what_is_free_may_be_taken():
    assert 0.4 * available() < left(None) < 0.6 * available()


def test_a_limit_that_is_exceeded_already_leaves_a_little():
    assert left(1) == LEAST


def test_without_the_files_of_linux_the_peak_and_the_whole_machine_count(monkeypatch, tmp_path):
    now, free = resident(), available()
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert resident() == peak() >= now - (8 << 20)
    assert available() > free
