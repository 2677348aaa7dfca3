"""Stamps of images on the disk: the files they consist of, with time of change and content."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from deepseg.data.images.integrity import has_suffix, partner
from deepseg.storage.content_stamp import content_stamp

HEADER_BYTES = 1 << 16  # of a MetaImage or NRRD file, in which further files are named
NAMING = r"(?:ElementDataFile|data ?file)\s*[=:]\s*(.*)"
NUMBER = r"%\d*[diu]"


def file_stamp(path: Path) -> list[str | int]:
    """Name, time of change and digest of the content of every file of an image.

    Raises:
        OSError: A file is missing.
    """
    if path.is_dir():  # a DICOM series
        return [str(path), *(n for p in sorted(path.iterdir()) for n in file_stamp(p))]
    return [n for file in (path, *further_files(path)) for n in _stamp(file)]


def image_stamp(path: Path) -> str:
    """Sixteen hex digits that follow from the content of an image's files; empty without them.

    Where the files lie, and when they were written, does not count.
    """
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path, *further_files(path)]
        stamps = [content_stamp(file) for file in files if file.is_file()]
    except OSError:
        return ""
    return hashlib.sha256(" ".join(stamps).encode()).hexdigest()[:16]


def _stamp(file: Path) -> list[str | int]:
    return [str(file), file.stat().st_mtime_ns, content_stamp(file)]


def further_files(path: Path) -> list[Path]:
    """The files that belong to an image beside ``path``, as far as they are there."""
    if has_suffix(path, ".hdr", ".hdr.gz", ".img", ".img.gz"):
        files = [partner(path)]
    elif has_suffix(path, ".mhd", ".mha", ".nhdr", ".nrrd"):
        files = sorted(set(named_files(path)))
    else:
        files = []
    return [file for file in files if file != path and _is_there(file)]


def named_files(path: Path) -> Iterator[Path]:
    """Files that a header names as the place of its voxels, in its folder or elsewhere."""
    with path.open("rb") as file:
        lines = os.fsdecode(file.read(HEADER_BYTES)).split("\n")
    for number, line in enumerate(lines):
        place = re.fullmatch(NAMING, line.strip())
        if place is None:
            continue
        if re.fullmatch(r"LIST(\s+\d+)?", place[1]):
            yield from (path.parent / name.strip() for name in lines[number + 1 :])
            return
        pattern = re.sub(r"(\s+-?\d+){1,4}$", "", place[1])  # first, last, step, dimension
        if re.search(NUMBER, pattern):
            yield from _numbered_files(path.parent / pattern)
        else:
            yield path.parent / place[1]


def _numbered_files(pattern: Path) -> list[Path]:
    """The files whose names are that of ``pattern`` with a number where it has ``%d``."""
    name = r"-?\d+".join(map(re.escape, re.split(NUMBER, pattern.name)))
    try:
        return [file for file in pattern.parent.iterdir() if re.fullmatch(name, file.name)]
    except (OSError, ValueError):
        return []


def _is_there(file: Path) -> bool:
    """True if a file has this name, which may be one that no file can have."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False
