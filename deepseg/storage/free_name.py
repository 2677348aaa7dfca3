"""Names of files that the user asks for, none of which may be there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deepseg.errors import Problem, raise_if_any

CHOOSE_ANOTHER = "choose another -out, or remove the file"


def raise_if_taken(files: Iterable[Path], *, fix: str = CHOOSE_ANOTHER) -> None:
    """Refuse names that are taken, all of them at once.

    Args:
        files: To be written; a link that leads nowhere is there too.
        fix: What the user can do.

    Raises:
        DeepsegError: ``file-exists``, for each of them.
    """
    raise_if_any(
        Problem(
            code="file-exists",
            got="a folder of this name" if file.is_dir() else "a file that is there",
            expected="a name that is free",
            fix=fix,
            where=str(file),
        )
        for file in dict.fromkeys(files)
        if file.exists() or file.is_symlink()
    )
