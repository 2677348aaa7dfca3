"""How much memory this process uses and may use, in bytes; for Linux and macOS.

macOS says neither what is in use now nor what is free without a library of its own: there, the peak
stands for what is in use, and all the memory of the machine counts as free.

Processes that work side by side share memory: the launcher says how many there are in
``LOCAL_WORLD_SIZE``, as torchrun does.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

LEAST = 64 << 20  # what is always taken for granted
PROC = Path("/proc")


def resident() -> int:
    """In use now."""
    try:
        pages = int((PROC / "self/statm").read_text("ascii").split()[1])
    except FileNotFoundError:
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most that was ever in use."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available() -> int:
    """Free on this machine now."""
    try:
        lines = (PROC / "meminfo").read_text("ascii").splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows = dict(line.split(":") for line in lines)
    return int(rows["MemAvailable"].split()[0]) * 1024


def left(limit: int | None) -> int:
    """What this process may still take: of ``limit`` in all, or else of half of what is free."""
    if limit is None:
        return max(LEAST, available() // 2 // processes())
    return max(LEAST, limit // processes() - resident())


def left_on(gpu: torch.device) -> int:
    """Free on a GPU for tensors of this process, with what torch has kept there for later."""
    free, _ = torch.cuda.mem_get_info(gpu)
    kept = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    sharing = -(-processes() // torch.cuda.device_count())
    return kept + free // sharing


def processes() -> int:
    """How many share the memory of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
