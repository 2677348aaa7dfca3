"""Files that cannot be read, told apart before anything waits for them or is misunderstood."""

from __future__ import annotations

import stat
from pathlib import Path

from deepseg.errors import DeepsegError, Problem


def raise_if_unreadable(path: Path) -> None:
    """Refuse pipes, devices, and files that the system does not let this user read.

    What is not there, and folders, are left to the caller, who knows what they could be instead.

    Raises:
        DeepsegError: ``file-unreadable``.
    """
    fault = _fault(path)
    if fault is not None:
        raise DeepsegError(
            Problem(
                code="file-unreadable",
                got=fault,
                expected="a file that can be read",
                fix="give a file that this user may read",
                where=str(path),
            )
        )


def _fault(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            return "a pipe, socket or device"
        with path.open("rb"):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return "a name that no file can have"
    except OSError as error:
        return f"'{error.strerror}' from the system"
