"""How much memory this process uses and may use, in bytes; for Linux."""

from __future__ import annotations

import os
import resource
from pathlib import Path

LEAST = 64 << 20  # what is always taken for granted


def resident() -> int:
    """In use now."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most that was ever in use."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available() -> int:
    """Free on this machine now."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    rows = dict(line.split(":") for line in lines)
    return int(rows["MemAvailable"].split()[0]) * 1024


def left(limit: int | None) -> int:
    """What may still be taken: up to ``limit`` in all, or else half of what is free."""
    return max(LEAST, available() // 2 if limit is None else limit - resident())
