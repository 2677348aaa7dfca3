"""Checks that a file can be an image at all, and that it is whole.

Damage by downloads, disks and version control is found here, before a library of some format
reads them. Voxels and headers are not known here.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from deepseg.errors import DeepsegError, Problem, did_you_mean, unwritable_letters
from deepseg.storage.content_stamp import content_stamp

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".hdr.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
DICOM_SUFFIXES = (".dcm", ".ima")  # of enhanced files, which hold a whole series

_BACKSLASH = "\\"

_ITK_FILES = ("an NRRD file", "a MetaImage")
_PACKED = (
    "a zip archive",
    "a file packed by bzip2",
    "a file packed by xz",
    "a file packed by zstd",
)
_OTHER_FILES = (
    *zip((b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), _PACKED, strict=True),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF file"),
    *zip((b"NRRD000", b"ObjectType"), _ITK_FILES, strict=True),
)
_UNPACK = "unpack it, and give the image that is in it"

_COPY_AGAIN = "copy or download the file again from its source"


def has_suffix(path: Path, *suffixes: str) -> bool:
    """True if the name ends in one of ``suffixes``, in upper or lower case.

    >>> has_suffix(Path("scans/T1.NII.GZ"), ".nii", ".nii.gz")
    True
    """
    return path.name.lower().endswith(suffixes)


def partner(path: Path) -> Path:
    """The .img of an .hdr, or the other way round, in the same letters if such a file is there.

    >>> partner(Path("scans/T1.HDR")), partner(Path("scans/T1.img.gz"))
    (PosixPath('scans/T1.IMG'), PosixPath('scans/T1.hdr.gz'))
    """
    ending = re.search(r"(hdr|img)(\.gz)?$", path.name, re.IGNORECASE)
    assert ending is not None
    stem, zipped = path.name[: ending.start()], ending[2] or ""
    other = "img" if ending[1].lower() == "hdr" else "hdr"
    letters = other.upper() if ending[1].isupper() else other
    files = [path.with_name(stem + word + zipped) for word in (letters, other, other.upper())]
    return next((file for file in files if file.is_file()), files[0])


def format_of(path: Path) -> Literal["nifti", "itk", "dicom"]:
    """The reader for ``path``; a file without the name and first bytes of an image is refused."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DeepsegError(_missing(path)) from None
    except (OSError, ValueError) as error:
        raise DeepsegError(_unopened(path, error)) from error
    if stat.S_ISDIR(mode):
        return "dicom"
    refuse_pipe(path)
    if has_suffix(path, *DICOM_SUFFIXES):
        return "dicom"
    if not has_suffix(path, *NIFTI_SUFFIXES, *ITK_SUFFIXES):
        raise DeepsegError(_unknown_format(path))
    with damage_named(path), path.open("rb") as stream:
        beginning = stream.read(512)
    _refuse_stand_in(path, beginning)
    if not has_suffix(path, *NIFTI_SUFFIXES):
        return "itk"
    _refuse_wrong_compression(path, beginning)
    return "nifti"


def refuse_pipe(path: Path) -> None:
    """Refuse what is neither a file nor a folder: opening a pipe would wait for ever.

    Raises:
        DeepsegError: ``file-unreadable``.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # reading it will say why
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DeepsegError(_unreadable(path, "a pipe, socket or device"))


def _refuse_stand_in(path: Path, beginning: bytes) -> None:
    """Refuse pages and pointers that downloads and version control leave in place of an image."""
    word = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not beginning:
        problem = damaged(path, "an empty file", code="image-truncated")
    elif word.startswith(b"version https://git-lfs"):
        problem = damaged(path, "a Git LFS pointer", fix="fetch the file itself: git lfs pull")
    elif word.startswith(b"/annex/objects"):
        problem = damaged(path, "a git-annex pointer", fix="fetch the file itself: git annex get")
    elif word.startswith(b"<?xml") and b"html" not in word:
        problem = damaged(path, "an XML file", fix="give the image itself")
    elif word.startswith((b"<!doctype", b"<html", b"<?xml")):
        fix = "download it again; the server sent a page, often one that asks to log in"
        problem = damaged(path, "a web page", fix=fix)
    else:
        other = next((kind for begin, kind in _OTHER_FILES if beginning.startswith(begin)), None)
        if beginning[128:132] == b"DICM":
            other = "a DICOM file"
        if other is None or (other in _ITK_FILES and has_suffix(path, *ITK_SUFFIXES)):
            return
        fix = f"give the image itself, or rename it if it is {other}"
        fix = _UNPACK if other in _PACKED else fix
        problem = damaged(path, other, fix=fix)
    raise DeepsegError(problem)


def _refuse_wrong_compression(path: Path, beginning: bytes) -> None:
    is_gzip, named_gzip = beginning.startswith(b"\x1f\x8b"), has_suffix(path, ".gz")
    if is_gzip and not named_gzip:
        fix = "add .gz to its name"
        raise DeepsegError(damaged(path, "a gzip stream", "a file that is not compressed", fix=fix))
    if named_gzip and not is_gzip:
        fix = f"take .gz from its name if it is a plain image, else {_COPY_AGAIN}"
        raise DeepsegError(damaged(path, "a file that is not compressed", "a gzip stream", fix=fix))


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn errors of the system and the unpacker into a problem of ``path``."""
    try:
        yield
    except EOFError as error:
        got = f"a gzip stream that ends early ({error})"
        raise DeepsegError(damaged(path, got, code="image-truncated")) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DeepsegError(damaged(path, f"a damaged gzip stream ({error})")) from error
    except OSError as error:
        raise DeepsegError(_unopened(path, error)) from error


def unpacked_size(path: Path) -> int:
    """Bytes in ``path`` once it is unpacked; a gzip stream is verified on the way."""
    with damage_named(path):
        state = path.stat()
        if not has_suffix(path, ".gz"):
            return state.st_size
        return _verified_size(path.absolute(), state.st_mtime_ns, content_stamp(path))


@lru_cache(maxsize=4096)
def _verified_size(path: Path, _modified_ns: int, _digest: str) -> int:
    """The verdict on a gzip file, kept for as long as its time and content stay the same."""
    return read_to_end(path)


def read_to_end(path: Path) -> int:
    """Bytes in a gzip file, which is read to its end, where its checksum is compared."""
    total = 0
    with gzip.open(path) as stream:
        try:
            while chunk := stream.read1(1 << 20):
                total += len(chunk)
        except EOFError:
            raise EOFError(f"{total} bytes unpacked") from None
    return total


_REMEDIES = {
    errno.ENOTDIR: "correct the path, part of which is a file and no folder",
    errno.ELOOP: "repair the link, which leads back to itself",
    errno.ENAMETOOLONG: "correct the path; most disks hold names of up to 255 bytes",
    errno.EIO: "check the disk, or copy the file again from its source",
}


def _missing(path: Path) -> Problem:
    got, fix = "no such file", "correct the path"
    if _BACKSLASH in path.name:
        got = "no such file; the name has backslashes, as paths of Windows have"
        fix = f"write {path.name.replace(_BACKSLASH, '/')}, with slashes"
    elif path.is_symlink():
        target = str(path.readlink())
        got = f"a link to {target}, which does not exist"
        fix = "fetch the file itself: git annex get" if "annex" in target else "repair the link"
    elif path.parent.is_dir():
        fix += did_you_mean(path.name, (entry.name for entry in path.parent.iterdir()))
    else:
        parent = next(p for p in path.parents if p.is_dir() or p == p.parent)
        got = f"no folder {path.relative_to(parent).parts[0]} in {parent}"
    return Problem("file-missing", got, "an image file", fix, str(path))


def _reason(path: Path, error: Exception) -> str:
    if not isinstance(error, PermissionError):
        return getattr(error, "strerror", None) or str(error)
    try:
        return f"no permission for user {os.getuid()} (mode {path.stat().st_mode & 0o7777:04o})"
    except OSError:
        return f"no permission for user {os.getuid()} in its folder"


def _unopened(path: Path, error: Exception) -> Problem:
    if isinstance(error, UnicodeEncodeError):
        return replace(unwritable_letters(error), where=str(path))
    return _unreadable(path, _reason(path, error), getattr(error, "errno", None))


def _unreadable(path: Path, got: str, number: int | None = None) -> Problem:
    """The problem of a file that the system does not open, by the number of its error."""
    fix = _REMEDIES.get(number or 0, "give a file that this user may read")
    return Problem("file-unreadable", got, "a readable image file", fix, str(path))


def _unknown_format(path: Path) -> Problem:
    return Problem(
        code="file-format",
        got=f"the suffix {''.join(path.suffixes[-2:]) or 'of no format'}",
        expected=f"one of {', '.join(NIFTI_SUFFIXES + ITK_SUFFIXES)}, or a folder with one "
        "DICOM series, or an enhanced .dcm",
        fix="convert the file to .nii.gz",
        where=str(path),
    )


def damaged(
    path: Path,
    got: str,
    expected: str = "an image",
    *,
    code: str = "image-damaged",
    fix: str = _COPY_AGAIN,
) -> Problem:
    """The problem of a file that is not what its name promises."""
    return Problem(code, got, expected, fix, str(path))
