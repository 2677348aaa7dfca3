"""Life and death of the processes that cut segments; their work is not known here."""

from __future__ import annotations

import signal
from multiprocessing.process import BaseProcess

from deepseg import parent_process


def end_with(parent: int, _worker: int) -> None:
    """End this worker soon after its parent.

    The loader's own watch misses a parent that is killed before it begins.
    """
    parent_process.end_with(parent)


def death(worker: BaseProcess) -> str:
    """The end of ``worker`` as text: ``process 17 was ended by SIGKILL``."""
    code = worker.exitcode or 0
    end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"process {worker.pid} {end}"
