"""The file ``events.jsonl`` of a session: a line of JSON for whatever happens, for programs.

Lines are added to its end and never changed. The fields are in documentation/schemas/events-1.json;
the meaning of the events is not known here.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from deepseg.sessions.outcome import moment


class EventLog:
    """Adds events to a file; several threads may.

    Args:
        file: Where it lies; made if it is not there.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        is_torn = _is_torn(file)
        self._file = file.open("a", encoding="utf-8", errors="backslashreplace")
        if is_torn:
            self._write("\n")

    def add(self, event: str, **fields: Any) -> None:
        """Add an event; where the disk takes no more, the file ends with the one before."""
        line = json.dumps({"time": moment(), "event": event, **fields}, allow_nan=False)
        self._write(f"{line}\n")

    def close(self) -> None:
        """Close the file; later events are not kept."""
        with self._lock:
            try:
                self._file.close()
            except OSError:
                return

    def _write(self, text: str) -> None:
        with self._lock:
            try:
                self._file.write(text)
                self._file.flush()
            except (OSError, ValueError):  # the disk is full, or the file closed
                return


def _is_torn(file: Path) -> bool:
    """True if the last line of ``file`` was broken off."""
    try:
        with file.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 1))
            return stream.read() not in (b"", b"\n")
    except OSError:
        return False
