"""Memory that this process uses and may use, in bytes; for Linux and macOS.

macOS says neither what is in use now nor what is free without a library of its own: there, the peak
stands for what is in use, and all the memory of the machine counts as free.

In a control group, as containers and schedulers make them, what the group may still take counts
where that is less; the limit of any group around it as well. Pages of files that the system gives
back by itself are not taken, as in what it says of the whole machine.

Processes that work side by side share memory: the launcher says how many there are in
``LOCAL_WORLD_SIZE``, as torchrun does.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

LEAST = 64 << 20  # what is always taken for granted
PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _Files:
    """Files in which a version of control groups tells of memory; relative to a group's folder.

    Attributes:
        root: Folder of the groups, below that of all.
        limit: Bytes, or a word for none.
        used: Bytes.
        files: The row of ``memory.stat`` with the bytes of pages that can be given back.
    """

    root: str
    limit: str
    used: str
    files: str


VERSION_1 = _Files(
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)
VERSION_2 = _Files("", "memory.max", "memory.current", "inactive_file")


def resident() -> int:
    """Memory in use now."""
    try:
        pages = int((PROC / "self/statm").read_text("ascii").split()[1])
    except FileNotFoundError:
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """Largest use so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available() -> int:
    """Memory that is free now on this machine, and in the control groups of this process."""
    return min([_free_on_machine(), *_free_in_groups()])


def _free_on_machine() -> int:
    try:
        lines = (PROC / "meminfo").read_text("ascii").splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows = dict(line.split(":") for line in lines)
    return int(rows["MemAvailable"].split()[0]) * 1024


def _free_in_groups() -> Iterator[int]:
    """What may still be taken in each group around this process that has a limit."""
    try:
        lines = (PROC / "self/cgroup").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = VERSION_1 if controllers else VERSION_2
        root = GROUPS / version.root
        innermost = root / path.lstrip("/")
        for group in (innermost, *innermost.parents):
            if group.is_relative_to(root):
                yield from _free_in(group, version)


def _free_in(group: Path, version: _Files) -> Iterator[int]:
    """Nothing without a limit, or where the group is not to be seen from inside a container."""
    try:
        limit, used, rows = (
            (group / name).read_text("ascii")
            for name in (version.limit, version.used, "memory.stat")
        )
    except OSError:
        return
    if limit.strip() != "max":
        reclaimable = dict(row.split() for row in rows.splitlines())[version.files]
        yield max(0, int(limit) - int(used) + int(reclaimable))


def left(limit: int | None) -> int:
    """Bytes that this process may still take: of ``limit`` in all, or else half of what is free."""
    if limit is None:
        return max(LEAST, available() // 2 // processes())
    return max(LEAST, limit // processes() - resident())


def left_on(gpu: torch.device) -> int:
    """Memory that is free on a GPU for this process, with that which torch holds unused."""
    free, _ = torch.cuda.mem_get_info(gpu)
    reserved = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    sharing = -(-processes() // torch.cuda.device_count())
    return reserved + free // sharing


def processes() -> int:
    """Number of processes that share the memory of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
