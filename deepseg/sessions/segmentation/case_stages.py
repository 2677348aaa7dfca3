"""What a testing session does with every case: read, answer, write, and note that it is done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from deepseg.config.testing import TestConfig
from deepseg.data.cases.case import Case
from deepseg.errors import DeepsegError
from deepseg.inference.components import Cleaning
from deepseg.model.checkpoint import Checkpoint
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.segmentation.completed_cases import CompletedCases, ModelFingerprint, case_key
from deepseg.sessions.segmentation.ensemble import Ensemble, Member
from deepseg.sessions.segmentation.load_case import LoadedCase, is_large, load_case
from deepseg.sessions.segmentation.predict_case import Segmentation, predict_case
from deepseg.sessions.segmentation.result_files import case_scores, write_results


@dataclass(frozen=True)
class _Timed:
    """A case on its way through the stages, with its key and the time when that began."""

    opened: LoadedCase
    key: str
    began: float
    found: Segmentation | None = None


class CaseStages:
    """The stages of a testing session.

    Args:
        folder: Where results go.
        config: Of the session.
        how: The models, and how they answer.
        models: The same models, whose weights results follow from.
    """

    def __init__(
        self, folder: SessionFolder, config: TestConfig, how: Ensemble, models: Sequence[Checkpoint]
    ) -> None:
        self._folder = folder
        self._config = config
        self._how = how
        self._models = [
            ModelFingerprint(
                sha256=_sha256(model),
                preparation=member.preparation,
                tile=how.own_tile(member),
                feature_tile=how.tile_of(member) if how.save.feature_maps else None,
            )
            for model, member in zip(models, how.members, strict=True)
        ]
        self._finished = CompletedCases(folder.path)

    def record(self, case: Case) -> dict[str, Any] | None:
        """What is known of a case that is done; None of one that is not, or lacks a file by now."""
        try:
            return self._finished.record(case.name, self._key(case))
        except OSError:
            return None

    def clear(self, case: Case) -> int:
        """Delete what is left of an older result of a case; gives the number of files."""
        return self._finished.clear(case.name)

    def read(self, case: Case) -> _Timed:
        """The first stage."""
        began, key = time.monotonic(), self._key(case)  # files may change from here on
        return _Timed(load_case(self._how, case, self._folder.path / "cache"), key, began)

    def fits_beside(self, case: Case) -> bool:
        """Whether memory allows to read this case while the one before it is computed."""
        try:
            return not is_large(self._how, case)
        except DeepsegError:  # reading it will say what is wrong
            return True

    def compute(self, one: _Timed) -> _Timed:
        """The second stage."""
        found = predict_case(self._how, one.opened, self._folder.console)
        return replace(one, found=found)

    def write(self, one: _Timed) -> dict[str, Any]:
        """The last stage: files, and the record of the case."""
        assert one.found is not None
        case, found, model = one.opened.case, one.found, self._how.members[0].network.config
        predictions = self._folder.path / "predictions"
        files = write_results(
            found, case.name, predictions, model, self._config.save, self._folder.console
        )
        for ready in one.opened.ready:
            ready.forget()
        scores = None if found.truth is None else case_scores(found, model, self._config.groups)
        voxel_ml = found.source.geometry.voxel_ml
        record = {
            "files": [str(file.relative_to(self._folder.path)) for file in files],
            "without_picture": self._config.save.pictures
            and all(file.suffix != ".png" for file in files),
            "volumes_ml": {
                name: float((found.labels == label).sum()) * voxel_ml
                for label, name in enumerate(model.classes)
                if label > 0
            },
            "seconds": round(time.monotonic() - one.began, 2),
            "scores": None
            if scores is None
            else {row: asdict(values) for row, values in scores.items()},
        }
        self._finished.keep(case.name, one.key, record)
        return record

    def _key(self, case: Case) -> str:
        channels = self._how.members[0].network.config.channels
        return case_key(case, self._config, self._models, channels)


def cleaning_rules(config: TestConfig, classes: Sequence[str]) -> dict[int, Cleaning]:
    """The rules for components, by label."""
    return {
        list(classes).index(name): Cleaning(**rule.model_dump())
        for name, rule in config.postprocess.items()
    }


def computing(config: TestConfig, members: Sequence[Member]) -> Ensemble:
    """How the cases of ``config`` are answered."""
    return Ensemble(
        members=tuple(members),
        inference=config.inference,
        save=config.save,
        cleaning=cleaning_rules(config, members[0].network.config.classes),
        tile=config.tile_size,
        batch_size=config.batch_size,
    )


def _sha256(model: Checkpoint) -> str:
    """Of settings and weights."""
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for name, tensor in model.weights.items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
