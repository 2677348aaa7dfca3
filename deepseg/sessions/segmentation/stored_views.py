"""Slices of the cases of a session, kept between its cases until its page is written.

``slices/<case>.json`` holds what the page shows of a case, with a key that changes with the result
of the case. Several processes may write here at once, each for cases of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deepseg.data.images.orientation import Reorientation
from deepseg.errors import DeepsegError
from deepseg.inference.loaded_case import LoadedCase
from deepseg.inference.segmentation import Segmentation
from deepseg.report.console import Console
from deepseg.report.page.case_view import CaseVolumes, case_view
from deepseg.sessions.segmentation.case_result import CaseResult
from deepseg.storage.atomic import writable, write_json

_RESULT = TypeAdapter(CaseResult)


def volumes_to_view(
    case: LoadedCase, segmentation: Segmentation, channels: tuple[str, ...]
) -> CaseVolumes:
    """The volumes of a case with their axes turned to RAS+.

    Channels are as the first model saw them; where it saw them on another grid, they are
    interpolated. One without contrast, such as one that the case lacks, is left out.

    Args:
        case: As it was predicted.
        segmentation: Of the case.
        channels: Their names.
    """
    to_ras = Reorientation.of(segmentation.geometry, "RAS")
    geometry = to_ras.geometry(segmentation.geometry)
    return CaseVolumes(
        name=case.name,
        channels={
            name: to_ras.array(values) for name, values in case.channels_on_source(channels).items()
        },
        affine=geometry.affine,
        spacing_mm=geometry.spacing_mm,
        prediction=to_ras.array(segmentation.labels),
        truth=None if case.truth is None else to_ras.array(case.truth),
        uncertainty={
            name: to_ras.array(values) for name, values in segmentation.uncertainty.items()
        },
    )


class StoredViews:
    """The slices in a session's folder.

    Args:
        folder: The session's own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "slices"

    def keep(
        self,
        volumes: CaseVolumes,
        key: str,
        console: Console,
        result: CaseResult | None = None,
    ) -> None:
        """Write what the page shows of a case; warn where that is not possible.

        Args:
            volumes: Of the case.
            key: Of its result.
            console: Receives the warning.
            result: Of a case that is recorded nowhere else.
        """
        record = None if result is None else asdict(result)
        try:
            view: dict[str, Any] | None = case_view(volumes)
        except DeepsegError as error:
            if any(problem.code != "plot-extra-missing" for problem in error.problems):
                raise
            console.warn(str(error))
            view = None
        with writable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(volumes.name), {"key": key, "view": view, "result": record})

    def view(self, name: str, key: str | None) -> dict[str, Any] | None:
        """Slices of a case as the page shows them; None if there are none of this result.

        Args:
            name: Of the case.
            key: Of its result; None for any.
        """
        stored = self._stored(name)
        view = stored.get("view") if key is None or stored.get("key") == key else None
        return view if isinstance(view, dict) else None

    def result(self, name: str) -> CaseResult | None:
        """The result of a case that was written beside its slices."""
        record = self._stored(name).get("result")
        try:
            return None if record is None else _RESULT.validate_python(record)
        except ValidationError:
            return None

    def _stored(self, name: str) -> dict[str, Any]:
        """What is kept of a case; empty where that is nothing or cannot be read."""
        try:
            stored = json.loads(self._path(name).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return stored if isinstance(stored, dict) else {}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
