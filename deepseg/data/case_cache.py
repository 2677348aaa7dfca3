"""Cache of prepared cases on the disk: a folder of arrays for each.

A prepared case is a folder of `.npy` files that are mapped into memory, so that cutting a segment
reads its own voxels only and many cases need no more memory than a few. A fingerprint of its files
and settings is part of the folder's name, so that a change gives a new folder. Nothing here knows
how cases are sampled.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.file_stamps import file_stamp
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase, prepare
from deepseg.errors import DeepsegError, OutputNotWritable, Problem
from deepseg.storage.atomic import flush, replacing_folder, write_json

CACHE_FORMAT = 1  # raise it whenever a prepared case of today would differ from one of yesterday


def prepared_folder(
    case: Case, preparation: Preparation, channels: Sequence[str], cache: Path
) -> Path:
    """Folder of the prepared ``case`` in ``cache``, made now unless it is there and whole.

    Args:
        channels: The model's channel names.
    """
    folder = folder_name(case, preparation, channels, cache)
    if not is_whole(folder):
        if folder.exists():
            shutil.rmtree(folder)
        with replacing_folder(folder) as temporary:
            _write(prepare(case, preparation, channels), temporary)
    return folder


def folder_name(case: Case, preparation: Preparation, channels: Sequence[str], cache: Path) -> Path:
    """Folder of the prepared ``case`` in ``cache``, there or not.

    Args:
        channels: The model's channel names.

    Raises:
        OSError: A file of the case is missing.
    """
    return cache / f"{case.name}-{fingerprint(case, preparation, channels)}"


def open_prepared(folder: Path) -> PreparedCase:
    """The prepared case in ``folder``, its arrays mapped into memory.

    The files stay mapped for as long as anything refers to the arrays.

    Raises:
        DeepsegError: ``cache-lost``, if files of it are gone or cut since the session began.
    """
    try:
        record = json.loads((folder / "case.json").read_text("utf-8"))
        names = record.get("checksums", [path.name for path in folder.glob("*.npy")])
        arrays = {
            # Copy on write: torch wants writable memory, and nothing reaches the disk.
            name.removesuffix(".npy"): np.load(folder / name, mmap_mode="c")
            for name in names
        }
        channels = arrays["channels"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, EOFError) as error:
        raise DeepsegError(
            Problem(
                code="cache-lost",
                got="a prepared case of which files are gone or cut",
                expected="the files as the session has written them",
                fix="give the same command again: it prepares the case anew",
                where=str(folder),
            )
        ) from error
    return PreparedCase(
        name=record["name"],
        channels=channels,
        labels=arrays.get("labels"),
        roi=arrays.get("roi"),
        weights=arrays.get("weights"),
        geometry=Geometry(tuple(record["shape"]), np.array(record["affine"])),
        mappings=mappings_of(arrays.values()),
    )


def prepared_labels(folder: Path) -> frozenset[int] | None:
    """Labels that a prepared case has; None if it has none, or was prepared by an older version."""
    labels = json.loads((folder / "case.json").read_text("utf-8")).get("labels")
    return None if labels is None else frozenset(labels)


def mappings_of(arrays: Iterable[NDArray[Any] | None]) -> tuple[mmap.mmap, ...]:
    """The file mappings in which ``arrays`` lie, as far as `numpy.load` has mapped them."""
    bases: list[object] = [None if array is None else array.base for array in arrays]
    return tuple(base for base in bases if isinstance(base, mmap.mmap))


def fingerprint(case: Case, preparation: Preparation, channels: Sequence[str]) -> str:
    """Sixteen hex digits that change with any file of the case and any setting of its preparation.

    Raises:
        OSError: A file of the case is missing.
    """
    files = [*case.channels, case.labels, case.roi, *case.weight_maps]
    ingredients = {
        "format": CACHE_FORMAT,
        "files": [None if path is None else file_stamp(path) for path in files],
        "volumes": case.volumes,
        "label_map": case.label_map,
        "nan": case.nan,
        "preparation": preparation.model_dump(mode="json"),
        "channels": list(channels),
    }
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:16]


def _write(case: PreparedCase, folder: Path) -> None:
    arrays = {
        "channels": case.channels,
        "labels": case.labels,
        "roi": case.roi,
        "weights": case.weights,
    }
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
            flush(folder / f"{name}.npy")  # so that its stamp tells that all of it is there
    files = sorted(folder.glob("*.npy"))
    record = {
        "name": case.name,
        "shape": list(case.shape),
        "affine": case.geometry.affine.tolist(),
        "labels": None if case.labels is None else np.unique(case.labels).tolist(),
        "checksums": {path.name: _checksum(path) for path in files},
        "stamps": {path.name: _stamp(path) for path in files},
    }
    write_json(folder / "case.json", record)


def is_whole(folder: Path) -> bool:
    """True if a prepared case is there as it was written.

    Where size and time of each file are those of its writing, or of the last time that its checksum
    was compared, it is not read again: ten thousand cases are more than a terabyte.
    """
    try:
        record = json.loads((folder / "case.json").read_text("utf-8"))
        checksums = record["checksums"]
        stamps = {name: _stamp(folder / name) for name in checksums}
        if stamps == record.get("stamps"):
            return True
        matches = all(_checksum(folder / name) == value for name, value in checksums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if matches:
        with suppress(OutputNotWritable):  # a cache that may only be read
            write_json(folder / "case.json", {**record, "stamps": stamps})
    return matches


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
