"""How much memory this process uses and may use, in bytes; for Linux and macOS.

macOS says neither what is in use now nor what is free without a library of its own: there, the peak
stands for what is in use, and all the memory of the machine counts as free.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

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
    """What may still be taken: up to ``limit`` in all, or else half of what is free."""
    return max(LEAST, available() // 2 if limit is None else limit - resident())
