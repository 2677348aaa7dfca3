"""A case made ready: read, resampled, normalised, and kept as arrays on disk for the next time.

A prepared case is a folder of `.npy` files that are mapped into memory, so that cutting a segment
reads its own voxels only and many cases need no more memory than a few. What it was made from is
part of the folder's name; a changed file or setting gives a new folder. Sampling is not known here.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.file_stamps import file_stamp
from deepseg.data.images.resampling import resample, resampled_geometry
from deepseg.data.images.volumes import (
    Geometry,
    Volume,
    read_geometry,
    read_image,
    read_labels,
    read_mask,
)
from deepseg.data.intensity import normalise
from deepseg.geometry.boxes import Int3
from deepseg.storage.atomic import replacing_folder, writable, write_json

FLOAT_BYTES = 4
CACHE_FORMAT = 1  # raise it whenever a prepared case of today would differ from one of yesterday


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        name: Of the case.
        channels: ``(C, X, Y, Z)``, normalised.
        labels: ``(X, Y, Z)`` integers, or None.
        roi: ``(X, Y, Z)`` bool, over which intensities are normalised and from which segments are
            taken, or None where the whole image counts.
        weights: ``(categories, X, Y, Z)`` sampling weights, or None.
        geometry: Of these arrays.
        source: The first channel, on whose grid results are written. Where that is the grid of
            ``channels`` too, it is held once, normalised; else it is as in its file. The two differ
            by an offset and a scale, so that pictures are the same. None for a case opened from
            the cache.
        mappings: The files that arrays lie in; none in memory.
        to_compute: ``(X, Y, Z)`` bool, where a network has to answer; None for everywhere.
    """

    name: str
    channels: NDArray[np.float32]
    labels: NDArray[np.integer] | None
    roi: NDArray[np.bool_] | None
    weights: NDArray[np.float32] | None
    geometry: Geometry
    source: Volume | None = None
    mappings: tuple[mmap.mmap, ...] = ()
    to_compute: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> Int3:
        """Voxels along X, Y, Z."""
        return self.geometry.shape

    def forget(self) -> None:
        """Give back the memory of voxels that can be read from files again."""
        for mapping in self.mappings:
            mapping.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class CaseImages:
    """Images of a case before they are prepared, on one grid; a channel is read when it is needed.

    Attributes:
        name: Of the case.
        first: Number of the first channel that the case has.
        channel: Reads a channel by its number; None for one that the case lacks.
        labels: ``(X, Y, Z)`` integers, or None.
        roi: ``(X, Y, Z)`` bool, or None where the whole image counts.
        weight_maps: Sampling weights, one per category.
    """

    name: str
    first: int
    channel: Callable[[int], Volume | None]
    labels: Volume | None = None
    roi: Volume | None = None
    weight_maps: tuple[Volume, ...] = ()


def prepared(
    case: Case, preparation: Preparation, channels: Sequence[str], *, scratch: Path | None = None
) -> PreparedCase:
    """``case`` read and made ready.

    Args:
        case: Where its files are.
        preparation: What to do.
        channels: The model's channel names.
        scratch: Folder for a nameless file that holds the channels; None for memory.
    """
    images = CaseImages(
        name=case.name,
        first=next(i for i, (path, _) in enumerate(case.images) if path is not None),
        channel=partial(_channel, case),
        roi=None if case.roi is None else read_mask(case.roi),
        labels=None if case.labels is None else read_labels(case.labels, dict(case.label_map)),
        weight_maps=tuple(read_image(path) for path in case.weight_maps),
    )
    return prepared_images(images, preparation, channels, scratch=scratch)


def prepared_images(
    images: CaseImages,
    preparation: Preparation,
    channels: Sequence[str],
    *,
    scratch: Path | None = None,
) -> PreparedCase:
    """Images made ready, wherever they come from; for the arguments see `prepared`."""
    first = images.channel(images.first)
    assert first is not None
    grid = first.geometry
    target = prepared_geometry(grid, preparation)

    def fitted(volume: Volume, order: Literal[0, 1]) -> NDArray[Any]:
        # The files of one case share their voxels; the checks have judged their geometry.
        array = volume.array
        return array if target == grid else resample(array, grid, target, order=order)

    mask = None if images.roi is None else fitted(images.roi, 0).astype(bool, copy=False)
    source, waiting = first, [first]
    if target == grid:
        source = replace(first, array=np.empty(0))
    del first

    def image(channel: int) -> NDArray[np.float32] | None:
        volume = waiting.pop() if channel == images.first else images.channel(channel)
        if volume is None:
            return None
        array = fitted(volume, 1).astype(np.float32, copy=False)
        normalise(array, mask, preparation.z_score, channels[channel])
        return array

    size = (len(channels), *target.shape)
    stacked, mapping = _in_memory(image, size) if scratch is None else _mapped(image, size, scratch)
    weights = [fitted(weight_map, 1) for weight_map in images.weight_maps]
    return PreparedCase(
        name=images.name,
        channels=stacked,
        labels=None if images.labels is None else fitted(images.labels, 0),
        roi=mask,
        weights=np.stack(weights).astype(np.float32) if weights else None,
        geometry=target,
        source=replace(source, array=stacked[images.first]) if target == grid else source,
        mappings=() if mapping is None else (mapping,),
    )


ReadImage = Callable[[int], NDArray[np.float32] | None]  # channel → (X, Y, Z), or None if missing


def _in_memory(image: ReadImage, size: tuple[int, ...]) -> tuple[NDArray[np.float32], None]:
    """The channels as one array; a missing one is 0, the mean of normalised ones."""
    stacked = np.zeros(size, np.float32)

    def put(number: int) -> None:
        found = image(number)
        if found is not None:
            stacked[number] = found

    for number in range(size[0]):  # no more than one image beside the array
        put(number)
    return stacked, None


def _mapped(
    image: ReadImage, size: tuple[int, ...], scratch: Path
) -> tuple[NDArray[np.float32], mmap.mmap]:
    """The same in a file that is gone when nothing uses it any more."""
    each = FLOAT_BYTES * prod(size[1:])
    with writable(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=scratch) as file:

            def put(number: int) -> None:
                found = image(number)
                if found is not None:
                    file.seek(number * each)
                    file.write(np.ascontiguousarray(found).data)

            file.truncate(each * size[0])  # what is not written reads as 0
            for number in range(size[0]):
                put(number)
            file.flush()
            # Copy on write: torch wants writable memory, and nothing reaches the disk.
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(mapping, np.float32).reshape(size), mapping


def prepared_geometry(own: Geometry, preparation: Preparation) -> Geometry:
    """The grid of a prepared case whose files have the grid ``own``."""
    spacing_mm = preparation.spacing_mm
    return own if spacing_mm is None else resampled_geometry(own, spacing_mm)


def channel_bytes(case: Case, preparation: Preparation, channels: Sequence[str]) -> int:
    """Memory of the channels of the prepared ``case``."""
    path, volume = next(one for one in case.images if one[0] is not None)
    assert path is not None
    own = read_geometry(path, volume=volume)
    return FLOAT_BYTES * len(channels) * prod(prepared_geometry(own, preparation).shape)


def _channel(case: Case, number: int) -> Volume | None:
    path, volume = case.images[number]
    return None if path is None else read_image(path, nan=case.nan, volume=volume)


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
        mappings=mappings_of(arrays.values()),
    )


def mappings_of(arrays: Iterable[NDArray[Any] | None]) -> tuple[mmap.mmap, ...]:
    """The files that `numpy.load` has mapped ``arrays`` from."""
    bases: list[object] = [None if array is None else array.base for array in arrays]
    return tuple(base for base in bases if isinstance(base, mmap.mmap))


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
        "files": [None if path is None else file_stamp(path) for path in files],
        "volumes": case.volumes,
        "label_map": case.label_map,
        "nan": case.nan,
        "preparation": preparation.model_dump(mode="json"),
        "channels": list(channels),
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
