"""Processes that end soon after the one that started them, however that ended.

Nothing here knows what they do or how they are started.
"""

from __future__ import annotations

import os
import threading
import time

STARTER = "DEEPSEG_STARTED_BY"  # in the environment: the number of the process to end with
CHECK_INTERVAL_S = 1.0


def end_with(parent: int) -> None:
    """End this process, whatever it waits for, once it has another parent than ``parent``.

    Raises:
        RuntimeError: The system allows no more threads.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_starter() -> None:
    """End this process with the one that is named in the environment, if one is."""
    starter = os.environ.pop(STARTER, None)  # not for those that this one starts
    if starter is not None:
        end_with(int(starter))


def is_alive(process: int) -> bool:
    """True if a process of this number lives on this machine.

    >>> is_alive(os.getpid())
    True
    """
    if os.name == "nt":
        return True  # there, signal 0 is no question: it interrupts the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
