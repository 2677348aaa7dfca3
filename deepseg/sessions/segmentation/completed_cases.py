"""Cases that are done: a record of each, so that nobody does them again.

``cases/<name>.json`` in the session's folder is written when all results of a case are there. It
holds a key that changes with the model, the settings and the files of the case, and counts only
while the key is the same and all its result files are as they were written; a picture that could
not be drawn is missing only where it can be drawn by now. What does not count any more is deleted
with its files before the case is done again. A file that this session did not write, or that was
changed by hand or cut since, is never deleted or written over: it is set aside. Several processes
may write here at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseg.config.cases import Preparation
from deepseg.config.testing import TestConfig
from deepseg.data.case_cache import fingerprint
from deepseg.data.cases.case import Case
from deepseg.geometry.boxes import Int3
from deepseg.inference.metric_registry import fingerprints
from deepseg.report.figure import is_possible
from deepseg.sessions.folder_lock import waiting_lock
from deepseg.sessions.set_aside import set_aside
from deepseg.storage.atomic import writable, write_json
from deepseg.storage.content_stamp import content_stamp

# What the result of a case, and the files that hold it, follow from; a test names all others.
RESULT_SETTINGS = {"save", "groups", "postprocess"}
RESULT_INFERENCE = {"precision", "mirror", "overlap", "average"}

FIELDS = {"files", "without_picture", "scores"}  # without which a record counts for nothing


@dataclass(frozen=True)
class ModelFingerprint:
    """Properties of a model that its predictions follow from.

    Attributes:
        sha256: Of its weights and settings.
        preparation: Of its training cases.
        tile: Where segmentations and probabilities depend on it; None elsewhere.
        feature_tile: Of feature maps; None without them.
    """

    sha256: str
    preparation: Preparation
    tile: Int3 | None
    feature_tile: Int3 | None


def case_key(
    case: Case, config: TestConfig, models: Sequence[ModelFingerprint], channels: Sequence[str]
) -> str:
    """Hash of everything that the result of a case follows from.

    Args:
        case: Its files count with path, size and time of their last change.
        config: Settings of the session; those that only say how to get there do not count.
        models: Those that predict.
        channels: Of the models.
    """
    settings = config.model_dump(mode="json", include=RESULT_SETTINGS)
    del settings["save"]["label_names"]  # files of the session, not of a case
    if not config.save.dicom_seg:
        del settings["save"]["dicom_seg"]  # as in the records of older versions
    made_from: dict[str, Any] = {
        "settings": settings,
        "inference": config.inference.model_dump(mode="json", include=RESULT_INFERENCE),
        "models": [[model.sha256, model.tile, model.feature_tile] for model in models],
        "cases": [fingerprint(case, model.preparation, channels) for model in models],
    }
    if config.metrics:
        made_from["metrics"] = fingerprints(config.metrics)
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


@dataclass(frozen=True)
class Cleared:
    """Result files of a case that were in the way.

    Attributes:
        deleted: The number of those that this session wrote.
        set_aside: The new places of those that others have written or changed.
    """

    deleted: int = 0
    set_aside: tuple[Path, ...] = ()


class CompletedCases:
    """The records in a session's folder.

    Args:
        folder: The session's own.
        kind: Name of the folder of records: ``cases``, or another one for other results.
    """

    def __init__(self, folder: Path, kind: str = "cases") -> None:
        self._session = folder
        self._folder = folder / kind

    def record(self, name: str, key: str) -> dict[str, Any] | None:
        """Record of a case; None if it has to be done, or a file of it is not as it was written."""
        record = self._stored(name)
        if record.get("key") != key or not record.keys() >= FIELDS:
            return None
        stamps = record["stamps"]
        is_whole = all(_stamp(file) == stamps.get(n) for n, file in self._files(record).items())
        lacks_picture = record["without_picture"] and is_possible()
        return record if is_whole and not lacks_picture else None

    def clear(self, name: str) -> Cleared:
        """Delete the result files that are noted for a case, then its record.

        Files that were changed since this session wrote them are set aside.
        """
        deleted, aside = 0, []
        for file_name, stamp in self._noted(name).items():
            file = self._session / file_name
            if not file.is_file():
                continue
            if _is_as_written(file, stamp):
                with writable(file):
                    file.unlink()
                deleted += 1
            else:
                aside.append(set_aside(file, self._session))
        with writable(self._folder):
            (self._folder / f"{name}.json").unlink(missing_ok=True)
            self._journal(name).unlink(missing_ok=True)
        return Cleared(deleted, tuple(aside))

    def begin(self, name: str, files: Sequence[Path]) -> tuple[Path, ...]:
        """Note that ``files`` are about to be written for a case.

        What lies under their names and was not written by this session is set aside first.

        Returns:
            The new places of files that were set aside.
        """
        stamps = self._noted(name)
        aside = []
        for file_name, file in self._named(files).items():
            is_noted = file_name in stamps and _is_as_written(file, stamps[file_name])
            if file.is_file() and not is_noted:
                aside.append(set_aside(file, self._session))
        self._write(self._journal(name), {"files": [*self._named(files)]})
        return tuple(aside)

    def keep(self, name: str, key: str, record: Mapping[str, Any]) -> None:
        """Note that a case is done, and what its result files hold."""
        stamps = {n: _stamp(file) for n, file in self._files(record).items()}
        self._write(self._folder / f"{name}.json", {"key": key, **record, "stamps": stamps})
        with writable(self._folder):
            self._journal(name).unlink(missing_ok=True)

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        with writable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_json(path, record)

    def _journal(self, name: str) -> Path:
        """File that names the results of a case while they are being written."""
        return self._folder / f".{name}.writing"

    def _noted(self, name: str) -> dict[str, str | None]:
        """Stamps of all result files that are noted for a case; None for one being written."""
        record = self._stored(name)
        stamps = {file: record["stamps"].get(file) for file in self._files(record)}
        return stamps | dict.fromkeys(self._files(_record_in(self._journal(name))))

    def _named(self, files: Sequence[Path]) -> dict[str, Path]:
        return {str(file.relative_to(self._session)): file for file in files}

    def _stored(self, name: str) -> dict[str, Any]:
        """The record of a case, whether it counts or not; empty if there is none to trust.

        Anybody may have written there: a record of another form, or with files outside the
        session's folder, is none.
        """
        return _record_in(self._folder / f"{name}.json")

    def _files(self, record: Mapping[str, Any]) -> dict[str, Path]:
        return {file: self._session / file for file in record.get("files", ())}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from reading all records to write them as a table, while open."""
        with ExitStack() as stack:
            with writable(self._session):
                stack.enter_context(waiting_lock(self._session, "lock-cases"))
            yield


def _record_in(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, list) or not all(map(_is_inside, files)):
        return {}
    if not isinstance(record.setdefault("stamps", {}), dict):
        return {}
    return record


def _stamp(file: Path) -> str | None:
    """The stamp of a file's content; None if it is not there or cannot be read."""
    try:
        return content_stamp(file)
    except OSError:
        return None


def _is_as_written(file: Path, noted: str | None) -> bool:
    """True if a file has the noted stamp, or was being written when its session was killed."""
    return noted is None or _stamp(file) == noted


def _is_inside(file: object) -> bool:
    """True for a path that stays in the folder from which it is counted."""
    if not isinstance(file, str):
        return False
    path = Path(file)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts
