"""The zip container of ``torch.save``: whole, uncompressed, and as it was when it was written.

torch's own reader compares no checksums and unpacks whatever it is given, so that files are looked
at here first. What they hold is not known here.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

BEGINNING = b"PK\x03\x04"

# What torch's reader and zipfile raise at content that no torch.save has written.
GARBLED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


@dataclass(frozen=True)
class Fault:
    """A fault of a container.

    Attributes:
        got: What was found.
        is_damage: The file has changed since it was written; otherwise nobody should have written
            it like that.
    """

    got: str
    is_damage: bool


def container_fault(path: Path, *, unread: Sequence[str] = ()) -> Fault | None:
    """The fault of the container in a file that exists; None if there is none.

    Args:
        path: Of the file.
        unread: Folders of entries that nobody reads, and that may be compressed therefore.
    """
    try:
        with path.open("rb") as file:  # zipfile skips what stands before, torch takes it for pickle
            if file.read(len(BEGINNING)) != BEGINNING:
                return Fault("no complete zip container", True)
        with zipfile.ZipFile(path) as container:
            entries = [
                entry
                for entry in container.infolist()
                if not any(folder in unread for folder in PurePosixPath(entry.filename).parts[1:-1])
            ]
            for entry in entries:
                if ".." in PurePosixPath(entry.filename).parts:
                    return Fault(f"an entry {entry.filename!r} outside its container", False)
                if entry.compress_type != zipfile.ZIP_STORED:
                    return Fault("a compressed container, which torch does not write", False)
            damaged = [entry.filename for entry in entries if not _is_whole(container, entry)]
    except (zipfile.BadZipFile, OSError, *GARBLED):
        return Fault("no complete zip container", True)
    return Fault(f"a wrong checksum of {damaged[0]}", True) if damaged else None


def _is_whole(container: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """The checksum of an entry is that of its content."""
    try:
        with container.open(entry) as stream:
            while stream.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True
