"""How a command ended, as the exit code that scripts see (documentation/errors.md).

Nothing here imports torch: its errors are told by their names and words.
"""

from __future__ import annotations

from deepseg.errors import DeepsegError

_OUT_OF_MEMORY = "OutOfMemoryError"  # torch's, for GPUs
_NO_MEMORY = "can't allocate memory"  # in what torch's RuntimeError says of the machine's


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
            return 137 if is_out_of_memory(error) else 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the machine or of the GPU ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == _OUT_OF_MEMORY:
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY in str(error)
