"""Geometry: where voxels lie in the patient, and what it takes for a header to give one.

The convention is that of `deepseg.data.images.volumes`. Formats of files are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt

from deepseg.data.images.integrity import damaged
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3

Array: TypeAlias = npt.NDArray[Any]
Affine: TypeAlias = npt.NDArray[np.float64]

AXIS_LETTERS: Callable[..., tuple[str, ...]] = nib.aff2axcodes  # nibabel has no types

_FLAT = 1e-4  # volume of a voxel over the product of its sides, below which it counts as flat


@dataclass(frozen=True, eq=False)
class Geometry:
    """Place of the voxels of a volume in the patient.

    Attributes:
        shape: Voxels along X, Y, Z.
        affine: Voxel index to RAS millimetres, ``(4, 4)`` float64; copied and read-only.

    >>> geometry = Geometry((10, 20, 5), np.diag([1.0, 1.0, 2.0, 1.0]))
    >>> geometry.spacing_mm, geometry.voxel_ml, geometry.orientation
    ((1.0, 1.0, 2.0), 0.002, 'RAS')
    """

    shape: Int3
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, *self.affine.flat))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Where X, Y, Z grow to, or nearly so: ``RAS`` is right, anterior, superior."""
        return "".join(AXIS_LETTERS(self.affine))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def corners_mm(self) -> Affine:
        """The eight outer corners of the volume, ``(8, 3)`` in RAS millimetres."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return np.array(list(product(*ends))) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def distance_mm(self, other: Geometry) -> float:
        """Largest distance between an outer corner and the same corner of ``other``.

        Two grids over one field of view have distance 0 whatever their shapes; compare those too.
        """
        return float(np.linalg.norm(self.corners_mm - other.corners_mm, axis=1).max())

    def distance_voxels(self, other: Geometry) -> float:
        """Largest distance along an axis of this volume from an outer corner to that of ``other``.

        Counted in voxels along that axis, so that thick slices tolerate more than thin ones.

        >>> thick = Geometry((10, 20, 5), np.diag([0.5, 0.5, 6.0, 1.0]))
        >>> moved = np.diag([0.5, 0.5, 6.0, 1.0])
        >>> moved[2, 3] = 0.3
        >>> round(thick.distance_voxels(Geometry((10, 20, 5), moved)), 6)
        0.05
        """
        steps = np.linalg.solve(self.affine[:3, :3], (self.corners_mm - other.corners_mm).T)
        return float(np.abs(steps).max())


@dataclass(frozen=True)
class Grid:
    """Content of the header of a file, for any format."""

    geometry: Geometry
    header: Mapping[str, Any]
    warnings: tuple[str, ...]


def volumes_in(path: Path, sizes: Sequence[int]) -> int:
    """Volumes of a file with these dimensions; a fifth axis is refused."""
    shape = tuple(int(n) for n in sizes)
    if len(shape) < 2 or min(shape) < 1:
        raise DeepsegError(damaged(path, f"a header with the dimensions {shape}"))
    if any(n != 1 for n in shape[4:]):
        raise DeepsegError(_not_3d(path, shape))
    return shape[3] if len(shape) > 3 else 1


def three_dimensional(path: Path, sizes: Sequence[int], index: int | None) -> Int3:
    """The size of the one volume, or of volume ``index``; a flat image is one voxel thick."""
    count = volumes_in(path, sizes)
    if index is None and count > 1:
        raise DeepsegError(_not_3d(path, sizes))
    if index is not None and not 0 <= index < count:
        raise DeepsegError(
            Problem(
                code="image-volumes",
                got=f"{count} volume{'s' * (count != 1)}",
                expected=f"a volume {index}, counted from 0",
                fix="give the image that holds a volume of every channel",
                where=str(path),
            )
        )
    x, y, z = (int(n) for n in (*sizes, 1)[:3])
    return x, y, z


def _not_3d(path: Path, sizes: Sequence[int]) -> Problem:
    extra = sizes[3:]
    values = " x ".join(str(n) for n in extra if n != 1)
    noun = "volumes" if len(extra) == 1 else "values per voxel"
    return Problem(
        code="image-not-3d",
        got=f"{len(sizes)}D with {values} {noun}",
        expected="3D, one volume per file",
        fix="save them as one file each; list them as channels",
        where=str(path),
    )


def invertible(path: Path, shape: Int3, affine: Array) -> Geometry:
    """The geometry, if its affine can be inverted."""
    matrix = np.asarray(affine, dtype=np.float64)
    sides = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all():
        got = "an affine matrix that holds NaN or infinity"
    elif abs(np.linalg.det(matrix[:3, :3])) <= _FLAT * sides.prod():
        got = "a singular affine matrix"
    else:
        return Geometry(shape, matrix)
    raise DeepsegError(
        Problem(
            code="affine-singular",
            got=got,
            expected="an affine matrix that gives every voxel its own place",
            fix="write the image again with the affine matrix of its source",
            where=str(path),
        )
    )
