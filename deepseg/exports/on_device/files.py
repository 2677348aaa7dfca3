"""Files that are whole or absent, and one run per folder."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from deepseg.exports.on_device.errors import DeviceError

PATIENCE_S = 10.0  # until a lock without a name counts as left by a process that was killed


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary file that becomes ``file`` when it is whole."""
    temporary = file.with_name(f".{os.getpid()}.partial.{file.name}")
    try:
        yield temporary
        temporary.replace(file)
    except OSError as error:
        raise not_writable(error, file) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def not_writable(error: OSError, file: Path) -> DeviceError:
    """The problem of a file that the system refused to write."""
    return DeviceError(
        "output-not-writable",
        f"{os.strerror(error.errno or errno.ENOSPC)} for {file}",
        "a place where this file can be written",
        "make room or change the permissions, then give the same command again",
        exit_code=5,
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run per folder: the file ``lock`` can be made by one process only."""
    lock, owner = folder / "lock", f"{os.getpid()} {socket.gethostname()}"
    for _ in range(2):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            if not _take_away(lock):
                raise _in_use(folder) from None
        except OSError as error:
            raise not_writable(error, lock) from error
    else:
        raise _in_use(folder)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(owner)
    except OSError as error:
        lock.unlink(missing_ok=True)
        raise not_writable(error, lock) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def _in_use(folder: Path) -> DeviceError:
    fix = f"wait for it, or remove {folder / 'lock'} if it has ended"
    return DeviceError(
        "folder-in-use", f"another run in {folder}", "one run per folder", fix, exit_code=6
    )


def _take_away(lock: Path) -> bool:
    """Remove the lock of a process of this machine that has ended; False if it may be alive."""
    try:
        if _has_owner(lock):
            return False
        aside = lock.with_name(f"lock.{os.getpid()}")
        lock.rename(aside)  # of two that try it, one succeeds
        if _has_owner(aside):  # another run was quicker, and this is its lock
            aside.rename(lock)
            return False
        aside.unlink()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return False
    return True


def _has_owner(lock: Path) -> bool:
    """True while the process that made a lock may be alive; it writes itself into it at once."""
    process, _, host = lock.read_text().partition(" ")
    if not process:
        return time.time() - lock.stat().st_mtime < PATIENCE_S
    return host != socket.gethostname() or _is_alive(int(process))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
