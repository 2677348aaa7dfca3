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
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Literal

from deepseg import parent_process

MOST_FOR_GPU = 8
LOST_BATCH = 71  # exit code of a worker that cannot hand its batches over
_QUEUE_HOOK = "_on_queue_feeder_error"  # of `multiprocessing`, called with what was not handed over


def worker_count(setting: int | Literal["auto"], *, is_for_gpu: bool) -> int:
    """Processes that cut segments, by ``workers`` of a train file.

    One keeps a processor busy. A GPU takes as many segments as the cores of its rank can cut, but
    for one, which gives them to it.

    >>> worker_count(3, is_for_gpu=True), worker_count("auto", is_for_gpu=False)
    (3, 1)
    """
    if setting != "auto":
        return setting
    if not is_for_gpu:
        return 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_FOR_GPU, (os.cpu_count() or 1) // ranks - 1))


def end_with(parent: int, _worker: int) -> None:
    """End this worker soon after its parent, and with `LOST_BATCH` before it loses a batch.

    The loader's own watch misses a parent that is killed before it begins.
    """
    _end_before_losing_a_batch()
    parent_process.end_with(parent)


def _end_before_losing_a_batch() -> None:
    """End this process once it is refused a thread, a file or memory to hand a batch over.

    Python would print a trace and drop the batch, and the session would wait for it for ever.
    """
    start = threading.Thread.start

    def start_or_end(thread: threading.Thread) -> None:
        try:
            start(thread)
        except RuntimeError:
            os._exit(LOST_BATCH)

    def end(_error: Exception, _batch: object) -> None:
        os._exit(LOST_BATCH)

    setattr(threading.Thread, start.__name__, start_or_end)
    setattr(Queue, _QUEUE_HOOK, staticmethod(end))


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
