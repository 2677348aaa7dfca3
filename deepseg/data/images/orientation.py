"""The order and direction of a volume's axes, and how one order becomes another, exactly.

An orientation says where X, Y, Z grow to, such as ``RAS``: to the right, to the front, to the top.
There are 48. Voxels are only moved: nothing is interpolated, and the way back is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from deepseg.data.images.grid import Geometry
from deepseg.geometry.boxes import Box, Int3

OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}

Voxels = TypeVar("Voxels", bound=npt.NDArray[Any])
Triple = TypeVar("Triple")


@dataclass(frozen=True)
class Reorientation:
    """Axes of a volume put into another order, and some of them reversed.

    Attributes:
        axes: New axis ``a`` is old axis ``axes[a]``.
        is_reversed: New axis ``a`` runs the other way.

    >>> Reorientation.between("RAS", "LSA")
    Reorientation(axes=(0, 2, 1), is_reversed=(True, False, False))
    """

    axes: Int3 = (0, 1, 2)
    is_reversed: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def between(cls, source: str, target: str) -> Reorientation:
        """The change from one orientation, such as ``RAS``, to another."""
        x, y, z = (_axis(source, letter) for letter in target)
        i, j, k = (source[axis] != letter for axis, letter in zip((x, y, z), target, strict=True))
        return cls((x, y, z), (i, j, k))

    @classmethod
    def of(cls, geometry: Geometry, target: str | None) -> Reorientation:
        """The change of a volume to the orientation ``target``; none for None."""
        return cls() if target is None else cls.between(geometry.orientation, target)

    @property
    def is_identity(self) -> bool:
        """Nothing is moved."""
        return self == Reorientation()

    @property
    def inverse(self) -> Reorientation:
        """The way back.

        >>> change = Reorientation((1, 2, 0), (True, False, False))
        >>> change.inverse
        Reorientation(axes=(2, 0, 1), is_reversed=(False, True, False))
        """
        x, y, z = (self.axes.index(axis) for axis in range(3))
        i, j, k = (self.is_reversed[axis] for axis in (x, y, z))
        return Reorientation((x, y, z), (i, j, k))

    def then(self, later: Reorientation) -> Reorientation:
        """This change, and after it the change ``later``.

        >>> change = Reorientation.between("RAS", "SLP")
        >>> change.then(Reorientation.between("SLP", "ASL")) == Reorientation.between("RAS", "ASL")
        True
        """
        x, y, z = (self.axes[axis] for axis in later.axes)
        i, j, k = (
            is_reversed != self.is_reversed[axis]
            for axis, is_reversed in zip(later.axes, later.is_reversed, strict=True)
        )
        return Reorientation((x, y, z), (i, j, k))

    def array(self, values: Voxels) -> Voxels:
        """``(..., X, Y, Z)`` with its last three axes in the new order; a view, not a copy.

        >>> Reorientation((1, 0, 2), (True, False, False)).array(np.array([[[1], [2]]])).tolist()
        [[[2]], [[1]]]
        """
        if self.is_identity:
            return values
        leading = values.ndim - 3
        order = (*range(leading), *(leading + axis for axis in self.axes))
        flips = tuple(leading + axis for axis in range(3) if self.is_reversed[axis])
        return cast(Voxels, np.flip(values.transpose(order), flips))

    def copied(self, values: Voxels) -> Voxels:
        """Like `array`, but voxel by voxel in memory; ``values`` itself if nothing is moved."""
        if self.is_identity:
            return values
        return cast(Voxels, np.ascontiguousarray(self.array(values)))

    def triple(self, values: tuple[Triple, Triple, Triple]) -> tuple[Triple, Triple, Triple]:
        """One value per old axis as one per new axis.

        >>> Reorientation.between("RAS", "SAR").triple((1.0, 2.0, 3.0))
        (3.0, 2.0, 1.0)
        """
        x, y, z = self.axes
        return values[x], values[y], values[z]

    def box(self, box: Box, shape: Int3) -> Box:
        """The voxels of ``box`` after the change.

        Args:
            box: Of the volume as it was.
            shape: Of the volume as it was.

        >>> Reorientation.between("RAS", "LAS").box(Box((0, 1, 2), (3, 4, 5)), (9, 9, 9))
        Box(start=(6, 1, 2), size=(3, 4, 5))
        """
        starts, stops = self.triple(box.start), self.triple(box.stop)
        x, y, z = (
            n - stop if is_reversed else start
            for start, stop, n, is_reversed in zip(
                starts, stops, self.triple(shape), self.is_reversed, strict=True
            )
        )
        return Box((x, y, z), self.triple(box.size))

    def geometry(self, geometry: Geometry) -> Geometry:
        """The grid of the same voxels after the change, at the same place in the patient.

        >>> turned = Reorientation.between("RAS", "LAS").geometry(
        ...     Geometry((10, 20, 30), np.diag([2, 1, 1, 1])))
        >>> turned.affine[0].tolist()
        [-2.0, 0.0, 0.0, 18.0]
        """
        if self.is_identity:
            return geometry
        affine = geometry.affine.copy()
        for axis, (old, is_reversed) in enumerate(zip(self.axes, self.is_reversed, strict=True)):
            column = geometry.affine[:, old]
            affine[:, axis] = -column if is_reversed else column
            if is_reversed:
                affine[:, 3] += column * (geometry.shape[old] - 1)
        return Geometry(self.triple(geometry.shape), affine)


KEPT_AXES = Reorientation()


def _axis(letters: str, letter: str) -> int:
    return next(axis for axis in range(3) if letters[axis] in (letter, OPPOSITE[letter]))
