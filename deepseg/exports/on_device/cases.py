"""The cases of a folder, prepared as the training cases of the network were."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.intensity import Floats, Mask, normalised, with_holes
from deepseg.exports.on_device.nifti import oriented, read_nifti, voxel_sizes

ROI, NO_ROI = "roi", "none"  # names of the region of interest

ENDINGS = (".npy", ".nii", ".nii.gz")

SPACING_TOLERANCE = 1e-3  # of a voxel size, relative
GRID_TOLERANCE_MM = 1e-2

Labels: TypeAlias = NDArray[np.int16]


@dataclass(frozen=True)
class Case:
    """A case as the network sees it.

    Attributes:
        name: Of its folder.
        channels: ``(C, X, Y, Z)``, normalised.
        labels: ``(X, Y, Z)``; -1 where unknown.
        roi: ``(X, Y, Z)``, or None where the whole image counts.
    """

    name: str
    channels: Floats
    labels: Labels
    roi: Mask | None


@dataclass(frozen=True)
class Cases:
    """The cases of a folder, read when they are needed.

    Attributes:
        folder: With a folder for each case.
        manifest: Of the network that sees them.
        roi_name: File of the region of interest, without its ending.
    """

    folder: Path
    manifest: Mapping[str, Any]
    roi_name: str

    def read(self, name: str) -> Case:
        """The case of a name, prepared."""
        return read_case(self.folder / name, self.manifest, roi_name=self.roi_name)


def case_names(data: Path) -> list[str]:
    """Folders of cases: those with labels, in the order of their names."""
    if not data.is_dir():
        raise DeviceError("device-case", f"{data}, which is no folder", "one", "correct --data")
    try:
        names = sorted(f.name for f in data.iterdir() if f.is_dir() and _volume_file(f, "labels"))
    except OSError as error:
        raise DeviceError(
            "device-case", f"{data}, which cannot be read", "a folder", "correct its permissions"
        ) from error
    if not names:
        raise DeviceError(
            "device-case", f"no case in {data}", "folders with labels", "correct --data"
        )
    return names


def read_case(folder: Path, manifest: Mapping[str, Any], *, roi_name: str = ROI) -> Case:
    """Read a case and prepare it as the training cases of the network were prepared."""
    preparation, names = manifest["preparation"], manifest["channels"]
    stems = [*names, "labels", *([roi_name] if _volume_file(folder, roi_name) else [])]
    volumes = {stem: _volume(folder, stem, preparation) for stem in stems}
    _check_grids(folder, volumes)
    images = [volumes[name].voxels for name in names]
    roi = None
    if roi_name in volumes:
        roi = volumes[roi_name].voxels != 0
    elif preparation["roi"] == "nonzero":
        roi = with_holes(np.any([image != 0 for image in images], axis=0))
    elif roi_name != NO_ROI and (manifest.get("has_roi", False) or roi_name != ROI):
        reason = ", as all training cases had" if manifest.get("has_roi", False) else ""
        raise DeviceError(
            "device-case",
            f"no file {roi_name} in {folder}",
            f"a region of interest{reason}",
            f"add the file, or name it with --roi; --roi {NO_ROI} takes whole images all the same",
        )
    low, high = preparation.get("clip") or (-np.inf, np.inf)
    channels = [
        normalised(image.astype(np.float32).clip(low, high), roi, preparation["z_score"], name)
        for image, name in zip(images, names, strict=True)
    ]
    labels = _checked_labels(folder, volumes["labels"].voxels, manifest)
    return Case(folder.name, np.stack(channels), labels, roi)


@dataclass(frozen=True)
class _Volume:
    """A file: ``(X, Y, Z)`` voxels in the axes of the training cases, and where it lies in mm."""

    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None


def _check_grids(folder: Path, volumes: Mapping[str, _Volume]) -> None:
    """Refuse files whose voxels lie at different places, so far as they say where."""
    shapes = sorted({volume.voxels.shape for volume in volumes.values()})
    if len(shapes) > 1:
        raise _bad_case(folder, f"volumes of shapes {', '.join(map(str, shapes))}", "one")
    affines = {name: v.affine for name, v in volumes.items() if v.affine is not None}
    for name, affine in affines.items():
        first = next(iter(affines.values()))
        if not np.allclose(affine, first, atol=GRID_TOLERANCE_MM):
            got = f"{name} on another grid than {next(iter(affines))}"
            raise _bad_case(folder, got, "one grid for all files of a case")


def _checked_labels(folder: Path, labels: NDArray[Any], manifest: Mapping[str, Any]) -> Labels:
    classes = len(manifest["classes"])
    values = np.unique(labels)
    wrong = [v for v in values.tolist() if v != int(v) or not -1 <= v < classes]
    if wrong:
        expected = f"0 to {classes - 1}, -1 where unknown"
        raise _bad_case(folder, f"labels {', '.join(f'{v:g}' for v in wrong[:5])}", expected)
    return labels.astype(np.int16)


def _bad_case(folder: Path, got: str, expected: str) -> DeviceError:
    return DeviceError("device-case", f"{got} in {folder}", expected, "correct or remove the case")


def _volume_file(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{ending}" for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def _volume(folder: Path, stem: str, preparation: Mapping[str, Any]) -> _Volume:
    file, affine = _volume_file(folder, stem), None
    if file is None:
        raise _bad_case(folder, f"no {stem}", f"{stem} with one of {', '.join(ENDINGS)}")
    try:
        if file.suffix == ".npy":
            voxels: NDArray[Any] = np.load(file, allow_pickle=False)
        else:
            voxels, affine = read_nifti(file)
            voxels = oriented(voxels, affine, preparation["orientation"])
            _check_spacing(folder, affine, preparation)
    except (OSError, ValueError, EOFError, KeyError, IndexError, zlib.error) as error:
        raise _bad_case(folder, f"{file.name}, which cannot be read", "a whole volume") from error
    if voxels.ndim != 3 or voxels.dtype.kind not in "biuf" or not np.isfinite(voxels).all():
        raise _bad_case(folder, f"{file.name} of shape {voxels.shape}", "three axes, finite values")
    return _Volume(voxels, affine)


def _check_spacing(
    folder: Path, affine: NDArray[np.float64], preparation: Mapping[str, Any]
) -> None:
    expected = preparation["resample"]
    if expected is None:
        return
    sizes = voxel_sizes(affine, preparation["orientation"])
    if not np.allclose(sizes, expected, rtol=SPACING_TOLERANCE):
        got = " x ".join(f"{mm:.3g}" for mm in sizes)
        needed = " x ".join(f"{mm:g}" for mm in np.broadcast_to(expected, 3))
        raise _bad_case(folder, f"voxels of {got} mm", f"{needed} mm, resampled before")
