"""Paths as people type them: ``~`` and variables mean what they mean in a shell.

A shell does not see what stands in a config file or behind ``-model=``, and leaves alone what is
in quotes. Nothing may be made under a name that begins with a literal ``~`` or ``$HOME``.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from deepseg.builtin import builtin_file
from deepseg.errors import DeepsegError, Problem, unwritable_letters

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expanded(text: str, folder: Path = Path()) -> str:
    """``text`` with home folders and variables filled in, as far as they are known.

    A ``$`` in the name of a file that is there, or of the folder that holds it, is a plain letter.

    Args:
        text: A path.
        folder: That relative paths count from.

    >>> expanded("data/T1.nii.gz")
    'data/T1.nii.gz'
    """
    try:
        home = str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # there is no such user
        home = text
    return home if "$" not in home or _is_literal(folder / home) else os.path.expandvars(home)


def user_path(text: str, folder: Path = Path()) -> Path:
    """The path that a user calls ``text``; still relative if that is.

    Args:
        text: A path.
        folder: That relative paths count from.

    >>> user_path("data/T1.nii.gz").name
    'T1.nii.gz'

    Raises:
        DeepsegError: ``path-unusable``, for an unknown user or variable, and for names that no
            disk can hold or that lead in a circle; ``builtin-unknown``.
    """
    path = builtin_file(Path(expanded(text, folder)))
    variable = None if _is_literal(folder / path) else VARIABLE.search(str(path))
    if variable is not None:
        raise _unusable(
            f"{variable[0]} in {text!r}",
            "variables that are set",
            "set the variable, or write the whole path",
        )
    if str(path).startswith("~"):
        raise _unusable(
            repr(text),
            "a path, where '~' is the home folder of a known user",
            "write the whole path",
        )
    try:
        (folder / path).stat()
    except UnicodeEncodeError as error:
        raise DeepsegError(unwritable_letters(error)) from error
    except ValueError:
        raise _unusable(repr(text), "a path without NUL characters", "correct the path") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in path.parts)
            raise _unusable(
                f"a path of {len(os.fsencode(path))} bytes, with a name of {longest}",
                "a path that a disk can hold, mostly with names of up to 255 bytes",
                "correct the path",
            ) from None
        if error.errno == errno.ELOOP:
            raise _unusable(
                f"{text!r}, a symbolic link that leads back to itself",
                "a path that leads to a file",
                "correct the link",
            ) from None
    return path


def _is_literal(path: Path) -> bool:
    """True if the file of this very name is there, or the folder that would hold it."""
    try:
        return path.exists() or ("$" not in path.name and path.parent.is_dir())
    except (OSError, ValueError):
        return False


def _unusable(got: str, expected: str, fix: str) -> DeepsegError:
    return DeepsegError(Problem("path-unusable", got, expected, fix))
