"""Writing to a stream that may be a terminal, a file, a pipe, or gone.

Nothing written here can raise, whatever the characters and whatever became of the reader.
"""

from __future__ import annotations

import os
import re
import textwrap
from io import StringIO
from typing import IO, TextIO, cast

from rich.console import Console as RichConsole
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class LenientStream:
    """A text stream that takes every character and survives the loss of its reader."""

    def __init__(self, stream: TextIO | None) -> None:
        """Wrap ``stream``; Python has no stdout (None) where the caller closed it."""
        self._stream = stream if stream is not None else StringIO()
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write ``text``; characters that the encoding lacks as ``\\xe9`` or ``\\u2014``."""
        writable = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        try:
            self._stream.write(writable)
        except (OSError, ValueError):  # the pipe is broken or the stream closed
            return 0
        return len(text)

    def flush(self) -> None:
        """Send all that was written."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        """True for a terminal that can move its cursor."""
        try:
            return self._stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        except ValueError:
            return False


def rich_terminal(stream: LenientStream) -> RichConsole | None:
    """A writer of colours and bars to ``stream``, or None if that is no terminal."""
    if not stream.isatty():
        return None
    return RichConsole(
        file=cast(IO[str], stream),
        force_terminal=True,
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show(stream: LenientStream, terminal: RichConsole | None, text: Text) -> None:
    """Write ``text`` and a line end; on a terminal with its colours, above any progress bar."""
    if terminal is None:
        stream.write(f"{text.plain}\n")
        stream.flush()
    else:
        for line in text.plain.split("\n"):
            for part in _between_words(line, terminal.width):
                terminal.print(Text(part, style=text.style), soft_wrap=True)


def _between_words(line: str, width: int) -> list[str]:
    """Pieces of ``line`` of at most ``width`` characters, but for words that are longer."""
    pieces = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return pieces or [""]


def visible(text: str) -> str:
    r"""``text`` with its control characters spelt out, so that no file name can steer a terminal.

    >>> print(visible("red\x1b[31m.yaml"))
    red\x1b[31m.yaml
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
