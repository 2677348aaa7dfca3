"""The command line: arguments → one call; errors → lines on stderr and an exit code.

Options have one dash, as in DeepMedic; two work as well.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from rich.text import Text

from deepseg.cli.arguments import Arguments, Command, parsed, short_help
from deepseg.cli.dependencies import broken_dependency, old_dependencies
from deepseg.cli.process import (
    TERMINATED,
    end_in_order_on_signals,
    open_many_files,
    terminating_signal,
)
from deepseg.errors import (
    DeepsegError,
    OutOfMemory,
    ReportedByPeer,
    is_out_of_memory,
    is_process_limit,
    raise_if_any,
    unwritable_letters,
)
from deepseg.parent_process import end_with_starter
from deepseg.report.streams import LenientStream, rich_terminal, show, visible
from deepseg.sessions.outcome import exit_code, problems

SHOWN_PROBLEMS = 20


def main(arguments: Sequence[str] | None = None, *, program: str = "deepseg") -> int:
    """Run one command; return its exit code (documentation/errors.md).

    Args:
        arguments: The words after the name of the program. Default: those of this process.
        program: The name by which its user calls it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        _say(short_help(program))
        return 2
    return supervised(lambda: _run(parsed(words, program=program)), way_on=_way_on(words))


def supervised(action: Callable[[], None], *, way_on: str) -> int:
    """Do the work of this process; show what stops it, and return the exit code.

    Args:
        action: Parses the command line and does what it asks for.
        way_on: What to do after an interruption, as the end of a sentence.
    """
    end_in_order_on_signals()
    open_many_files()
    end_with_starter()
    _leave_removed_folder()
    try:
        action()
    except ReportedByPeer as error:
        return error.exit_code
    except DeepsegError as error:
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:
        _say(f"ERROR [interrupted] stopped by Ctrl-C; {way_on}")
        return 130
    except SystemExit as stop:
        if stop.code == TERMINATED:
            _say(f"ERROR [terminated] stopped by {terminating_signal()}; {way_on}")
        return exit_code(stop)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a bug: the user gets one line, its finder the whole trace
        _say(_line(f"ERROR [bug] {type(error).__name__}: {error}; {_trace_file()}"))
        return exit_code(error)
    return 0


def _way_on(words: Sequence[str]) -> str:
    """The command that goes on where one of ``words`` was for the beginning of a session only."""
    typed = {word.lstrip("-").split("=")[0] for word in words if word.startswith("-")}
    for option in ("resetOptimizer", "resetopt", "load"):
        if "train" in typed and option in typed:
            return f"the same command goes on, without -{option} once an epoch is saved"
    return "the same command goes on"


def _run(arguments: Arguments) -> None:
    """Do what the arguments ask for; problems without a place are about the file that they name."""
    place = "" if arguments.file is None else str(arguments.file)
    try:
        _call(arguments)
    except DeepsegError as error:
        raise error.at(place) from error
    except UnicodeEncodeError as error:
        raise DeepsegError(unwritable_letters(error)).at(place) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(*problems(error)).at(place) from error
        if is_process_limit(error):
            raise DeepsegError(*problems(error)).at(place) from error
        raise


def _call(arguments: Arguments) -> None:
    """Call one command; what it needs is imported only for it."""
    commands = command_module()
    functions: dict[Command, Callable[[Arguments], None]] = {
        "plan": commands.plan,
        "newModel": commands.new_model,
        "prepare": commands.prepare,
        "train": commands.train,
        "test": commands.test,
        "segment": commands.segment,
        "check": commands.check,
        "show": commands.show,
        "export": commands.export,
        "convert": commands.convert,
        "compare": commands.compare,
        "demo": commands.demo,
    }
    functions[arguments.command](arguments)


def command_module() -> ModuleType:
    """The module `deepseg.cli.commands`, which is imported once the arguments are understood.

    Raises:
        DeepsegError: ``dependency-too-old`` or ``dependency-broken``.
    """
    raise_if_any(old_dependencies())
    try:
        from deepseg.cli import commands
    except ImportError as error:
        if (error.name or "").startswith("deepseg"):
            raise
        raise broken_dependency(error) from error
    return commands


def _show(error: DeepsegError) -> None:
    for problem in error.problems[:SHOWN_PROBLEMS]:
        _say(_line(f"ERROR {problem}"))
    more = len(error.problems) - SHOWN_PROBLEMS
    if more > 0:
        _say(f"ERROR … and {more} more")


def _line(text: str) -> str:
    """``text`` as one line, whatever is in the names and values that it quotes."""
    return visible(text).replace("\n", "\\n")


def _say(text: str) -> None:
    stream = LenientStream(sys.stderr)
    show(stream, rich_terminal(stream), Text(text))


def _trace_file() -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="deepseg-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exc(file=file)
    except OSError:
        return "the trace could not be written"
    return f"please report it with {Path(file.name)}"


def _leave_removed_folder() -> None:
    """Go to the root where the current folder is gone: torch's libraries would not load in it."""
    try:
        Path.cwd()
    except OSError:
        os.chdir("/")
