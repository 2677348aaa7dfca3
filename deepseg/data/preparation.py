"""A case made ready: read, resampled, normalised, and kept as arrays on disk for the next time.

A prepared case is a folder of `.npy` files that are mapped into memory, so that cutting a segment
reads its own voxels only and many cases need no more memory than a few. What it was made from is
part of the folder's name; a changed file or setting gives a new folder. Sampling is not known here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases import Case
from deepseg.data.intensity import normalised
from deepseg.data.resampling import resample, resampled_geometry
from deepseg.data.volumes import Geometry, Volume, read_image, read_labels, read_mask
from deepseg.geometry.boxes import Int3
from deepseg.storage.atomic import replacing_folder, write_json

CACHE_FORMAT = 1  # raise it whenever a prepared case of today would differ from one of yesterday


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        name: Of the case.
        channels: ``(C, X, Y, Z)``, normalised.
        labels: ``(X, Y, Z)`` integers, or None.
        roi: ``(X, Y, Z)`` bool, or None where the whole image counts.
        weights: ``(categories, X, Y, Z)`` sampling weights, or None.
        geometry: Of these arrays.
        source: The first channel as it was read, on whose grid results are written; None for a
            case opened from the cache.
    """

    name: str
    channels: NDArray[np.float32]
    labels: NDArray[np.integer] | None
    roi: NDArray[np.bool_] | None
    weights: NDArray[np.float32] | None
    geometry: Geometry
    source: Volume | None = None

    @property
    def shape(self) -> Int3:
        """Voxels along X, Y, Z."""
        return self.geometry.shape


def prepared(case: Case, preparation: Preparation, channels: Sequence[str]) -> PreparedCase:
    """``case`` made ready in memory.

    Args:
        case: Where its files are.
        preparation: What to do.
        channels: The model's channel names.
    """
    number, first = _first_channel(case)
    roi = None if case.roi is None else read_mask(case.roi)
    labels = None if case.labels is None else read_labels(case.labels, dict(case.label_map))
    weights = [read_image(path) for path in case.weight_maps]
    own = first.geometry
    target = (
        own if preparation.spacing_mm is None else resampled_geometry(own, preparation.spacing_mm)
    )

    def fitted(volume: Volume, order: Literal[0, 1]) -> NDArray[Any]:
        # The files of one case share their voxels; the checks have judged their geometry.
        array = volume.array
        return array if target == own else resample(array, own, target, order=order)

    def image(channel: int) -> NDArray[np.float32] | None:
        volume = first if channel == number else _channel(case, channel)
        return None if volume is None else fitted(volume, 1).astype(np.float32, copy=False)

    mask = None if roi is None else fitted(roi, 0).astype(bool)
    images = map(image, range(len(case.images)))  # one after the other, to save memory
    return PreparedCase(
        name=case.name,
        channels=normalised(images, mask, preparation.z_score, channels, target.shape),
        labels=None if labels is None else fitted(labels, 0),
        roi=mask,
        weights=np.stack([fitted(v, 1) for v in weights]).astype(np.float32) if weights else None,
        geometry=target,
        source=first,
    )


def _channel(case: Case, number: int) -> Volume | None:
    path, volume = case.images[number]
    return None if path is None else read_image(path, nan=case.nan, volume=volume)


def _first_channel(case: Case) -> tuple[int, Volume]:
    """The first image that the case has, and which of its channels it is."""
    number = next(i for i, (path, _) in enumerate(case.images) if path is not None)
    volume = _channel(case, number)
    assert volume is not None
    return number, volume


def prepared_folder(
    case: Case, preparation: Preparation, channels: Sequence[str], cache: Path
) -> Path:
    """The folder of the prepared ``case`` in ``cache``, made now unless it is there and whole."""
    folder = cache / f"{case.name}-{fingerprint(case, preparation, channels)}"
    if not _is_whole(folder):
        if folder.exists():
            shutil.rmtree(folder)
        with replacing_folder(folder) as temporary:
            _write(prepared(case, preparation, channels), temporary)
    return folder


def open_prepared(folder: Path) -> PreparedCase:
    """The prepared case in ``folder``, its arrays mapped into memory."""
    record = json.loads((folder / "case.json").read_text("utf-8"))
    arrays = {
        # Copy on write: torch wants writable memory, and nothing reaches the disk.
        path.stem: np.load(path, mmap_mode="c")
        for path in folder.glob("*.npy")
    }
    return PreparedCase(
        name=record["name"],
        channels=arrays["channels"],
        labels=arrays.get("labels"),
        roi=arrays.get("roi"),
        weights=arrays.get("weights"),
        geometry=Geometry(tuple(record["shape"]), np.array(record["affine"])),
    )


def _write(case: PreparedCase, folder: Path) -> None:
    arrays = {
        "channels": case.channels, "labels": case.labels, "roi": case.roi, "weights": case.weights,
    }  # fmt: skip
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    write_json(
        folder / "case.json",
        {
            "name": case.name,
            "shape": list(case.shape),
            "affine": case.geometry.affine.tolist(),
            "checksums": {path.name: _checksum(path) for path in sorted(folder.glob("*.npy"))},
        },
    )


def _is_whole(folder: Path) -> bool:
    try:
        checksums = json.loads((folder / "case.json").read_text("utf-8"))["checksums"]
        return all(_checksum(folder / name) == value for name, value in checksums.items())
    except (OSError, ValueError, KeyError):
        return False


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            value = zlib.crc32(chunk, value)
    return value


def fingerprint(case: Case, preparation: Preparation, channels: Sequence[str]) -> str:
    """A name that changes with any file of the case and any setting of its preparation."""
    files = [*case.channels, case.labels, case.roi, *case.weight_maps]
    made_from = {
        "format": CACHE_FORMAT,
        "files": [None if path is None else _stamp(path) for path in files],
        "volumes": case.volumes,
        "label_map": case.label_map,
        "nan": case.nan,
        "preparation": preparation.model_dump(mode="json"),
        "channels": list(channels),
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _stamp(path: Path) -> list[str | int]:
    if path.is_dir():  # a DICOM series
        return [str(path), *(n for p in sorted(path.iterdir()) for n in _stamp(p))]
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]
