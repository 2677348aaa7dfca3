"""The one way in which deepseg tells a user that something is wrong."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it.

    Attributes:
        code: Stable kebab-case name, listed in documentation/errors.md.
        got: What was found.
        expected: What would have been right.
        fix: What the user should change, as an imperative.
        where: File, or file:line and key; empty until a caller knows it.
    """

    code: str
    got: str
    expected: str
    fix: str
    where: str = ""

    def __str__(self) -> str:
        place = f" {self.where}:" if self.where else ""
        return f"[{self.code}]{place} got {self.got}; expected {self.expected}; fix: {self.fix}"


Raised = TypeVar("Raised", bound="DeepsegError")


class DeepsegError(Exception):
    """Base of every error a user can cause. Carries all problems found, never only the first.

    The exit codes are a contract with schedulers and scripts; documentation/errors.md lists them.
    """

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def at(self: Raised, where: str) -> Raised:
        """The same error with a place for those problems that do not have one yet."""
        return type(self)(*(p if p.where else replace(p, where=where) for p in self.problems))


class SomeCasesFailed(DeepsegError):
    """Some cases could not be segmented; the results of all others are complete."""

    exit_code = 3


class NumericalFailure(DeepsegError):
    """The loss or the weights stopped being finite; the last good model file is kept."""

    exit_code = 4


class OutputNotWritable(DeepsegError):
    """A result could not be written: full or read-only disk, quota, missing permission."""

    exit_code = 5


class FolderInUse(DeepsegError):
    """Another live process works in the same session folder."""

    exit_code = 6


class OutOfMemory(DeepsegError):
    """Memory of the machine or of the GPU ran out."""

    exit_code = 137


class RankLost(DeepsegError):
    """One of the processes that train together was killed, or fell silent."""

    exit_code = 137


class ReportedByPeer(DeepsegError):
    """What another of the processes that train together has said; this one ends in silence."""

    def __init__(self, *problems: Problem, exit_code: int) -> None:
        super().__init__(*problems)
        self.exit_code = exit_code

    def at(self: Raised, _where: str) -> Raised:
        """The same error: it has been shown already."""
        return self


# In what torch says of the memory of the machine, of a GPU, and of its libraries.
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the machine or of a GPU ran out; torch is understood by its words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raise all ``problems`` as one `DeepsegError`; return silently if there are none."""
    found = tuple(problems)
    if found:
        raise DeepsegError(*found)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'epochs'?`` for a misspelt ``word``; nothing if no known word is close."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
