"""Problems with files of Keras."""

from __future__ import annotations

from deepseg.errors import DeepsegError, Problem


def damaged(got: str) -> DeepsegError:
    """``keras-damaged``: a file that is cut off, or was not written by Keras."""
    return DeepsegError(
        Problem("keras-damaged", got, "a whole file as Keras writes it", "copy or save it again")
    )


def refused(got: str, expected: str, fix: str) -> DeepsegError:
    """``keras-refused``: a file that is whole, but is not read."""
    return DeepsegError(Problem("keras-refused", got, expected, fix))


def unfitting_weights(got: str, expected: str, fix: str) -> DeepsegError:
    """``keras-weights``: weights that do not belong to the layers."""
    return DeepsegError(Problem("keras-weights", got, expected, fix))
