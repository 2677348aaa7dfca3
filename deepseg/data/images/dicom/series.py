"""The one DICOM series in a folder or an enhanced file, as a grid and as voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseg.data.images.dicom.slices import DicomSlice, dicom_slices, is_dicom
from deepseg.data.images.dicom.stack import Stack, series_name, stack_of
from deepseg.data.images.grid import Grid, invertible, three_dimensional
from deepseg.data.images.integrity import damage_named
from deepseg.data.images.nifti import header_from_affine
from deepseg.data.images.raw_voxels import RawVoxels
from deepseg.errors import DeepsegError, Problem

_SERIES_UID = "0020|000e"


def dicom_grid(folder: Path, index: int | None) -> Grid:
    """The grid of the one series in ``folder``, from the headers of its slices.

    Raises:
        DeepsegError: ``dicom-series``, if there is no series, or several, or one that is no stack
            of slices; ``image-damaged``, if slices are missing or damaged.
    """
    return _grid(folder, dicom_stack(folder), index)


def dicom_voxels(folder: Path, index: int | None) -> RawVoxels:
    """The values of the one series in ``folder``, every slice scaled as its header says.

    Raises:
        DeepsegError: As `dicom_grid`, and ``image-dtype`` for colours.
    """
    stack = dicom_stack(folder)
    grid = _grid(folder, stack, index)
    array = np.stack([item.voxels() for item in stack.slices], axis=2)
    return RawVoxels(array, 1.0, 0.0, grid)


def _grid(folder: Path, stack: Stack, index: int | None) -> Grid:
    geometry = invertible(folder, three_dimensional(folder, stack.sizes, index), stack.affine)
    return Grid(geometry, header_from_affine(geometry.affine), stack.warnings)


def dicom_stack(folder: Path) -> Stack:
    """The slices of the one series in ``folder``, or in an enhanced file, in their order.

    Raises:
        DeepsegError: As `dicom_grid`.
    """
    if folder.is_file():
        return _stack_in_file(folder)
    with damage_named(folder):
        files = [path for path in sorted(folder.iterdir()) if is_dicom(path)]
    by_series: dict[str, list[DicomSlice]] = {}
    for path in files:
        for item in dicom_slices(path):
            by_series.setdefault(item.tags.get(_SERIES_UID, ""), []).append(item)
    if len(by_series) != 1:
        raise DeepsegError(_series_problem(folder, list(by_series.values())))
    (slices,) = by_series.values()
    return stack_of(slices, str(folder))


def _stack_in_file(path: Path) -> Stack:
    """The stack of an enhanced file, which holds a whole series."""
    slices = dicom_slices(path) if is_dicom(path) else []
    if len(slices) > 1 or any(item.frames > 1 for item in slices):
        return stack_of(slices, str(path))
    content = "one slice" if slices else "no DICOM image"
    raise DeepsegError(
        Problem(
            code="dicom-series",
            got=f"a file with {content}",
            expected="a whole series: an enhanced file with a frame for every slice, or a folder",
            fix="give the folder of the series" if slices else "give the image itself",
            where=str(path),
        )
    )


def _series_problem(folder: Path, series: Sequence[Sequence[DicomSlice]]) -> Problem:
    listed = ", ".join(series_name(slices) for slices in series[:5])
    more = f" and {len(series) - 5} more" * (len(series) > 5)
    return Problem(
        code="dicom-series",
        got=f"a folder with {len(series) or 'no'} DICOM series"
        + (f": {listed}{more}" if series else ""),
        expected="an image file, or a folder with one DICOM series",
        fix="give each series its own folder" if series else "give the image file itself",
        where=str(folder),
    )
