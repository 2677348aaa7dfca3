"""Stamps of files by their content: cheap, and another one whenever a file was changed or cut."""

from __future__ import annotations

import errno
import hashlib
import stat
from pathlib import Path

WHOLE = 1 << 20  # bytes up to which all of a file counts
PART = 1 << 16  # bytes at the head, the middle and the tail of a larger one
PIECES, PIECE = 256, 1 << 12  # and pieces in between of one that is not compressed


def content_stamp(path: Path) -> str:
    """Size and hash of a file: of all of it, or of parts of a large one.

    The tail of a gzip file holds the checksum of all that is in it, so its ends and its middle are
    enough; of another large file, 256 pieces in between are read too.

    Raises:
        OSError: It cannot be read, or is a pipe or device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    size = status.st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for begin, count in _parts(size, is_gzip=path.name.lower().endswith(".gz")):
            file.seek(begin)
            digest.update(file.read(count))
    return f"{size}-{digest.hexdigest()[:32]}"


def _parts(size: int, *, is_gzip: bool) -> list[tuple[int, int]]:
    """First byte and number of bytes of every part that counts."""
    if size <= WHOLE:
        return [(0, size)]
    ends = [(start, PART) for start in (0, (size - PART) // 2, size - PART)]
    return ends if is_gzip else [*ends, *((size * n // PIECES, PIECE) for n in range(PIECES))]
