"""Settings of the whole process, made here and nowhere below: its signals and its allocator.

Functions that Python callers use leave a process as it was. What makes a process quick, or lets it
end in order, is for the process that deepseg owns.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from types import FrameType

TERMINATED = 143  # the exit code after SIGTERM
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def end_in_order_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that a session writes its outcome before it ends."""
    signal.signal(signal.SIGTERM, _terminate)


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back, on Linux.

    Every step of training needs maps of the same sizes. By default each is new memory that the
    system clears first, which takes longer than most of what is done with it. The C library cannot
    tell its present settings, and its automatic threshold never returns once one was set: so there
    is no way back, and only a process that does nothing else may call this.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:  # it is not in every C library
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
