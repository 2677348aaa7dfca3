"""A folder of BIDS derivatives: segmentations under the names of the images that they belong to.

Each has a sidecar that says where it comes from, which is written last; a segmentation without one
does not count.

Source: BIDS specification 1.9, "BIDS Derivatives", https://bids-specification.readthedocs.io
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deepseg.config.testing import TestConfig
from deepseg.data.cases.bids import bids_name
from deepseg.data.cases.case import Case
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.inference.segmentation import Segmentation
from deepseg.model.checkpoint import Checkpoint
from deepseg.report.label_files import bids_labels
from deepseg.storage.atomic import writable, write_json, write_text
from deepseg.storage.content_stamp import content_stamp
from deepseg.version import VERSION

DESCRIPTION = "deepseg"  # the value of the entity desc
BIDS_VERSION = "1.9.0"


class Derivatives:
    """The derivatives of one tree by one model.

    Args:
        folder: Of the derivatives.
        tree: That is segmented.
        model: That predicts.
        config: Settings, of which the computation and the cases count.
    """

    def __init__(self, folder: Path, tree: Path, model: Checkpoint, config: TestConfig) -> None:
        self._folder = folder
        self._tree = tree.absolute()
        self._model = model
        self._settings = config.model_dump(mode="json", include={"inference", "preparation"})
        self._weights = model.digest()

    def file(self, case: Case) -> Path:
        """The segmentation of a case, called as its first image."""
        image = _image(case)
        name = bids_name(image.name)
        entities = [
            f"{key}-{value}" for key, value in name.entities.items() if key not in ("desc", "part")
        ]
        folders = [part for part in entities if part.startswith(("sub-", "ses-"))]
        stem = "_".join([*entities, f"desc-{DESCRIPTION}", "dseg.nii.gz"])
        return self._folder.joinpath(*folders, "anat", stem)

    def pending(self, cases: Sequence[Case]) -> list[Case]:
        """The cases that are not done yet.

        Raises:
            DeepsegError: ``file-exists`` for results of another model, of other images or
                settings, and for derivatives of another program.
        """
        raise_if_any([*self._foreign_description(), *self._foreign_results(cases)])
        return [case for case in cases if not self._is_done(case)]

    def describe(self) -> None:
        """Write the files that describe the derivatives, unless they are there."""
        with writable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if not self._description.exists():
            write_json(
                self._description,
                {
                    "Name": "Segmentations by deepseg",
                    "BIDSVersion": BIDS_VERSION,
                    "DatasetType": "derivative",
                    "GeneratedBy": [{"Name": "deepseg", "Version": VERSION}],
                    "SourceDatasets": [{"URL": self._tree.as_uri()}],
                    "DatasetLinks": {"raw": self._tree.as_uri()},
                },
            )
        write_text(self._folder / f"desc-{DESCRIPTION}_dseg.tsv", self._labels)

    def write(self, case: Case, segmentation: Segmentation) -> Path:
        """Write the segmentation of a case, then its sidecar; return the segmentation."""
        file = self.file(case)
        with writable(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        segmentation.save(file)
        write_json(
            self._sidecar(case),
            {
                "Manual": False,
                "SpatialReference": "orig",
                "Sources": [f"bids:raw:{path}" for path in self._sources(case)],
                "Model": str(self._model.origin),
                "Fingerprint": self._fingerprint(case),
            },
        )
        return file

    @property
    def _description(self) -> Path:
        return self._folder / "dataset_description.json"

    @property
    def _labels(self) -> str:
        return bids_labels(self._model.config.classes)

    def _sidecar(self, case: Case) -> Path:
        file = self.file(case)
        return file.with_name(file.name.removesuffix(".nii.gz") + ".json")

    def _is_done(self, case: Case) -> bool:
        """Segmentation and sidecar are there; managers of workflows remove the first to redo it."""
        return self.file(case).exists() and self._sidecar(case).exists()

    def _sources(self, case: Case) -> Iterator[str]:
        for path in (*case.channels, case.roi):
            if path is not None:
                absolute = path.absolute()
                is_inside = absolute.is_relative_to(self._tree)
                yield (absolute.relative_to(self._tree) if is_inside else absolute).as_posix()

    def _fingerprint(self, case: Case) -> str:
        """Hash of everything that the segmentation follows from."""
        files = [None if path is None else content_stamp(path) for path in case.channels]
        roi = None if case.roi is None else content_stamp(case.roi)
        made_from = [self._weights, self._settings, files, roi]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

    def _foreign_description(self) -> Iterator[Problem]:
        record = _json(self._description)
        programs = record.get("GeneratedBy", [])
        names = [entry.get("Name") for entry in programs if isinstance(entry, dict)]
        if self._description.exists() and "deepseg" not in names:
            yield Problem(
                code="file-exists",
                got="a BIDS tree that is not of deepseg",
                expected="a folder for the derivatives of deepseg alone",
                fix="choose another output folder, such as derivatives/deepseg",
                where=str(self._description),
            )
        table = self._folder / f"desc-{DESCRIPTION}_dseg.tsv"
        if table.exists() and table.read_text("utf-8") != self._labels:
            yield _other_model(table, "names of other labels")

    def _foreign_results(self, cases: Sequence[Case]) -> Iterator[Problem]:
        for case in cases:
            if self._is_done(case):
                sidecar = self._sidecar(case)
                if _json(sidecar).get("Fingerprint") != self._fingerprint(case):
                    got = "a result of another model, other images or settings"
                    yield _other_model(sidecar, got)


def _other_model(file: Path, got: str) -> Problem:
    return Problem(
        code="file-exists",
        got=got,
        expected="results of this model and these images, or none",
        fix="remove it, or choose another output folder",
        where=str(file),
    )


def _image(case: Case) -> Path:
    """The first channel that the case has, on whose grid results are."""
    images = [path for path in case.channels if path is not None]
    if not images:
        raise DeepsegError(
            Problem("bids-files", f"no image of {case.name}", "one at least", "add it", case.where)
        )
    return images[0]


def _json(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
