"""Stamps of files by their content: cheap, and another one whenever a file was changed or cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

WHOLE = 1 << 20  # bytes up to which all of a file counts
PART = 1 << 16  # bytes at the head, the middle and the tail of a larger one


def content_stamp(path: Path) -> str:
    """Size and hash of a file: of all of it, or of the head, middle and tail of a large one.

    The tail of a gzip file holds the checksum of all that is in it.

    Raises:
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for start in (0, (size - PART) // 2, size - PART):
                file.seek(start)
                digest.update(file.read(PART))
    return f"{size}-{digest.hexdigest()[:32]}"
