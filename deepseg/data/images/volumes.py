"""Volumes on disk: images, labels and masks in, results out.

NIfTI goes through nibabel only, because SimpleITK reads damaged NIfTI without an error. nibabel in
its turn does not notice bit rot, so every gzip stream is read to its end once and its checksum
compared before its voxels are trusted. MetaImage, NRRD and DICOM series go through SimpleITK.

Convention: arrays are ``(X, Y, Z)`` in the order of the file, never reoriented. The affine maps a
voxel index, counted at the centre of the voxel, to millimetres in RAS space: the first coordinate
grows to the patient's right, the second to the front, the third to the head.

Classes, channels and cases are not known here, and nothing imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deepseg.data.images.dicom.series import dicom_grid, dicom_voxels
from deepseg.data.images.grid import Array, Geometry, volumes_in
from deepseg.data.images.integrity import format_of
from deepseg.data.images.itk import itk_grid, itk_header, itk_image, itk_voxels
from deepseg.data.images.nifti import (
    dimensions,
    header_from_affine,
    nifti_grid,
    nifti_header,
    nifti_voxels,
    write_nifti,
)
from deepseg.data.images.raw_voxels import (
    RawVoxels,
    as_float32,
    dtype_problem,
    first_place,
    first_value,
    relabelled,
    smallest_integers,
    voxel_phrase,
    whole_numbers,
)
from deepseg.errors import DeepsegError, Problem

__all__ = [
    "Geometry",
    "Volume",
    "new_volume",
    "read_geometry",
    "read_image",
    "read_labels",
    "read_mask",
    "volume_count",
    "write_volume",
]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the patient.

    Attributes:
        array: ``(X, Y, Z)``.
        geometry: Where the voxels lie.
        header: NIfTI header fields that `write_volume` gives to results on this grid; opaque.
        warnings: What the user should know about the file, one sentence each.
    """

    array: Array
    geometry: Geometry
    header: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def new_volume(array: Array, geometry: Geometry) -> Volume:
    """A volume that comes from no NIfTI file; written with qform and sform from its geometry."""
    return Volume(array, geometry, header_from_affine(geometry.affine))


def read_geometry(path: Path, *, volume: int | None = None) -> Geometry:
    """Shape and affine from the header of ``path`` alone, or from those of all slices.

    Args:
        volume: Which volume of a 4D file is meant, counted from 0; None for a 3D file.

    Raises:
        DeepsegError: for a file that is missing, no image, or damaged in its header.
    """
    match format_of(path):
        case "nifti":
            return nifti_grid(path, nifti_header(path), volume).geometry
        case "itk":
            return itk_grid(path, itk_header(path), volume).geometry
        case "dicom":
            return dicom_grid(path, volume).geometry


def volume_count(path: Path) -> int:
    """Volumes that the header of ``path`` speaks of: 1 for a 3D file.

    Raises:
        DeepsegError: for a file that is missing, no image, or damaged in its header.
    """
    match format_of(path):
        case "nifti":
            return volumes_in(path, dimensions(nifti_header(path)))
        case "itk":
            return volumes_in(path, itk_header(path).GetSize())
        case "dicom":
            return 1


def read_image(
    path: Path,
    *,
    nan: Literal["refuse", "replace"] = "refuse",
    volume: int | None = None,
) -> Volume:
    """An image as float32, ``(X, Y, Z)``, slope and intercept applied.

    Args:
        nan: Refuse voxels that are NaN or infinite, or set them to 0 with a warning.
        volume: Which volume of a 4D file is read, counted from 0; None for a 3D file.

    Raises:
        DeepsegError: ``image-not-finite``, ``image-dtype``, ``image-volumes``, or what is wrong
            with the file.
    """
    raw = _raw_voxels(path, volume)
    if raw.array.dtype.kind == "u" and raw.array.dtype.itemsize == 8:
        raise DeepsegError(dtype_problem(path, "uint64"))
    array = as_float32(raw)
    bad = np.isfinite(array)
    np.logical_not(bad, out=bad)
    if not bad.any():
        return Volume(array, raw.grid.geometry, raw.grid.header, raw.grid.warnings)
    place = first_place(bad) + ("" if volume is None else f" of volume {volume}")
    description = f"{voxel_phrase(bad)} NaN or infinite, the first at {place}"
    if nan == "refuse":
        raise DeepsegError(
            Problem(
                code="image-not-finite",
                got=description,
                expected="a finite number in every voxel",
                fix="repair the image, or set 'nan: replace' to read these voxels as 0",
                where=str(path),
            )
        )
    array[bad] = 0
    warnings = (*raw.grid.warnings, f"{description}; read as 0")
    return Volume(array, raw.grid.geometry, raw.grid.header, warnings)


def read_labels(path: Path, label_map: Mapping[int, int] | None = None) -> Volume:
    """Labels in the smallest integer type that holds them, ``(X, Y, Z)``.

    Labels stored as floats come back up to 1e-3 beside the whole number that was meant; they are
    rounded, never truncated.

    Args:
        label_map: New label of each label in the file, all at once; others stay as they are.

    Raises:
        DeepsegError: ``labels-not-integers``, or what is wrong with the file.
    """
    raw = _raw_voxels(path)
    labels, fractional = whole_numbers(raw)
    if fractional.any():
        first = first_value(raw, fractional)
        raise DeepsegError(
            Problem(
                code="labels-not-integers",
                got=f"{voxel_phrase(fractional)} not a whole number, the first {first} at "
                f"{first_place(fractional)}",
                expected="whole numbers (at most 0.001 beside one)",
                fix="give the label file, not an image or a probability map, and resample labels "
                "with nearest neighbours",
                where=str(path),
            )
        )
    labels = smallest_integers(relabelled(labels, label_map or {}))
    return Volume(labels, raw.grid.geometry, raw.grid.header, raw.grid.warnings)


def read_mask(path: Path) -> Volume:
    """A region of interest as bool, ``(X, Y, Z)``: 0 is outside, any other value inside.

    Raises:
        DeepsegError: ``mask-not-binary`` for fractions or negative values, or what is wrong with
            the file.
    """
    raw = _raw_voxels(path)
    values, fractional = whole_numbers(raw)
    bad = fractional | (values < 0)
    if bad.any():
        raise DeepsegError(
            Problem(
                code="mask-not-binary",
                got=f"{voxel_phrase(bad)} neither 0 nor a positive whole number, the first "
                f"{first_value(raw, bad)} at {first_place(bad)}",
                expected="0 outside and 1 inside",
                fix="threshold the probability map or give the mask that belongs to the image",
                where=str(path),
            )
        )
    count = np.unique(values[values > 0]).size
    several = (f"the mask holds {count} numbers above 0; all count as inside",)
    warnings = raw.grid.warnings + (several if count > 1 else ())
    return Volume(values > 0, raw.grid.geometry, raw.grid.header, warnings)


def write_volume(path: Path, array: Array, like: Volume) -> None:
    """Write ``array`` as NIfTI (``.nii.gz`` or ``.nii``) on the grid of ``like``, whole or not.

    Whole numbers and bool get the smallest integer type, unsigned where possible; floats become
    float32. Both transforms of ``like``, their codes, its zooms and its units are kept.

    Raises:
        OutputNotWritable: ``output-not-writable``, if the disk or the system refuses.
    """
    if array.shape != like.geometry.shape:
        raise ValueError(f"array of shape {array.shape} for a grid of {like.geometry.shape}")
    values = array.astype(np.float32) if array.dtype.kind == "f" else smallest_integers(array)
    write_nifti(path, values, like.header)


def _raw_voxels(path: Path, volume: int | None = None) -> RawVoxels:
    """The stored values of ``path``, read by the library that knows its format."""
    match format_of(path):
        case "nifti":
            return nifti_voxels(path, volume)
        case "itk":
            return itk_voxels(path, itk_image(path, volume), volume)
        case "dicom":
            return dicom_voxels(path, volume)
