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
    preparation = manifest["preparation"]
    names = [*manifest["channels"], "labels", roi_name]
    is_there = [_volume_file(folder, name) is not None for name in names]
    volumes = [
        _volume(folder, name, preparation)
        for name, there in zip(names, is_there, strict=True)
        if there or name != roi_name
    ]
    _check_grids(folder, volumes)
    *images, labels, mask = [volume.voxels for volume in volumes] + [None] * (not is_there[-1])
    roi = None
    if mask is not None:
        roi = mask != 0
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
        for image, name in zip(images, manifest["channels"], strict=True)
    ]
    return Case(folder.name, np.stack(channels), _checked_labels(folder, labels, manifest), roi)


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


def _volume(folder: Path, stem: str, preparation: Mapping[str, Any]) -> NDArray[Any]:
    """``(X, Y, Z)`` voxels in the axes of the training cases, on the grid of the case."""
    file = _volume_file(folder, stem)
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
    if voxels.ndim != 3 or not np.isfinite(voxels).all():
        raise _bad_case(folder, f"{file.name} of shape {voxels.shape}", "three axes, finite values")
    return voxels


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
