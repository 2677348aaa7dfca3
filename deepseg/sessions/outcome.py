"""How a command ended: the exit code that scripts see, and the problems that people read.

The exit codes are listed in documentation/errors.md.
"""

from __future__ import annotations

from deepseg.errors import DeepsegError, OutOfMemory, Problem, is_out_of_memory


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
        case _:
            return OutOfMemory.exit_code if is_out_of_memory(error) else 1


def problems(error: BaseException | None) -> tuple[Problem, ...]:
    """Problems that ``error`` tells the user; none for an interruption or a bug."""
    if isinstance(error, DeepsegError):
        return error.problems
    if error is None or not is_out_of_memory(error):
        return ()
    memory = Problem(
        code="out-of-memory",
        got=str(error).split("\n")[0] or "no more memory",
        expected="memory for all segments or tiles of one batch",
        fix="lower batch_size, segments or tile in the config files",
    )
    return (memory,)
