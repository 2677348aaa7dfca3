"""Summaries of cases, remembered beside a session so that unchanged files are read only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.config.cases import Preparation
from deepseg.data.case_cache import fingerprint
from deepseg.data.cases.case import Case
from deepseg.data.cases.summary import CaseSummary
from deepseg.storage.atomic import writable, write_json


@dataclass(frozen=True)
class SummaryCache:
    """Summaries that stay true as long as files and expectations do not change.

    Attributes:
        folder: The session's cache; None to remember nothing.
        channels: The model's channel names.
        class_count: The model's classes.
        needs_labels: Cases without labels are judged as faulty.
        computes_roi: Regions of interest are made of the images where there is no mask.
    """

    folder: Path | None
    channels: Sequence[str]
    class_count: int
    needs_labels: bool
    computes_roi: bool = False

    def stamp(self, case: Case) -> str | None:
        """Text that changes with everything a summary depends on; None if a file is unreadable."""
        if case.missing:
            return None
        preparation = Preparation(roi="nonzero" if self.computes_roi else None)
        try:
            files_and_channels = fingerprint(case, preparation, self.channels)
        except OSError:  # reading the case will say why
            return None
        rest = (case.name, case.where, self.class_count, self.needs_labels, case.trust_arrays)
        return f"{files_and_channels}-{hashlib.sha256(repr(rest).encode()).hexdigest()[:16]}"

    def load(self, stamp: str | None) -> CaseSummary | None:
        """The summary of this stamp, or None if it is not there or cannot be read."""
        path = self._path(stamp)
        if path is None:
            return None
        try:
            return CaseSummary.from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store(self, stamp: str | None, summary: CaseSummary) -> None:
        """Write a summary without problems, unless it is there."""
        path = self._path(stamp)
        if path is None or summary.problems or path.exists():
            return
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, summary.to_json())

    def _path(self, stamp: str | None) -> Path | None:
        if self.folder is None or stamp is None:
            return None
        return self.folder / "facts" / f"{stamp}.json"
