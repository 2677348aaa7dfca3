"""Memory of the process: plausible, and never nothing."""

from mmap import mmap

import pytest
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


MACHINE = 1 << 40  # free
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A tree of control groups; takes what `/proc/self/cgroup` says, and numbers by group."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemFree: 5 kB\nMemAvailable: {MACHINE >> 10} kB\n")

    def made(own, files, groups):
        (tmp_path / "proc/self/cgroup").write_text(own)
        limit_file, used_file, row = files
        for group, (limit, used, cached) in groups.items():
            folder = tmp_path / "groups" / group
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit_file).write_text(f"{limit}\n")
            (folder / used_file).write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 77\n{row} {cached}\nslab 5\n")

    return made


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"job": ("max", 700, 0), "job/step": ("max", 600, 0)}, MACHINE),
        ({"job/step": (1000, 600, 50)}, 450),
        ({"job": (1000, 900, 20), "job/step": (5000, 600, 50)}, 120),
        ({"job/step": ("max", 600, 50), "": (999, 100, 0)}, 899),
        ({"job/step": (1000, 1200, 50)}, 0),
        ({"job/step": (1 << 50, 0, 0)}, MACHINE),
        ({"job/other": (1000, 600, 50)}, MACHINE),
    ],
)
def test_every_group_around_a_process_may_leave_less_than_the_machine(system, groups, expected):
    system("0::/job/step\n", V2, groups)
    assert available() == expected


@pytest.mark.parametrize("controllers", ["memory", "hugetlb,memory"])
def test_the_first_version_of_groups_has_a_tree_for_memory(system, controllers):
    groups = f"7:cpu,cpuacct:/else\n5:{controllers}:/docker/a:b\n1:name=systemd:/\n0::/\n"
    unlimited = ((1 << 63) - 4096, 0, 0)
    system(groups, V1, {"memory/docker/a:b": (1000, 600, 50), "memory/docker": unlimited})
    assert available() == 450


def test_in_a_container_the_root_is_its_own_group(system):
    system("5:memory:/docker/not/to/be/seen\n", V1, {"memory": (1000, 600, 50)})
    assert available() == 450
    system("0::/\n", V2, {"": (1000, 700, 50)})
    assert available() == 350


def test_half_of_what_a_group_leaves_may_be_taken(system):
    system("0::/job\n", V2, {"job": (10 << 30, 2 << 30, 0)})
    assert left(None) == 4 << 30


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
