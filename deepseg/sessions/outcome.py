"""Outcomes of commands: the exit code that scripts see, and the record that a session leaves.

The exit codes are listed in documentation/errors.md, the fields of ``outcome.json`` in
documentation/schemas/outcome-1.json. The file is there from the beginning of a session, so that one
that was killed can be told from one that has ended: its state stays ``running``, and the process
that it names is gone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deepseg.errors import DeepsegError, OutOfMemory, Problem, is_out_of_memory, is_process_limit
from deepseg.parent_process import is_alive
from deepseg.sessions.set_aside import set_aside
from deepseg.storage.atomic import write_json
from deepseg.version import VERSION

OUTCOME_SCHEMA = "outcome-1"

_REFUSED_BYTES = re.compile(r"tried to allocate (\d+) bytes")


def exit_code(error: BaseException | None) -> int:
    """The exit code of a command that ended with ``error``, or well."""
    match error:
        case None:
            return 0
        case DeepsegError():
            return error.exit_code
        case KeyboardInterrupt():
            return 130
        case SystemExit(code=int(code)):
            return code
        case _ if is_process_limit(error):
            return DeepsegError.exit_code
        case _:
            return OutOfMemory.exit_code if is_out_of_memory(error) else 1


def process_limit(error: BaseException) -> Problem:
    """The problem of a system that allows no more processes, threads or open files."""
    return Problem(
        code="process-limit",
        got=f"'{error}' from the system",
        expected="as many processes, threads and open files as the session needs",
        fix="raise the limit (ulimit -u, ulimit -n), or lower workers",
    )


def problems(error: BaseException | None) -> tuple[Problem, ...]:
    """Problems that ``error`` tells the user; none for an interruption or a bug."""
    if isinstance(error, DeepsegError):
        return error.problems
    if error is not None and is_process_limit(error):
        return (process_limit(error),)
    if error is None or not is_out_of_memory(error):
        return ()
    memory = Problem(
        code="out-of-memory",
        got=_refused_memory(str(error)),
        expected="memory for all segments or tiles of one batch",
        fix="lower batch_size, segments or tile in the config files",
    )
    return (memory,)


def _refused_memory(text: str) -> str:
    """What a message of Python or torch says about memory, without torch's inner names.

    >>> _refused_memory("[enforce fail at alloc.cpp:7] you tried to allocate 56946240 bytes. Error")
    'no memory for 57 MB more'
    """
    refused = _REFUSED_BYTES.search(text)
    if refused is not None:
        return f"no memory for {int(refused[1]) / 1e6:.0f} MB more"
    return text.split("\n")[0] or "no more memory"


def command_line() -> str:
    """The words with which this process was started, as a shell takes them."""
    return shlex.join(sys.argv)


def moment() -> str:
    """Date and time in UTC, as JSON files have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Outcome:
    """The file ``outcome.json`` of a session.

    Args:
        file: Where it lies.
        session: Name of the session.
        place: What problems without a place of their own are about.
        settings: Every key of its config file, defaults included.
    """

    def __init__(
        self, file: Path, *, session: str, place: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._file = file
        self._place = place
        self._record: dict[str, Any] = {
            "schema": OUTCOME_SCHEMA,
            "state": "running",
            "exit_code": None,
            "errors": [],
            "warnings": [],
            "session": session,
            "version": VERSION,
            "process": {"pid": os.getpid(), "host": socket.gethostname()},
            "command": command_line(),
            "settings": settings,
            "started": moment(),
            "ended": None,
        }

    def begin(self) -> list[Path]:
        """Write that the session is running.

        Returns:
            The new place of a file of this name that no session has written.

        Raises:
            OutputNotWritable: The folder cannot be written to.
        """
        is_foreign = self._file.is_file() and not _is_outcome(self._file)
        foreign = [set_aside(self._file, self._file.parent)] if is_foreign else []
        write_json(self._file, self._record)
        return foreign

    def end(self, error: BaseException | None, warnings: Sequence[str]) -> None:
        """Write how the session ended.

        A second Ctrl-C or SIGTERM meanwhile does not keep the file from being written.

        Raises:
            OutputNotWritable: The folder cannot be written to.
        """
        record = {**self._record, **_ended(error, self._place), "warnings": list(warnings)}
        try:
            write_json(self._file, record)
        except (KeyboardInterrupt, SystemExit) as stop:
            write_json(self._file, record if error else {**record, **_ended(stop, self._place)})
            if error is None:
                raise


def _is_outcome(file: Path) -> bool:
    """True for a file that a session has written, whole or not."""
    try:
        text = file.read_text("utf-8")
        return not text or "exit_code" in json.loads(text)
    except (OSError, ValueError, TypeError):
        return False


def close_for_lost_process(file: Path, error: BaseException, *, place: str) -> bool:
    """Write the end of a session whose process of this machine is gone and could not.

    Returns:
        True if there was something to write.
    """
    try:
        record = json.loads(file.read_text("utf-8"))
        process = record["process"]
        is_open = record["state"] == "running" and process["host"] == socket.gethostname()
        is_lost = is_open and not is_alive(int(process["pid"]))
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if is_lost:
        write_json(file, {**record, **_ended(error, place)})
    return is_lost


def _ended(error: BaseException | None, place: str) -> dict[str, Any]:
    placed = DeepsegError(*problems(error)).at(place).problems
    return {
        "state": "ended",
        "exit_code": exit_code(error),
        "errors": [vars(problem) for problem in placed],
        "ended": moment(),
    }
