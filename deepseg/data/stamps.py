"""Images as they lie on the disk: which files they consist of, and whether these have changed.

What is in them is not looked at, but for the names of further files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from deepseg.data.integrity import has_suffix

HEADER_BYTES = 1 << 16  # of a MetaImage or NRRD file, in which further files are named
LONGEST_NAME = 255


def stamp(path: Path) -> list[str | int]:
    """Name, size and time of change of every file of an image.

    Raises:
        OSError: A file is missing.
    """
    if path.is_dir():  # a DICOM series
        return [str(path), *(n for p in sorted(path.iterdir()) for n in stamp(p))]
    return [n for file in (path, *further_files(path)) for n in _stamp(file)]


def _stamp(file: Path) -> list[str | int]:
    state = file.stat()
    return [str(file), state.st_size, state.st_mtime_ns]


def further_files(path: Path) -> list[Path]:
    """The files that belong to an image beside the one that is named, as far as they are there."""
    if has_suffix(path, ".hdr", ".hdr.gz", ".img", ".img.gz"):
        found = [_partner(path)]
    elif has_suffix(path, ".mhd", ".mha", ".nhdr", ".nrrd"):
        found = sorted(set(_named_files(path)))
    else:
        found = []
    return [file for file in found if file != path and file.is_file()]


def _partner(path: Path) -> Path:
    """The .img of an .hdr, or the other way round."""
    ending = re.search(r"(hdr|img)(\.gz)?$", path.name, re.IGNORECASE)
    assert ending is not None
    other = {"hdr": "img", "img": "hdr", "HDR": "IMG", "IMG": "HDR"}.get(ending[1], ending[1])
    return path.with_name(f"{path.name[: ending.start()]}{other}{ending[2] or ''}")


def _named_files(path: Path) -> Iterator[Path]:
    """Whatever a header says that could be the name of a file, or a pattern of names."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES).decode("latin-1")
    for line in header.splitlines():
        name = re.split(r"[=:]", line, maxsplit=1)[-1].strip()
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            continue
        yield path.parent / name
        pattern, count = re.subn(r"%\d*d", "*", name.split()[0])
        if count and not Path(pattern).is_absolute():
            yield from path.parent.glob(pattern)
