"""Stages of every case of a testing session: read, segmented, written, and noted as done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepseg.config.testing import TestConfig
from deepseg.data.cases.case import Case
from deepseg.errors import DeepsegError
from deepseg.inference.loaded_case import LoadedCase
from deepseg.inference.predictor import Predictor
from deepseg.inference.segmentation import Segmentation
from deepseg.model.checkpoint import Checkpoint
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.segmentation.completed_cases import (
    Cleared,
    CompletedCases,
    ModelFingerprint,
    case_key,
)
from deepseg.sessions.segmentation.dicom_result import (
    NOT_FROM_DICOM,
    dicom_series,
    write_dicom_result,
)
from deepseg.sessions.segmentation.result_files import case_scores, write_results
from deepseg.sessions.segmentation.stored_views import StoredViews, volumes_to_view
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.storage.atomic import writable


@dataclass(frozen=True)
class _CaseInWork:
    """A case on its way through the stages, with its key and the time when that began."""

    loaded: LoadedCase
    images: tuple[Path | None, ...]
    key: str
    began: float
    segmentation: Segmentation | None = None


class CaseStages:
    """The stages of a testing session.

    Args:
        folder: Where results go.
        config: Of the session.
        predictor: Segments the cases.
        models: The models of the predictor, whose weights results follow from.
    """

    def __init__(
        self,
        folder: SessionFolder,
        config: TestConfig,
        predictor: Predictor,
        models: Sequence[Checkpoint],
    ) -> None:
        self._folder = folder
        self._config = config
        self._predictor = predictor
        self._models = [
            ModelFingerprint(
                sha256=model.digest(),
                preparation=member.preparation,
                tile=member.tile,
                feature_tile=member.feature_map_tile if config.save.feature_maps else None,
            )
            for model, member in zip(models, predictor.members, strict=True)
        ]
        self._completed = CompletedCases(folder.path)

    def record(self, case: Case) -> dict[str, Any] | None:
        """Record of a case that is done; None of one that is not, or lacks a file by now."""
        try:
            return self._completed.record(case.name, self._key(case))
        except OSError:
            return None

    def clear(self, case: Case) -> Cleared:
        """Delete older results of a case; set aside those that others have changed."""
        return self._completed.clear(case.name)

    def read(self, case: Case) -> _CaseInWork:
        """Read and prepare a case: the first stage."""
        began, key = time.monotonic(), self._key(case)  # files may change from here on
        loaded = self._predictor.load(case, scratch=self._folder.path / "cache")
        return _CaseInWork(loaded, case.channels, key, began)

    def fits_beside(self, case: Case) -> bool:
        """Memory allows to read this case while the one before it is segmented."""
        try:
            return not self._predictor.is_large(case)
        except DeepsegError:  # reading it will say what is wrong
            return True

    def segment(self, case: _CaseInWork) -> _CaseInWork:
        """Segment a case: the second stage."""
        save = self._config.save
        segmentation = self._predictor.segment(
            case.loaded,
            probabilities=save.probabilities,
            uncertainty=save.uncertainty,
            feature_maps=save.feature_maps,
        )
        return replace(case, segmentation=segmentation)

    def write(self, case: _CaseInWork) -> dict[str, Any]:
        """Write the files and the record of a case: the last stage."""
        assert case.segmentation is not None
        loaded, segmentation, model = case.loaded, case.segmentation, self._predictor.config
        predictions = self._folder.path / "predictions"
        scores = None
        if loaded.truth is not None:
            config = self._config
            scores = case_scores(segmentation, loaded.truth, model, config.groups, config.metrics)
        files = write_results(
            segmentation,
            loaded,
            predictions,
            model,
            self._config.save,
            self._completed,
            self._folder.console,
            scores,
        )
        if self._config.save.dicom_seg:
            files += self._dicom_files(case, files)
        if self._config.report:
            StoredViews(self._folder.path).keep(
                volumes_to_view(loaded, segmentation, model.channels),
                case.key,
                self._folder.console,
            )
        loaded.forget()
        record = {
            "files": [str(file.relative_to(self._folder.path)) for file in files],
            "without_picture": self._config.save.pictures
            and all(file.suffix != ".png" for file in files),
            "volumes_ml": segmentation.volumes_ml(model.classes),
            "seconds": round(time.monotonic() - case.began, 2),
            "scores": None
            if scores is None
            else {row: values.record() for row, values in scores.items()},
        }
        self._completed.keep(loaded.name, case.key, record)
        self._folder.note(
            "case", name=loaded.name, seconds=record["seconds"], files=record["files"]
        )
        return record

    def _dicom_files(self, case: _CaseInWork, files: Sequence[Path]) -> list[Path]:
        """Write the DICOM-SEG of a case that comes from DICOM; ``files`` are its other results."""
        series, model = dicom_series(case.images), self._predictor.config
        if series is None or case.segmentation is None:
            self._folder.console.warn(f"save.dicom_seg: {NOT_FROM_DICOM}")
            return []
        name = f"{case.loaded.name}_{self._config.save.segmentation_suffix}.dcm"
        file = self._folder.path / "predictions" / name
        with writable(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        warn_of_set_aside(
            self._completed.begin(case.loaded.name, [*files, file]), self._folder.console
        )
        return [write_dicom_result(file, case.segmentation, series, model.classes)]

    def _key(self, case: Case) -> str:
        return case_key(case, self._config, self._models, self._predictor.config.channels)
