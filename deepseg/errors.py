"""The one way in which deepseg tells a user that something is wrong."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it.

    Attributes:
        code: Stable kebab-case name, listed in documentation/errors.md.
        got: Value, file or state that is wrong.
        expected: Value, file or state that would be right.
        fix: Change that the user should make, as an imperative.
        where: File, or file:line and key; empty until a caller knows it.

    >>> print(Problem("too-small", got="2 voxels", expected="at least 3", fix="add one"))
    [too-small] got 2 voxels; expected at least 3; fix: add one
    """

    code: str
    got: str
    expected: str
    fix: str
    where: str = ""

    def __str__(self) -> str:
        place = f" {self.where}:" if self.where else ""
        return f"[{self.code}]{place} got {self.got}; expected {self.expected}; fix: {self.fix}"


ErrorType = TypeVar("ErrorType", bound="DeepsegError")


class DeepsegError(Exception):
    """Base of every error a user can cause. Carries all problems found, never only the first.

    The exit codes are a contract with schedulers and scripts; documentation/errors.md lists them.
    """

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def at(self: ErrorType, where: str) -> ErrorType:
        """Copy of the error with a place for those problems that do not have one yet.

        >>> print(DeepsegError(Problem("too-small", "2", "3", "add one")).at("a.yaml:7 size"))
        [too-small] a.yaml:7 size: got 2; expected 3; fix: add one
        """
        return type(self)(*(p if p.where else replace(p, where=where) for p in self.problems))


class SomeCasesFailed(DeepsegError):
    """Some cases could not be segmented; the results of all others are complete."""

    exit_code = 3


class SomeFoldsFailed(DeepsegError):
    """Some folds of a cross-validation failed; the sessions of all others are complete."""

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
    """Error of another of the processes that train together; this one ends in silence."""

    def __init__(self, *problems: Problem, exit_code: int) -> None:
        super().__init__(*problems)
        self.exit_code = exit_code

    def at(self: ErrorType, _where: str) -> ErrorType:
        """The error itself: it has been printed already, with its place."""
        return self


# In torch's messages about the memory of the machine, of a GPU, and of its libraries.
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory of the machine or of a GPU ran out; torch is understood by its messages.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("sizes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


_PROCESS_LIMITS = (errno.EAGAIN, errno.EMFILE, errno.ENFILE)
_NO_THREAD = ("can't start new thread", "Too many open files", "ancdata")


def is_process_limit(error: BaseException) -> bool:
    """True if the system allows this user no more processes, threads or open files.

    >>> is_process_limit(OSError(errno.EMFILE, "Too many open files"))
    True
    """
    if isinstance(error, OSError):
        return error.errno in _PROCESS_LIMITS
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_THREAD)


def unwritable_letters(error: UnicodeEncodeError) -> Problem:
    """The problem of a name with letters that the locale cannot write."""
    return Problem(
        code="path-unusable",
        got=f"a name with {error.object[error.start]!a}, and a locale with the letters of "
        f"{error.encoding} only",
        expected="a locale that has all letters of the names",
        fix="set LC_ALL=C.UTF-8 or PYTHONUTF8=1, or rename it",
    )


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raise all ``problems`` as one `DeepsegError`; return silently if there are none."""
    collected = tuple(problems)
    if collected:
        raise DeepsegError(*collected)


def did_you_mean(
    word: str, candidates: Iterable[str], *, synonyms: Mapping[str, str] | None = None
) -> str:
    """Question to append to a message about a misspelt ``word``; empty if no candidate is close.

    A synonym comes first, then a name of which ``word`` is the first letters of each part or a
    spelling in other case, then the nearest spelling.

    Args:
        word: As the user wrote it.
        candidates: Names that are understood.
        synonyms: Names by words of other programs, in small letters without separators.

    >>> did_you_mean("epoch", ["epochs", "output"])
    "; did you mean 'epochs'?"
    >>> did_you_mean("zzz", ["epochs", "output"])
    ''
    >>> did_you_mean("lr", ["decay", "learning_rate"])
    "; did you mean 'learning_rate'?"
    >>> did_you_mean("-predict", ["-train", "-test"], synonyms={"predict": "-test"})
    "; did you mean '-test'?"
    """
    names = list(candidates)
    bare = _bare(word)
    nearest = [] if synonyms is None else [synonyms[bare]] if bare in synonyms else []
    nearest += [name for name in names if bare and bare in (_initials(name), _bare(name))]
    nearest += difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    nearest = [name for name in nearest if name in names]
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _bare(word: str) -> str:
    """Small letters and digits of ``word`` only."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


def _initials(name: str) -> str:
    parts = name.strip("-_").split("_")
    return "".join(part[:1] for part in parts).lower() if len(parts) > 1 else ""
