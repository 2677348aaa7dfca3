"""Random changes of a training segment, drawn as parameters before any voxel is read.

A `SegmentTransform` says how the points that the pathways read are moved in space and how
intensities change. Reading the image at the moved points (`deepseg.data.segments.segment`) is the
only resampling there is: for a segment and its context, never for the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.blocks.augmentation import (
    AffineAugmentation,
    Augmentation,
    ElasticAugmentation,
    Rotate90Augmentation,
)
from deepseg.data.segments.intensity_changes import NO_CHANGE, IntensityChange, random_change
from deepseg.data.segments.lattice_reading import IDENTITY_AXES, AxisPermutation
from deepseg.geometry.context import Lattice

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class ElasticDeformation:
    """A smooth displacement: a uniform cubic B-spline; doi:10.1109/42.796284.

    Attributes:
        start: Voxel of the first control point along each axis.
        step: Voxels between control points.
        control: ``(3, I, J, K)`` displacements in voxels.
    """

    start: tuple[float, float, float]
    step: float
    control: NDArray[np.float64]

    def at(self, points: Lattice) -> NDArray[np.float64]:
        """``(3, *count)``: displacement in voxels at every point of a lattice."""
        axes = zip(points.start, points.step, points.count, self.start, strict=True)
        x, y, z = (
            _spline_weights((a + s * np.arange(n) - first) / self.step, controls)
            for (a, s, n, first), controls in zip(axes, self.control.shape[1:], strict=True)
        )
        # The weights of each axis, one after another.
        planes = y @ (self.control @ z.T)  # (3, I, Y, Z)
        return np.asarray(np.tensordot(x, planes, (1, 1)).swapaxes(0, 1))


def _spline_weights(position: NDArray[np.floating[Any]], controls: int) -> NDArray[np.float64]:
    """``(N, controls)``: weight of every control point at ``position``, in steps between them."""
    distance = np.abs(position[:, None] - np.arange(controls))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clip(min=0) ** 3 / 6
    return np.asarray(np.where(distance < 1, near, far), dtype=np.float64)


@dataclass(frozen=True)
class SegmentTransform:
    """Changes of one segment in space and intensity.

    Attributes:
        permutation: Mirror images and quarter turns; exact, no voxel is interpolated.
        matrix: ``(3, 3)`` from offsets in the segment to offsets in the image, in voxels from the
            middle of the prediction, after the permutation; a factor above 1 makes things smaller.
        deformation: A smooth displacement.
        intensity: Change of the intensities.

    >>> SegmentTransform().interpolates
    False
    >>> SegmentTransform(matrix=np.eye(3) / 2).interpolates
    True
    """

    permutation: AxisPermutation = IDENTITY_AXES
    matrix: NDArray[np.float64] | None = None
    deformation: ElasticDeformation | None = None
    intensity: IntensityChange = NO_CHANGE

    @property
    def interpolates(self) -> bool:
        """True if points land between voxels."""
        return self.matrix is not None or self.deformation is not None


IDENTITY = SegmentTransform()


def random_transform(
    settings: Augmentation,
    *,
    channels: int,
    spacing_mm: Spacing,
    extent: Lattice | None,
    rng: np.random.Generator,
) -> SegmentTransform:
    """A random transform: mirror images, quarter turns (xy, yz, xz), then all that interpolates.

    Args:
        settings: Which changes, how likely and how strong.
        channels: Number of image channels.
        spacing_mm: Of the image, so that rotations are rotations in space.
        extent: A lattice around all points that will be read; elastic changes alone need it.
        rng: Source of randomness.
    """
    intensity = random_change(settings, channels, rng=rng)
    return SegmentTransform(
        permutation=_quarter_turns(settings.rotate90, rng=rng).then(
            _reflection(settings.reflect, rng=rng)
        ),
        matrix=_matrix(settings.affine, spacing_mm, rng=rng),
        deformation=_deformation(settings.elastic, extent, rng=rng),
        intensity=intensity,
    )


def _reflection(
    probabilities: tuple[float, float, float], *, rng: np.random.Generator
) -> AxisPermutation:
    x, y, z = (-1 if u < p else 1 for u, p in zip(rng.random(3), probabilities, strict=True))
    return AxisPermutation(signs=(x, y, z))


def _quarter_turns(
    settings: Rotate90Augmentation | None, *, rng: np.random.Generator
) -> AxisPermutation:
    permutation = IDENTITY_AXES
    if settings is None:
        return permutation
    planes = ((0, 1, settings.xy), (1, 2, settings.yz), (0, 2, settings.xz))
    for first, second, weights in planes:
        if sum(weights) > 0:
            times = int(rng.choice(4, p=np.array(weights) / sum(weights)))
            for _ in range(times):
                permutation = quarter_turn(first, second).then(permutation)
    return permutation


def quarter_turn(first: int, second: int) -> AxisPermutation:
    """90 degrees from the first towards the second axis, as ``numpy.rot90`` turns an array.

    >>> quarter_turn(0, 1)
    AxisPermutation(axes=(1, 0, 2), signs=(1, -1, 1))
    >>> half_turn = quarter_turn(0, 1).then(quarter_turn(0, 1))
    >>> half_turn
    AxisPermutation(axes=(0, 1, 2), signs=(-1, -1, 1))
    """
    axes, signs = [0, 1, 2], [1, 1, 1]
    axes[first], axes[second] = second, first
    signs[second] = -1
    return AxisPermutation((axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2]))


def _matrix(
    settings: AffineAugmentation | None, spacing_mm: Spacing, *, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    if settings is None or rng.random() >= settings.probability:
        return None
    angles = np.deg2rad([rng.uniform(-limit, limit) for limit in settings.max_rotation])
    scale = rng.uniform(1 - settings.max_scaling, 1 + settings.max_scaling)
    rotation = _rotation(2, angles[2]) @ _rotation(1, angles[1]) @ _rotation(0, angles[0])
    spacing = np.array(spacing_mm)
    return np.asarray(rotation * scale * spacing / spacing[:, None])


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    """A right-handed rotation about an axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -np.sin(angle)
    return matrix


def _deformation(
    settings: ElasticAugmentation | None, extent: Lattice | None, *, rng: np.random.Generator
) -> ElasticDeformation | None:
    if settings is None or rng.random() >= settings.probability:
        return None
    assert extent is not None
    counts = [
        int((last - first) // settings.grid) + 4
        for first, last in zip(extent.start, extent.last, strict=True)
    ]
    x, y, z = (first - settings.grid for first in extent.start)
    return ElasticDeformation(
        (x, y, z), settings.grid, rng.normal(0, settings.displacement, (3, *counts))
    )
