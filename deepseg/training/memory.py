"""How the C library treats the memory of feature maps; nothing else is known here."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back, on Linux.

    Every step needs maps of the same sizes. By default each is new memory that the system clears
    first, which takes longer than most of what is done with it.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)
