"""Files of the user's that have the names of results: moved out of the way, never written over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.errors import Problem
from deepseg.report.console import Console
from deepseg.storage.atomic import writable


def set_aside(file: Path, session: Path) -> Path:
    """Move a file to ``set_aside`` in the session's folder, or a new folder beside it.

    Returns:
        Its new place.

    Raises:
        OutputNotWritable: It cannot be moved.
    """
    number, place = 1, session / "set_aside" / file.name
    while place.exists():
        number += 1
        place = session / f"set_aside-{number}" / file.name
    with writable(place):
        place.parent.mkdir(exist_ok=True)
        file.rename(place)
    return place


def warn_of_set_aside(files: Sequence[Path], console: Console) -> None:
    """Print one warning for files of the user's that were in the way of results."""
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        problem = Problem(
            code="result-changed",
            got="files with names of results that this session did not write as they are",
            expected="its own results",
            fix=f"look at them where they are kept: {', '.join(map(str, files[:3]))}{more}",
        )
        console.warn(str(problem))
