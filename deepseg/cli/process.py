"""Settings of the whole process, made here and nowhere below: its signals and its allocator.

Functions that Python callers use leave a process as it was. What makes a process quick, or lets it
end in order, is for the process that deepseg owns.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys
from types import FrameType

TERMINATED = 143  # the exit code after SIGTERM
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
FILES = 4096  # open at a time; a limit that is higher already stays


_received: list[str] = []


def end_in_order_on_signals() -> None:
    """Let SIGTERM and SIGUSR1 raise SystemExit, so that a session writes its outcome and ends.

    Schedulers such as Slurm send SIGUSR1 to warn of the end of a job's time.
    """
    _received.clear()
    for number in (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
        signal.signal(number, _terminate)


def terminating_signal() -> str:
    """Name of the signal by which this process was told to end."""
    return _received[0] if _received else signal.SIGTERM.name


def open_many_files() -> None:
    """Raise the limit of open files as far as this user may; it is 256 on macOS."""
    with contextlib.suppress(OSError, ValueError):
        limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = FILES if highest == resource.RLIM_INFINITY else min(FILES, highest)
        if limit != resource.RLIM_INFINITY and limit < enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, highest))


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


def _terminate(number: int, _frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)
    raise SystemExit(TERMINATED)
