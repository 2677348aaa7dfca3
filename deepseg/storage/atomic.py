"""Files that appear whole or not at all.

A result is written to a temporary file in the folder where it belongs, flushed to the disk and then
renamed, so that a reader, a crash or a full disk never meets half of it under its final name. What
the files hold is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from deepseg.errors import OutputNotWritable, Problem
from deepseg.parent_process import is_alive

LONGEST_NAME = 255  # bytes of a file name
LISTED_S = 30.0  # for which the temporary files of a folder are not looked for again
MOST_LISTED = 64  # folders that are remembered

_NO_PERMISSION = ("no permission to write here", "change the permissions or choose another folder")
_WRONG_NAME = ("a name that this disk cannot hold", "choose another output name or folder")
_AGAIN = "then run the same command again"

# What the system said, as what the user got and what helps.
_REASONS = {
    errno.ENOSPC: ("a full disk", f"make room or choose another disk, {_AGAIN}"),
    errno.EDQUOT: ("an exhausted disk quota", f"make room or ask for a larger quota, {_AGAIN}"),
    errno.EFBIG: (
        "a limit on the size of files",
        f"raise the limit (ulimit -f) or choose another disk, {_AGAIN}",
    ),
    errno.EIO: ("an input/output error of the disk", f"check the disk, {_AGAIN}"),
    errno.EROFS: ("a read-only disk", "choose an output folder on another disk"),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.ENOENT: ("a folder that does not exist", "create the folder or choose another one"),
    errno.EEXIST: ("a file in place of the folder", "choose another output folder"),
    errno.ENOTDIR: ("a file in place of the folder", "choose another output folder"),
    errno.EISDIR: ("a folder of this name", "choose another output name"),
    errno.ENAMETOOLONG: _WRONG_NAME,
    errno.EINVAL: _WRONG_NAME,
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file to write; when the block ends well, it becomes ``path``.

    The temporary file lies in the same folder and ends in the whole name of ``path``, so that
    writers that look at the suffix see the same one. Its mode follows the umask. If the block
    raises, the temporary file is removed and ``path`` stays as it was. The block should do nothing
    but write: an `OSError` of another kind of work would be reported as an unwritable output.

    Raises:
        OutputNotWritable: ``output-not-writable``, if the system refuses the folder, the name, or
            the bytes.
    """
    try:
        remove_leftovers(path.parent, path.name)
        temporary = _new_file_beside(path)
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder
            flush(path.parent)
    except OSError as error:
        raise _translated(error, path) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Make ``path`` a file that holds ``content``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Make ``path`` a UTF-8 file that holds ``text``.

    File names that are not UTF-8 reach Python as surrogates; they are written as the bytes they
    came from.
    """
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_json(path: Path, value: object) -> None:
    """Make ``path`` a JSON file; NaN and infinity are refused because JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _new_file_beside(path: Path) -> Path:
    """An empty file with the mode that the umask gives to any new file (mkstemp forces 0600)."""
    temporary = _temporary_path(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return temporary


def _temporary_path(path: Path) -> Path:
    """A new name beside ``path`` that ends as it does: in its whole name, if a disk can hold it."""
    start = f".{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}.partial."
    return path.with_name(start + _ending(path.name, LONGEST_NAME - len(os.fsencode(start))))


def _ending(name: str, size: int) -> str:
    """As much of the end of ``name`` as fits into ``size`` bytes, in whole characters.

    >>> _ending("anna_Segm.nii.gz", 11), _ending("Müller", 5)
    ('Segm.nii.gz', 'ller')
    """
    while len(os.fsencode(name)) > size:
        name = name[1:]
    return name


def remove_leftovers(folder: Path, ending: str = "") -> None:
    """Remove temporary files in ``folder`` whose process was killed on this machine.

    Args:
        folder: Where they lie; it need not be there.
        ending: Of the names of those that are meant; empty for all.
    """
    with contextlib.suppress(OSError):
        for name in _temporary_names(folder, is_fresh=not ending):
            match = _temporary_pattern().fullmatch(name)
            assert match is not None
            is_meant = match[3].endswith(_ending(ending, LONGEST_NAME - len(match[1])))
            entry = folder / name
            if is_meant and not is_alive(int(match[2])):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


def _temporary_pattern() -> re.Pattern[str]:
    """Names of temporary files of this machine, with the number of their process."""
    return re.compile(rf"(\.{re.escape(platform.node())}-(\d+)-[0-9a-f]{{8}}\.partial\.)(.*)", re.S)


_listed: dict[Path, tuple[float, tuple[str, ...]]] = {}  # when, and what was there


def _temporary_names(folder: Path, *, is_fresh: bool) -> tuple[str, ...]:
    """Temporary files in ``folder``, as they were a while ago unless the list has to be fresh.

    A folder of ten thousand files that is listed for each of them takes minutes.
    """
    now = time.monotonic()
    when, names = _listed.get(folder, (-LISTED_S, ()))
    if is_fresh or now - when >= LISTED_S:
        pattern = _temporary_pattern()
        with os.scandir(folder) as entries:
            names = tuple(entry.name for entry in entries if pattern.fullmatch(entry.name))
        if len(_listed) >= MOST_LISTED:
            _listed.clear()
        _listed[folder] = (now, names)
    return names


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translated(error: OSError, path: Path) -> OSError | OutputNotWritable:
    """The error that the user reads; ``error`` itself if it is not about writing."""
    # numpy says in words only, without a number, that fewer bytes were written than it gave.
    number = errno.ENOSPC if error.errno is None else error.errno
    return OutputNotWritable(_problem(path, number)) if number in _REASONS else error


def _problem(path: Path, number: int) -> Problem:
    got, fix = _REASONS[number]
    return Problem(
        code="output-not-writable",
        got=got,
        expected="a place where this file can be written",
        fix=fix,
        where=str(path),
    )


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; when the block ends well, it becomes ``path``.

    If another process made ``path`` meanwhile, that one stays and this one is removed.

    Raises:
        OutputNotWritable: ``output-not-writable``.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        temporary = _temporary_path(path)
        temporary.mkdir()
        try:
            yield temporary
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def raise_if_any_pipe(folder: Path) -> None:
    """Refuse a folder with pipes, sockets or devices in it, for which opening would wait for ever.

    Raises:
        OutputNotWritable: ``output-not-writable``.
    """
    pipes = [Path(entry.path) for entry in _entries(folder) if not _is_plain(entry)]
    if pipes:
        raise OutputNotWritable(
            Problem(
                code="output-not-writable",
                got="a pipe, socket or device",
                expected="files and folders only",
                fix="remove it, or choose another output folder",
                where=str(min(pipes)),
            )
        )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in ``folder`` and below, as far as it can be read."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(Path(entry.path))
    except OSError:
        return


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """True for a file, a folder, and a link to one of them or to nothing."""
    try:
        is_there = entry.is_file() or entry.is_dir()
        return is_there or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Report what the system says against writing to ``path`` as a problem of the user's.

    Raises:
        OutputNotWritable: ``output-not-writable``.
    """
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from error
