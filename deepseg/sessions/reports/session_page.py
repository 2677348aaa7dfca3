"""The file ``report.html`` in a session's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from deepseg.report.page.document import Section, write_page
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.version import VERSION

NAME = "report.html"


def write_session_page(
    folder: Path, title: str, subtitle: str, sections: Sequence[Section]
) -> tuple[Path, ...]:
    """Write the page of a session; a file of this name that others wrote or changed is set aside.

    Args:
        folder: Of the session.
        title: Heading of the page.
        subtitle: Below it, before version, time and folder; may be empty.
        sections: From top to bottom.

    Returns:
        The new places of files that were set aside.
    """
    records = CompletedCases(folder, "written")
    set_aside = records.begin("report", [folder / NAME])
    now = time.strftime("%Y-%m-%d %H:%M")
    facts = [subtitle] if subtitle else []
    line = ", ".join([*facts, f"deepseg {VERSION}", now, str(folder)])
    write_page(folder / NAME, title, line, sections)
    records.keep("report", "", {"files": [NAME]})
    return set_aside
