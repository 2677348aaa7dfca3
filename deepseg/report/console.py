"""The lines, tables and progress bars that a person reads, on the screen and in the log file.

Whatever the stream is (terminal, file, pipe, a locale that knows ASCII only, a reader that has gone
away), writing never ends a run. Control codes go to terminals only. The meaning of the lines is not
known here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.progress import Progress
from rich.text import Text

from deepseg.errors import OutputNotWritable, Problem
from deepseg.report.progress import ProgressLines, new_bars
from deepseg.report.streams import LenientStream, rich_terminal, show, visible
from deepseg.report.tables import plain_table, rich_table

Advance = Callable[..., None]


class Console:
    """The screen and the log file to which a session writes.

    Normal lines go to stdout, warnings and errors to stderr, and all of them to the log file.

    Attributes:
        warnings: Every different warning so far, in order, for the outcome of the session.
        wording: Puts warnings into the words of the user's files.
    """

    def __init__(
        self,
        *,
        log_file: Path | None = None,
        quiet: bool = False,
        silent: bool = False,
        stream: TextIO | None = None,
        on_warning: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the log file, if there is one, and look at the stream once.

        Args:
            log_file: Lines are added to its end, each with date and time.
            quiet: Show warnings and errors only; the log file still gets everything.
            silent: Show nothing at all.
            stream: Takes the normal lines in place of stdout.
            on_warning: Takes every different warning, too.
            clock: Seconds from any fixed moment, for progress.

        Raises:
            OutputNotWritable: ``log-not-writable``.
        """
        self.warnings: list[str] = []
        self.wording: Callable[[str], str] = lambda text: text
        self._stream = LenientStream(sys.stdout if stream is None else stream)
        self._terminal = rich_terminal(self._stream)
        self._quiet = quiet or silent
        self._silent = silent
        self._clock = clock
        self._on_warning = on_warning
        self._bars: Progress | None = None
        self._log = None if log_file is None else _open_log(log_file)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the log file; later lines go to the screen only."""
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def is_quiet(self) -> bool:
        """Normal lines are not shown."""
        return self._quiet

    def say(self, text: str = "") -> None:
        """Print a normal line, or several."""
        self._keep(text)
        if not self._quiet:
            self._show(Text(visible(text)))

    def log(self, text: str) -> None:
        """Write a line, or several, to the log file only."""
        self._keep(text)

    def warn(self, text: str) -> None:
        """Print a warning: something is odd but the run goes on. Equal texts are printed once."""
        text = self.wording(text)
        if text not in self.warnings:
            self.warnings.append(text)
            self._alarm("WARNING", text, style="yellow")
            self._on_warning(text)

    def error(self, text: str) -> None:
        """Print an error: something failed."""
        self._alarm("ERROR", text, style="bold red")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under headings; columns that hold values only are aligned to the right."""
        plain = f"{title}\n{plain_table(columns, rows)}"
        self._keep(plain)
        if self._quiet:
            return
        if self._terminal is None:
            self._show(Text(visible(plain)))
        else:
            self._terminal.print(Text(visible(title), style="bold"))
            table = rich_table(columns, rows, width=self._terminal.width)
            self._terminal.print(
                table, width=max(table.width or 0, self._terminal.width), crop=False
            )

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """Show how many of ``total`` steps are done: a bar on a terminal, else a line now and then.

        Yields:
            ``advance(n=1, note="")``: ``n`` more steps are done; ``note`` is shown after the rest.
        """
        lines = ProgressLines(title, total, self._clock)
        try:
            with self._bar(title, total) as bar:

                def advance(n: int = 1, note: str = "") -> None:
                    bar(n, note)
                    line = lines.after(n, note)
                    if line is not None:
                        self._keep(line)
                        if self._terminal is None and not self._quiet:
                            self._show(Text(visible(line)))

                yield advance
        except BaseException:
            self.say(lines.stopped())
            raise
        self.say(lines.finished())

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar below those that are already there; no bar without a terminal."""
        if self._terminal is None or self._quiet:
            yield lambda _n, _note: None
            return
        outermost = self._bars is None
        bars = new_bars(self._terminal, self._clock) if self._bars is None else self._bars
        self._bars = bars
        task = bars.add_task(visible(title), total=total, note="")
        bars.start()
        try:
            yield lambda n, note: bars.update(task, advance=n, note=visible(note))
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    def _alarm(self, word: str, text: str, *, style: str) -> None:
        """``text`` to stderr and to the log, with ``word`` before each of its lines."""
        marked = "\n".join(f"{word} {line}" for line in text.split("\n"))
        self._keep(marked)
        if self._silent:
            return
        stream = LenientStream(sys.stderr)
        show(stream, rich_terminal(stream), Text(visible(marked), style=style))

    def _show(self, text: Text) -> None:
        show(self._stream, self._terminal, text)

    def _keep(self, text: str) -> None:
        """Add ``text`` to the log file; a log that fails is given up with a warning."""
        if self._log is None:
            return
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            for line in visible(text).split("\n"):
                self._log.write(f"{moment} {line}".rstrip() + "\n")
        except OSError as failure:
            broken, self._log = self._log, None
            with suppress(OSError):
                broken.close()
            self.warn(f"the log file {broken.name} ends here: {failure.strerror or failure}")


def _open_log(log_file: Path) -> TextIO:
    try:
        return log_file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as failure:
        raise OutputNotWritable(
            Problem(
                code="log-not-writable",
                got=failure.strerror or type(failure).__name__,
                expected="a log file that can be written",
                fix="free disk space, change the permissions or choose another output folder",
                where=str(log_file),
            )
        ) from failure
