"""Cases that are done: a record of each, so that nobody does them again.

``cases/<name>.json`` in the session's folder is written when all results of a case are there. It
holds a key that changes with the model, the settings and the files of the case, and counts only
while the key is the same and all its result files exist; a picture that could not be drawn is
missing only where it can be drawn by now. What does not count any more is deleted
with its files before the case is done again. Several processes may write here at once.
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
from deepseg.report.figure import is_possible
from deepseg.sessions.folder_lock import waiting_lock
from deepseg.storage.atomic import writable, write_json

# What the result of a case, and the files that hold it, follow from; a test names all others.
RESULT_SETTINGS = {"save", "groups", "postprocess"}
RESULT_INFERENCE = {"precision", "mirror", "overlap"}


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
    made_from = {
        "settings": config.model_dump(mode="json", include=RESULT_SETTINGS),
        "inference": config.inference.model_dump(mode="json", include=RESULT_INFERENCE),
        "models": [[model.sha256, model.tile, model.feature_tile] for model in models],
        "cases": [fingerprint(case, model.preparation, channels) for model in models],
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


class CompletedCases:
    """The records in a session's folder.

    Args:
        folder: The session's own.
    """

    def __init__(self, folder: Path) -> None:
        self._session = folder
        self._folder = folder / "cases"

    def record(self, name: str, key: str) -> dict[str, Any] | None:
        """Record of a case; None if it has to be done."""
        record = self._stored(name)
        if record.get("key") != key:
            return None
        is_whole = all(file.is_file() for file in self._files(record))
        lacks_picture = record["without_picture"] and is_possible()
        return record if is_whole and not lacks_picture else None

    def clear(self, name: str) -> int:
        """Delete the result files that are noted for a case, then its record.

        Returns:
            How many result files there were.
        """
        present = [file for file in self._files(self._stored(name)) if file.is_file()]
        for file in (*present, self._folder / f"{name}.json"):
            with writable(file):
                file.unlink(missing_ok=True)
        return len(present)

    def keep(self, name: str, key: str, record: Mapping[str, Any]) -> None:
        """Note that a case is done."""
        with writable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{name}.json", {"key": key, **record})

    def _stored(self, name: str) -> dict[str, Any]:
        """The record of a case, whether it counts or not; empty if there is none to trust.

        Anybody may have written there: a record of another form, or with files outside the
        session's folder, is none.
        """
        try:
            text = (self._folder / f"{name}.json").read_text("utf-8")
            record: dict[str, Any] = json.loads(text)
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        files = record.get("files") if isinstance(record, dict) else None
        if not isinstance(files, list) or not all(map(_is_inside, files)):
            return {}
        return record

    def _files(self, record: Mapping[str, Any]) -> list[Path]:
        return [self._session / file for file in record.get("files", ())]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from reading all records to write them as a table, while open."""
        with ExitStack() as stack:
            with writable(self._session):
                stack.enter_context(waiting_lock(self._session, "lock-cases"))
            yield


def _is_inside(file: object) -> bool:
    """True for a path that stays in the folder from which it is counted."""
    if not isinstance(file, str):
        return False
    path = Path(file)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts
