"""Life and death of the processes that cut segments; their work is not known here."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from deepseg import parent_process

NO_THREADS = 71  # exit code of a worker that the system allows no threads


def end_with(parent: int, _worker: int) -> None:
    """End this worker soon after its parent.

    The loader's own watch misses a parent that is killed before it begins. A worker that may not
    start the thread for that, and another one to hand its batches over, ends with `NO_THREADS`.
    """
    try:
        parent_process.end_with(parent)
        hands_over = threading.Thread(target=lambda: None, daemon=True)
        hands_over.start()
        hands_over.join()
    except RuntimeError:
        os._exit(NO_THREADS)


def death(worker: BaseProcess) -> str:
    """The end of ``worker`` as text: ``process 17 was ended by SIGKILL``."""
    code = worker.exitcode or 0
    end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"process {worker.pid} {end}"


def end_stopped(workers: Sequence[BaseProcess], *, every_s: float) -> None:
    """End those of ``workers`` that a signal has stopped, from now on and as long as any lives.

    Whoever waits for a batch of theirs, or for its handing over, would wait for ever.
    Those that are found stopped twice are ended: after Ctrl-Z, all of a session go on together.
    """

    def watch() -> None:
        before: set[int | None] = set()
        while any(_lives(worker) for worker in workers):
            time.sleep(every_s)
            stopped = [worker for worker in workers if _lives(worker) and is_stopped(worker)]
            for worker in stopped:
                if worker.pid in before:
                    worker.kill()
            before = {worker.pid for worker in stopped}

    with suppress(RuntimeError):  # no more threads are allowed
        threading.Thread(target=watch, daemon=True).start()


def _lives(worker: BaseProcess) -> bool:
    # Asking for the exit code would take it from the thread that waits for a batch.
    return worker.pid is not None and parent_process.is_alive(worker.pid)


def is_stopped(worker: BaseProcess) -> bool:
    """True if a signal has stopped ``worker``, which would keep its session waiting for ever."""
    try:
        state = Path(f"/proc/{worker.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
    except OSError:  # it is gone, or the system has no such file
        return False
    return state.split()[0] in ("T", "t")


def shared_memory_free() -> int | None:
    """Bytes through which workers can hand over tensors; None where the system has no limit."""
    try:
        state = os.statvfs("/dev/shm")
    except OSError:
        return None
    return state.f_bavail * state.f_frsize


def open_files_limit() -> float:
    """Files that this process may have open at a time."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if limit == resource.RLIM_INFINITY else limit
