"""Progress of a piece of work: plain lines for files, bars for terminals."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from deepseg.report.streams import LenientStream

SECONDS_BETWEEN_LINES = 30.0


def duration(seconds: float) -> str:
    """A time in the two largest units that matter.

    >>> duration(4.21), duration(42.4), duration(125)
    ('4.2 s', '42 s', '2 min 05 s')
    >>> duration(3 * 3600 + 7 * 60), duration(51 * 3600)
    ('3 h 07 min', '2 d 03 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


class ProgressLines:
    """The plain lines of one progress: rare, and one at the end.

    >>> seconds = iter([0, 40, 60])
    >>> lines = ProgressLines("cases", total=10, clock=lambda: next(seconds))
    >>> lines.after(4, note="Dice 0.8")
    'cases: 4/10, ETA 1 min 00 s, Dice 0.8'
    >>> lines.finished()
    'cases: 4/10 in 1 min 00 s, Dice 0.8'
    """

    def __init__(self, title: str, total: int, clock: Callable[[], float]) -> None:
        self._title = title
        self._total = total
        self._clock = clock
        self._done = 0
        self._note = ""
        self._begin = self._last_line = clock()

    def after(self, n: int, note: str) -> str | None:
        """The line to print after ``n`` more steps, if it is time for one."""
        self._done += n
        self._note = note
        now = self._clock()
        if now - self._last_line < SECONDS_BETWEEN_LINES or self._done >= self._total:
            return None
        self._last_line = now
        return self._line(f", ETA {self._time_left(now)}")

    def finished(self) -> str:
        """The last line."""
        return self._line(f" in {duration(self._clock() - self._begin)}")

    def stopped(self) -> str:
        """The last line if the work was broken off."""
        return self._line(f", stopped after {duration(self._clock() - self._begin)}")

    def _line(self, times: str) -> str:
        note = f", {self._note}" if self._note else ""
        return f"{self._title}: {self._done}/{self._total}{times}{note}"

    def _time_left(self, now: float) -> str:
        if self._done == 0:
            return "unknown"
        return duration((now - self._begin) / self._done * (self._total - self._done))


class _Rate(ProgressColumn):
    """Steps a second, or seconds a step if that is the larger value."""

    def render(self, task: Task) -> Text:
        speed = task.speed or 0.0
        if speed <= 0:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def new_bars(terminal: RichConsole, clock: Callable[[], float]) -> Progress:
    """Bars with count, rate, ETA and note; they vanish when all work is done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _Rate(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=terminal,
        transient=True,
        refresh_per_second=4,
        get_time=clock,
        redirect_stdout=False,
        redirect_stderr=LenientStream(sys.stderr).isatty(),
    )
