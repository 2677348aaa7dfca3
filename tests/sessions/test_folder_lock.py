"""Locks of a folder on a disk without flock: only a living owner keeps others out."""

import errno
import fcntl
import multiprocessing
import os
import socket
import subprocess
import sys
import threading

import pytest

from deepseg.errors import FolderInUse
from deepseg.sessions import folder_lock
from deepseg.sessions.folder_lock import lock_session, waiting_lock

HOST = socket.gethostname()


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def no_flock(request, monkeypatch):
    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def locked(folder, ending=""):
    (lock,) = lock_session(folder, ending)
    return lock


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def owned_by(folder, process, host=HOST, age=0.0):
    file = folder / "lock.owner"
    file.write_text(f"process {process} on {host} [0123456789abcdef]")
    moment = file.stat().st_mtime - age
    os.utime(file, (moment, moment))


def test_a_lock_is_a_file_that_names_its_owner_and_is_gone_with_it(no_flock, tmp_path):
    lock = locked(tmp_path)
    assert (tmp_path / "lock.owner").read_text().startswith(f"process {os.getpid()} on {HOST} [")
    with pytest.raises(FolderInUse) as refusal:
        locked(tmp_path)
    assert str(refusal.value) == (
        f"[folder-in-use] {tmp_path}: got a session that is already running (process "
        f"{os.getpid()} on {HOST}); expected one session per folder; fix: wait for it, end it, or "
        "give this session another name; if it has ended, remove lock.owner"
    )
    lock.close()
    assert not (tmp_path / "lock.owner").exists()
    locked(tmp_path).close()


@pytest.mark.parametrize(
    ("process", "host", "age", "is_free"),
    [
        pytest.param(os.getpid, HOST, 0, False, id="alive here"),
        pytest.param(dead_process, HOST, 0, True, id="dead here"),
        pytest.param(lambda: 17, "elsewhere", 300, False, id="elsewhere, touched 5 minutes ago"),
        pytest.param(lambda: 17, "elsewhere", 660, True, id="elsewhere, silent for 11 minutes"),
        pytest.param(os.getpid, HOST, 660, True, id="another process has its number by now"),
    ],
)
def test_a_lock_counts_while_its_owner_lives(no_flock, tmp_path, process, host, age, is_free):
    owned_by(tmp_path, process(), host, age)
    if is_free:
        locked(tmp_path).close()
        assert list(tmp_path.glob("*owner*")) == []
    else:
        with pytest.raises(FolderInUse):
            locked(tmp_path)
        assert "0123456789abcdef" in (tmp_path / "lock.owner").read_text()


def test_shards_exclude_the_whole_and_themselves_but_not_each_other(no_flock, tmp_path):
    first, second = locked(tmp_path, "-1of2"), locked(tmp_path, "-2of2")
    for ending in ("", "-1of2"):
        with pytest.raises(FolderInUse):
            locked(tmp_path, ending)
    first.close()
    second.close()
    whole = locked(tmp_path)
    with pytest.raises(FolderInUse):
        locked(tmp_path, "-1of2")
    whole.close()
    assert list(tmp_path.glob("*owner*")) == []


def test_a_lock_is_touched_while_it_is_held(no_flock, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.01)
    touched = threading.Event()
    monkeypatch.setattr(os, "utime", lambda _: touched.set())
    lock = locked(tmp_path)
    assert touched.wait(10)
    lock.close()


def test_a_lock_that_was_taken_over_is_left_to_its_new_owner(no_flock, tmp_path):
    lock = locked(tmp_path)
    owned_by(tmp_path, 17, "elsewhere")
    lock.close()
    assert (tmp_path / "lock.owner").exists()


def test_who_waits_for_a_lock_gets_it_when_it_is_free(no_flock, tmp_path):
    order = []
    inside = threading.Event()

    def second():
        inside.wait(10)
        with waiting_lock(tmp_path, "lock-cases"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with waiting_lock(tmp_path, "lock-cases"):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_another_error_of_the_disk_is_not_another_session(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"):
        lock_session(tmp_path, "")


def hold(folder, begin, results):
    begin.wait()
    try:
        lock = locked(folder)
    except FolderInUse as refusal:
        results.put(str(refusal))
    else:
        results.put(f"process {os.getpid()} on {HOST}")
        begin.wait()  # until the other one has tried
        lock.close()
        return
    begin.wait()


@pytest.mark.parametrize("number", range(10))
def test_of_two_that_begin_together_one_wins_and_is_named_to_the_other(tmp_path, number):
    fork = multiprocessing.get_context("fork")
    begin, results = fork.Barrier(2), fork.Queue()
    pair = [fork.Process(target=hold, args=(tmp_path, begin, results)) for _ in range(2)]
    for process in pair:
        process.start()
    texts = sorted((results.get(timeout=30) for _ in pair), key=len)
    for process in pair:
        process.join(30)
    winner, refusal = texts
    assert winner in {f"process {process.pid} on {HOST}" for process in pair}
    assert refusal.startswith(f"[folder-in-use] {tmp_path}: got a session that is already running")
    assert winner in refusal
