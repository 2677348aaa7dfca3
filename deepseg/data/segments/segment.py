"""Segments: the voxels that each pathway reads of a case, and the labels to be predicted there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.augmentation import IDENTITY, SegmentTransform
from deepseg.data.segments.lattice_reading import interpolated, nearest_labels, read, read_labels
from deepseg.geometry.boxes import Box, Int3, add, maximum, minimum, sub
from deepseg.geometry.context import Lattice, NetworkGeometry


@dataclass(frozen=True)
class Segment:
    """One sample.

    Attributes:
        inputs: ``(C, X, Y, Z)`` for each parallel pathway, at its own resolution.
        labels: ``(X, Y, Z)`` of the predicted voxels; -1 where unknown.
    """

    inputs: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int16]


def inputs(
    case: PreparedCase,
    segment: Box,
    geometry: NetworkGeometry,
    *,
    transform: SegmentTransform = IDENTITY,
) -> tuple[NDArray[np.float32], ...]:
    """``(C, X, Y, Z)`` for each parallel pathway."""
    doubled_centre = _doubled_centre(geometry.prediction(segment))
    lattices = geometry.lattices(segment)
    blocks = []
    for points in lattices:
        if transform.interpolates:
            places = _coordinates(points, transform, doubled_centre)
            block = interpolated(case.channels, places, geometry.mirrored)
        else:
            block = read(
                case.channels,
                points,
                geometry.mirrored,
                permutation=transform.permutation,
                doubled_centre=doubled_centre,
            )
        blocks.append(block)
    return transform.intensity.of(blocks, [points.step for points in lattices])


def cut(
    case: PreparedCase,
    segment: Box,
    geometry: NetworkGeometry,
    *,
    transform: SegmentTransform = IDENTITY,
) -> Segment:
    """The sample of a labelled case at ``segment``."""
    prediction = geometry.prediction(segment)
    doubled_centre = _doubled_centre(prediction)
    points = Lattice(prediction.start, (1, 1, 1), prediction.size)
    assert case.labels is not None
    if transform.interpolates:
        labels = nearest_labels(case.labels, _coordinates(points, transform, doubled_centre))
    else:
        labels = read_labels(
            case.labels,
            points,
            permutation=transform.permutation,
            doubled_centre=doubled_centre,
        )
    return Segment(inputs(case, segment, geometry, transform=transform), labels)


def enclosing_lattice(lattices: Sequence[Lattice]) -> Lattice:
    """Every voxel of the smallest box in which all lattices lie.

    >>> enclosing_lattice([Lattice((0, 0, 0), (1, 1, 1), (9, 9, 1)),
    ...                    Lattice((-3, 0, 0), (3, 1, 1), (4, 2, 1))])
    Lattice(start=(-3, 0, 0), step=(1, 1, 1), count=(12, 9, 1))
    """
    start = minimum(*(points.start for points in lattices))
    last = maximum(*(points.last for points in lattices))
    return Lattice(start, (1, 1, 1), add(sub(last, start), 1))


def _doubled_centre(box: Box) -> Int3:
    return add(box.start, box.stop, -1)


def _coordinates(
    points: Lattice, transform: SegmentTransform, doubled_centre: Int3
) -> NDArray[np.float64]:
    """``(3, *count)``: place in the image of every point of a lattice, in voxels."""
    matrix = transform.permutation.matrix
    if transform.matrix is not None:
        matrix = transform.matrix @ matrix
    centre = np.array(doubled_centre) / 2
    x, y, z = (
        a + s * np.arange(n) - c
        for a, s, n, c in zip(points.start, points.step, points.count, centre, strict=True)
    )
    places = np.empty((3, *points.count))
    for axis, (along_x, along_y, along_z) in enumerate(matrix):
        plane = (centre[axis] + along_x * x)[:, None] + along_y * y
        np.add(plane[..., None], along_z * z, out=places[axis])
    if transform.deformation is not None:
        places += transform.deformation.at(points)
    return places
