"""Processes that end soon after the one that started them, however that ended.

What they do, and how they are started, is not known here.
"""

from __future__ import annotations

import os
import threading
import time

STARTER = "DEEPSEG_STARTED_BY"  # in the environment: the number of a process to end with
SECONDS_BETWEEN_LOOKS = 1.0


def end_with(parent: int) -> None:
    """End this process, whatever it waits for, once it has another parent than ``parent``."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_starter() -> None:
    """The same with the process that has named itself in the environment, if one has."""
    starter = os.environ.pop(STARTER, None)  # not for those that this one starts
    if starter is not None:
        end_with(int(starter))
