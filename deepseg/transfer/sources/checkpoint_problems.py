"""The errors of unreadable TensorFlow checkpoints, in the words that users read."""

from __future__ import annotations

from collections.abc import Sequence

from deepseg.errors import DeepsegError, Problem

_COPY_AGAIN = "copy the files of the checkpoint again, or use another checkpoint of the same run"


def missing(got: str, *, expected: str, fix: str) -> DeepsegError:
    """The error for a checkpoint of which a file is not there."""
    return DeepsegError(Problem("checkpoint-missing", got, expected, fix))


def _damaged(got: str, *, expected: str, fix: str) -> DeepsegError:
    return DeepsegError(Problem("checkpoint-damaged", got, expected, fix))


def damaged(got: str) -> DeepsegError:
    """The error for a file that cannot be whole."""
    return _damaged(got, expected="a whole TensorFlow checkpoint", fix=_COPY_AGAIN)


def refused(got: str) -> DeepsegError:
    """The error for a form of checkpoint that is not read."""
    return DeepsegError(
        Problem(
            "checkpoint-refused",
            got,
            expected="an uncompressed little-endian TensorFlow checkpoint of whole tensors of "
            "numbers",
            fix="save the model again in such a form with the program that wrote it",
        )
    )


def unreadable(error: OSError) -> DeepsegError:
    """The error for a file that the system does not let us read."""
    return _damaged(
        f"'{error.strerror or error}' from the system",
        expected="a file that can be read",
        fix="make the file readable, or copy it again",
    )


def first_five(texts: Sequence[str]) -> str:
    """The first five texts, and how many there are besides.

    >>> first_five(list("abcdefg"))
    'a, b, c, d, e, 2 more'
    """
    more = [f"{len(texts) - 5} more"] if len(texts) > 5 else []
    return ", ".join([*texts[:5], *more])
