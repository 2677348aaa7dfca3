"""The folder of a session: one process at a time, a log, results that appear only when whole.

<output>/<name>/  log.txt  events.jsonl  metrics.jsonl  progress.png  outcome.json
                  models/last.save  models/previous.save  models/best.save  models/epoch-0005.save
                  models/running.save
                  predictions/  cache/
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.report.console import Console
from deepseg.sessions.event_log import EventLog
from deepseg.sessions.folder_lock import is_last_shard, lock_session
from deepseg.sessions.outcome import Outcome, exit_code, problems
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.set_aside import set_aside, warn_of_set_aside
from deepseg.storage.atomic import (
    raise_if_any_pipe,
    remove_leftovers,
    writable,
    write_json,
    write_text,
)
from deepseg.storage.save_file import SaveFile, read_save, write_save
from deepseg.version import VERSION

RUNNING = "running.save"
BEGINNING = re.compile(
    r"(log|outcome|events|lock|cache)(-\d+of\d+|-made)?(\.txt|\.jsonl?|\.owner)?"
)
MADE_BY_SHARD = "lock-made.json"  # the folders that the first shard has made, this one first
RESUMABLE = (RUNNING, "last.save", "previous.save")  # files from which a session can go on


class SessionFolder:
    """Owns a session's folder while it is open.

    Args:
        path: The folder; made if it does not exist.
        config_file: What problems without a place of their own are about, in outcome.json.
        settings: Every key of the session, for outcome.json.
        shard: Share the folder with the processes of other shards; log and outcome have names of
            their own.
        quiet: Show nothing but warnings and errors.
        is_main: True for the process of its session that writes and prints; of several that train
            together, one is.

    Raises:
        FolderInUse: Another process has it open.
        OutputNotWritable: It cannot be made or written to.
    """

    def __init__(
        self,
        path: Path,
        *,
        config_file: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        shard: Shard | None = None,
        quiet: bool = False,
        is_main: bool = True,
    ) -> None:
        self.path = path
        self.is_main = is_main
        self._ending = "" if shard is None else f"-{shard}"
        self._outcome = Outcome(
            path / f"outcome{self._ending}.json",
            session=path.name,
            place="" if config_file is None else str(config_file),
            settings=settings,
        )
        self._quiet = quiet

    def __enter__(self) -> SessionFolder:
        if not self.is_main:
            self.console = Console(silent=True)
            return self
        self._new_folders = missing_folders(self.path)
        raise_if_any_pipe(self.path)
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if self._ending and self._new_folders:
                write_json(self.path / MADE_BY_SHARD, list(map(str, self._new_folders)))
            self._locks = lock_session(self.path, self._ending)
            with ExitStack() as opened:
                for lock in self._locks:
                    opened.callback(lock.close)
                self._events = EventLog(self.path / f"events{self._ending}.jsonl")
                opened.callback(self._events.close)
                self.console = Console(
                    log_file=self.path / f"log{self._ending}.txt",
                    quiet=self._quiet,
                    on_warning=lambda text: self.note("warning", text=text),
                )
                opened.callback(self.console.close)
                for place in (self.path, self.path / "written", self.models):
                    remove_leftovers(place)
                foreign = self._outcome.begin()
                self._opened = opened.pop_all()
        warn_of_set_aside(foreign, self.console)
        self.note("started", pid=os.getpid(), host=socket.gethostname(), version=VERSION)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.is_main:
            return
        with self._opened:
            for problem in problems(error):
                self.console.log(f"ERROR {problem}")
            self.note("ended", exit_code=exit_code(error))
            self._outcome.end(error, self.console.warnings)
            if exit_code(error) == DeepsegError.exit_code:
                self._discard_if_new()

    def _discard_if_new(self) -> None:
        """Remove the folder if this session was refused and has made it, with all other shards.

        A shard that others are at work beside leaves the folder to the last of them.
        """
        if not self._ending:
            new_folders = self._new_folders
        elif is_last_shard(self._locks):
            new_folders = _noted_folders(self.path)
        else:
            return
        if new_folders:
            self.console.close()
            discard(self.path, new_folders)

    def note(self, event: str, **fields: Any) -> None:
        """Add a line to events.jsonl."""
        if self.is_main:
            self._events.add(event, **fields)

    @property
    def models(self) -> Path:
        """Where the model files are."""
        return self.path / "models"

    def set_aside_foreign(self) -> None:
        """Set records and curves aside that no epoch of this session has written."""
        metrics, curves = self.path / "metrics.jsonl", self.path / "progress.png"
        foreign = [metrics] if metrics.is_file() and not _holds_records(metrics) else []
        if curves.is_file() and (foreign or not metrics.is_file()):
            foreign.append(curves)
        warn_of_set_aside([set_aside(file, self.path) for file in foreign], self.console)

    def latest(self) -> Path | None:
        """The whole model file of this session that has come furthest, or None before the first.

        Damaged files are named in warnings.

        Raises:
            DeepsegError: None is whole; starting anew would throw the session away.
        """
        return furthest_model(self.models, self.console.warn)

    def save_epoch(
        self, save: SaveFile, record: Mapping[str, Any], *, is_best: bool, name: str | None
    ) -> None:
        """Add the line of an epoch to metrics.jsonl and write its model files.

        `last.save` comes last: with it the epoch is over, without it the epoch is done again.

        Args:
            save: The model.
            record: Of the epoch.
            is_best: True if it is the best so far.
            name: Of a further file, which stays for good, or None.
        """
        if not self.is_main:
            return
        self.append_record(record)
        self.note("epoch", record=dict(record))
        last = self.models / "last.save"
        if is_best:
            write_save(self.models / "best.save", save)
        if name is not None:
            write_save(self.models / name, save)
        if last.exists():
            with writable(self.models):
                last.replace(self.models / "previous.save")
        write_save(last, save)
        self.drop_running()

    def set_aside_after(self, epoch: int, subepoch: int) -> Path:
        """Move models that have come further than this, and copy the records, out of the way.

        Args:
            epoch: Epochs finished.
            subepoch: Sub-epochs of the next one that are finished too.

        Returns:
            A new folder in the session's, with the files.
        """
        number, aside = 1, self.path / "set_aside"
        while aside.exists():
            number += 1
            aside = self.path / f"set_aside-{number}"
        with writable(aside):
            aside.mkdir()
            if (self.path / "metrics.jsonl").exists():
                shutil.copy2(self.path / "metrics.jsonl", aside)
            for path in (self.models / name for name in (*RESUMABLE, "best.save")):
                if path.exists() and _has_passed(path, (epoch, subepoch)):
                    path.replace(aside / path.name)
        return aside

    def replace_last(self, save: SaveFile) -> None:
        """Write the model from which the session goes on."""
        write_save(self.models / "last.save", save)

    def save_running(self, save: SaveFile) -> None:
        """Write the model in the middle of an epoch."""
        if self.is_main:
            write_save(self.models / RUNNING, save)

    def drop_running(self) -> None:
        """Remove the model of the middle of an epoch that is over."""
        if self.is_main:
            with writable(self.models):
                (self.models / RUNNING).unlink(missing_ok=True)

    def append_record(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        if self.is_main:
            self._write_records([*self.records(), dict(record)])

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def drop_records_from(self, epoch: int) -> None:
        """Drop the records of epochs that will be done again."""
        if self.is_main:
            self._write_records([record for record in self.records() if record["epoch"] < epoch])

    def _write_records(self, records: list[dict[str, Any]]) -> None:
        from_text = "".join(json.dumps(record) + "\n" for record in records)
        write_text(self.path / "metrics.jsonl", from_text)


def _holds_records(path: Path) -> bool:
    """True for a file without lines, or whose first one is the record of an epoch."""
    try:
        lines = path.read_text("utf-8").splitlines()
        return not lines or "epoch" in json.loads(lines[0])
    except (OSError, ValueError, TypeError):
        return False


def _noted_folders(path: Path) -> list[Path]:
    """The folders that were made for the shards of this session; none if there is no note."""
    try:
        names = json.loads((path / MADE_BY_SHARD).read_text("utf-8"))
        return [folder for folder in map(Path, names) if folder == path or folder in path.parents]
    except (OSError, ValueError, TypeError):
        return []


def missing_folders(path: Path) -> list[Path]:
    """The folders to be made for ``path``, the innermost first; none if it is there."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def discard(path: Path, new_folders: Sequence[Path]) -> None:
    """Remove the folder of a session that was refused, and the empty ones made for it.

    A folder with anything else than what every session begins with is kept.
    """
    if not path.is_dir() or not all(BEGINNING.fullmatch(file.name) for file in path.iterdir()):
        return
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # another session has begun there
        for folder in new_folders:
            if folder != path:
                folder.rmdir()


def furthest_model(models: Path, warn: Callable[[str], None]) -> Path | None:
    """The whole model file of a session that has come furthest, or None before the first.

    Args:
        models: Folder of the files.
        warn: Called with a warning that names each damaged file.

    Raises:
        DeepsegError: None is whole; starting anew would throw the session away.
    """
    problems: list[Problem] = []
    reached: dict[Path, tuple[int, int]] = {}
    for path in (models / name for name in RESUMABLE):
        if not path.exists():
            continue
        try:
            reached[path] = _progress(path)
        except DeepsegError as error:
            if any(problem.code == "model-newer" for problem in error.problems):
                raise
            problems += error.problems
    if not reached:
        fix = "copy the file again, or remove it to begin the session anew"
        raise_if_any(replace(problem, fix=fix) for problem in problems)
        return None
    furthest = max(reached, key=reached.__getitem__)
    for problem in problems:
        warn(f"{problem}; continuing from {furthest}")
    return furthest


def _progress(path: Path) -> tuple[int, int]:
    """Epochs, and sub-epochs of the next one, after which a model was written."""
    training = read_save(path).training or {}
    return training.get("epoch", 0), training.get("subepoch", 0)


def _has_passed(path: Path, progress: tuple[int, int]) -> bool:
    """True for a model that was written later, and for one that cannot be read."""
    try:
        return _progress(path) > progress
    except DeepsegError:
        return True
