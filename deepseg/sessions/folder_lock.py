"""Locks of a session's folder: one process at a time, with or without the system's own locks.

Where the file system has no ``flock``, as some network and FUSE disks, the lock is a file that only
one process can create. It names this process and its machine, and is touched every few seconds: a
lock counts no longer when its process is dead, or when nobody has touched it for `STALE_S`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Protocol

from deepseg.errors import FolderInUse, Problem
from deepseg.parent_process import is_alive

WITHOUT_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
HEARTBEAT_S = 15.0
STALE_S = 600.0  # without a heartbeat, a lock of another machine counts no longer
POLL_S = 0.1
ORPHANS_S = 10.0  # in which the children of a killed session let go of its lock
ATTEMPTS = 5


class Lock(Protocol):
    """A lock that is held until it is closed."""

    def close(self) -> None:
        """Let go of the lock."""


class OwnerFile:
    """A lock that is held by a file, from its making until it is closed.

    Args:
        path: The file; its folder is the one that is locked.

    Raises:
        FolderInUse: ``folder-in-use``, if a living process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = f"{_process_on_host()} [{secrets.token_hex(8)}]"
        self._create()
        self._is_closed = threading.Event()
        with contextlib.suppress(RuntimeError):  # no more threads: it counts for `STALE_S` at most
            threading.Thread(target=self._beat, daemon=True).start()

    def close(self) -> None:
        """Remove the file, unless another process has taken it over."""
        self._is_closed.set()
        with contextlib.suppress(OSError):
            if self._is_held():
                self._path.unlink()

    def has_rivals(self) -> bool:
        """True if another living process holds an owner file in the folder."""
        rivals = [path for path in self._path.parent.glob("lock*.owner") if path != self._path]
        return any(living_owner(path) is not None for path in rivals)

    def _create(self) -> None:
        for _ in range(ATTEMPTS):
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                owner = living_owner(self._path)
                if owner is not None:
                    break
                _remove_stale(self._path)
                continue
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._text)
            return
        raise _in_use(self._path.parent, owner or "another process", file=self._path.name)

    def _beat(self) -> None:
        while not self._is_closed.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                if self._is_held():
                    os.utime(self._path)

    def _is_held(self) -> bool:
        return self._path.read_text("utf-8", errors="replace") == self._text


def living_owner(path: Path) -> str | None:
    """The process that holds the owner file ``path``; None if none does, or none any more."""
    try:
        text, beat = path.read_text("utf-8", errors="replace"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    match = re.fullmatch(r"(process (\d+) on (.+)) \[\w+\]", text)
    if match is None:
        owner = "another process"
    elif match[3] == socket.gethostname() and not is_alive(int(match[2])):
        return None
    else:
        owner = match[1]
    return owner if _now(path.parent) - beat <= STALE_S else None


def lock_session(folder: Path, ending: str) -> list[Lock]:
    """Locks of a session's folder; a shard has one of its own and shares the folder's with others.

    Args:
        folder: The session's own.
        ending: Of the shard's files, such as ``-2of5``; empty for a whole session.

    Raises:
        FolderInUse: ``folder-in-use``, if another process has it open.
    """
    try:
        return _flocked(folder, ending)
    except OSError as error:
        if error.errno not in WITHOUT_FLOCK:
            raise
    return [_owned(folder, ending)]


def is_last_shard(locks: Sequence[Lock]) -> bool:
    """True if no other shard works in the folder of these locks of a shard, and none can begin."""
    share = locks[0]
    if isinstance(share, OwnerFile):
        return not share.has_rivals()
    assert isinstance(share, TextIOWrapper)
    try:
        fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def waiting_lock(folder: Path, name: str) -> Iterator[None]:
    """Wait until no other process is inside a block with this lock, and enter."""
    with (folder / name).open("a") as file:
        owner_file: OwnerFile | None = None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_FLOCK:
                raise
            owner_file = _awaited(folder / f"{name}.owner")
        try:
            yield
        finally:
            if owner_file is not None:
                owner_file.close()


def _awaited(path: Path) -> OwnerFile:
    while True:
        with contextlib.suppress(FolderInUse):
            return OwnerFile(path)
        time.sleep(POLL_S)


def _flocked(folder: Path, ending: str) -> list[Lock]:
    if not ending:
        return [_flock(folder, "lock", fcntl.LOCK_EX)]
    share = _flock(folder, "lock", fcntl.LOCK_SH)
    try:
        return [share, _flock(folder, f"lock{ending}", fcntl.LOCK_EX)]
    except BaseException:
        share.close()
        raise


def _flock(folder: Path, name: str, kind: int) -> Lock:
    file = (folder / name).open("a+", encoding="utf-8")
    until = time.monotonic() + ORPHANS_S
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            break
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                file.close()
                raise
            if not _is_dead(owner) or time.monotonic() > until:
                file.close()
                raise _in_use(folder, owner) from error
        time.sleep(POLL_S)  # a child of the dead owner has not come to closing its copy yet
    file.seek(0)
    file.truncate()
    file.write(_process_on_host())
    file.flush()
    # Workers that outlive a killed session for seconds would keep the next one out.
    os.register_at_fork(after_in_child=file.close)
    return file


def _is_dead(owner: str) -> bool:
    """True if an owner is a process of this machine that is gone."""
    match = re.fullmatch(r"process (\d+) on (.+)", owner)
    is_here = match is not None and match[2] == socket.gethostname()
    return match is not None and is_here and not is_alive(int(match[1]))


def _owned(folder: Path, ending: str) -> OwnerFile:
    """The owner file of a session or shard; first made, then compared with those that exclude it.

    Two that begin at the same moment may both be refused, and never both be let in.
    """
    owner_file = OwnerFile(folder / f"lock{ending}.owner")
    try:
        for rival in folder.glob("lock.owner" if ending else "lock-[0-9]*.owner"):
            owner = living_owner(rival)
            if owner is not None:
                raise _in_use(folder, owner, file=rival.name)
    except BaseException:
        owner_file.close()
        raise
    return owner_file


def _remove_stale(path: Path) -> None:
    """Remove an owner file without a living owner, unless another process is quicker."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if living_owner(aside) is None:
            aside.unlink()
        else:
            aside.rename(path)


def _now(folder: Path) -> float:
    """Seconds since the epoch by the clock of the disk, which may be another machine's."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime


def _process_on_host() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _in_use(folder: Path, owner: str, *, file: str = "") -> FolderInUse:
    remove = f"; if it has ended, remove {file}" if file else ""
    return FolderInUse(
        Problem(
            code="folder-in-use",
            got=f"a session that is already running ({owner})",
            expected="one session per folder",
            fix=f"wait for it, end it, or give this session another name{remove}",
            where=str(folder),
        )
    )
