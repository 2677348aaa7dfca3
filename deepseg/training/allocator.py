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
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:  # it is not in every C library
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)
