"""Memory of the process: plausible, and never nothing."""

from mmap import mmap

import torch

from deepseg.inference import memory
from deepseg.inference.memory import LEAST, available, left, left_on, peak, resident


def test_what_is_in_use_lies_below_its_peak_and_counts_new_arrays():
    before = resident()
    block = mmap(-1, 64 << 20)  # from the system: memory freed by other tests is not used again
    for page in range(0, len(block), 4096):
        block[page] = 1
    assert resident() - before > 60 << 20
    assert 0 < resident() <= peak() + (8 << 20)  # the system counts both in batches
    block.close()


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


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    used = resident()
    assert abs(left(4 * (used + (1 << 30))) - (1 << 30)) < 64 << 20
    assert 0.1 * available() < left(None) < 0.15 * available()


def test_on_a_gpu_its_own_memory_counts_with_what_torch_keeps(monkeypatch):
    counts = {"mem_get_info": (60, 100), "memory_reserved": 9, "memory_allocated": 4}
    for name, value in counts.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda", 0)
    assert left_on(gpu) == 65
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # two of them on one of the two
    assert left_on(gpu) == 35
