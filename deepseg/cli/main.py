"""The command line: arguments → one call; errors → lines on stderr and an exit code.

Options have one dash, as in DeepMedic; two work as well.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from deepseg.cli.arguments import Arguments, parsed, short_help
from deepseg.errors import DeepsegError

SHOWN_PROBLEMS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (documentation/errors.md)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if not given:
            print(short_help(), file=sys.stderr)
            return 2
        _run(parsed(given))
    except DeepsegError as error:
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("ERROR [interrupted] stopped by Ctrl-C; the same command goes on", file=sys.stderr)
        return 130
    except MemoryError:
        print("ERROR [memory] memory ran out; use smaller segments or batches", file=sys.stderr)
        return 137
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a bug: the user gets one line, its finder the whole trace
        print(f"ERROR [bug] {type(error).__name__}: {error}; {_trace_file()}", file=sys.stderr)
        return 137 if _is_out_of_memory(error) else 1
    return 0


def _run(arguments: Arguments) -> None:
    """Call what the arguments ask for; what a command needs is imported only for it."""
    from deepseg.cli import commands

    match arguments.command:
        case "newModel":
            commands.new_model(arguments)
        case "train":
            commands.train(arguments)
        case "test":
            commands.test(arguments)
        case "check":
            commands.check(arguments)
        case "show":
            commands.show(arguments)
        case "demo":
            commands.demo(arguments)


def _show(error: DeepsegError) -> None:
    for problem in error.problems[:SHOWN_PROBLEMS]:
        print(f"ERROR {problem}", file=sys.stderr)
    more = len(error.problems) - SHOWN_PROBLEMS
    if more > 0:
        print(f"ERROR … and {more} more", file=sys.stderr)


def _trace_file() -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="deepseg-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exc(file=file)
    except OSError:
        return "the trace could not be written"
    return f"please report it with {Path(file.name)}"


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


def _terminated(_number: int, _frame: FrameType | None) -> None:
    print("ERROR [terminated] stopped by SIGTERM; the same command goes on", file=sys.stderr)
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
