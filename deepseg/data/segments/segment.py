"""Segments: what each pathway reads of a case around one voxel, and the labels to predict there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.augmentation import IDENTITY, SegmentTransform
from deepseg.data.segments.lattice_reading import interpolated, nearest_labels, read, read_labels
from deepseg.geometry.boxes import Box, Int3, per_axis
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


def box_around(centre: Int3, size: Int3) -> Box:
    """The segment of ``size`` centred on a voxel; one voxel more behind it where even."""
    return Box(per_axis(lambda c, n: c - (n - 1) // 2, centre, size), size)


def inputs(
    case: PreparedCase,
    segment: Box,
    geometry: NetworkGeometry,
    *,
    moved: SegmentTransform = IDENTITY,
) -> tuple[NDArray[np.float32], ...]:
    """``(C, X, Y, Z)`` for each parallel pathway."""
    middle2 = _doubled_middle(geometry.prediction(segment))
    return tuple(
        _intensities(
            interpolated(case.channels, _coordinates(points, moved, middle2), geometry.margin)
            if moved.interpolates
            else read(case.channels, points, geometry.margin, turn=moved.turn, centre2=middle2),
            moved,
        )
        for points in geometry.lattices(segment)
    )


def cut(
    case: PreparedCase,
    segment: Box,
    geometry: NetworkGeometry,
    *,
    moved: SegmentTransform = IDENTITY,
) -> Segment:
    """The sample of a labelled case at ``segment``."""
    predicted = geometry.prediction(segment)
    middle2 = _doubled_middle(predicted)
    points = Lattice(predicted.start, (1, 1, 1), predicted.size)
    assert case.labels is not None
    labels = (
        nearest_labels(case.labels, _coordinates(points, moved, middle2))
        if moved.interpolates
        else read_labels(case.labels, points, turn=moved.turn, centre2=middle2)
    )
    return Segment(inputs(case, segment, geometry, moved=moved), labels)


def reach(lattices: tuple[Lattice, ...]) -> Lattice:
    """Every voxel of the box that all lattices lie in."""
    start = per_axis(lambda *starts: min(starts), *(points.start for points in lattices))
    last = per_axis(lambda *lasts: max(lasts), *(points.last for points in lattices))
    return Lattice(start, (1, 1, 1), per_axis(lambda a, b: b - a + 1, start, last))


def _doubled_middle(box: Box) -> Int3:
    return per_axis(lambda a, n: 2 * a + n - 1, box.start, box.size)


def _coordinates(points: Lattice, moved: SegmentTransform, middle2: Int3) -> NDArray[np.float64]:
    """``(3, *count)``: where the points of a lattice land in the image, in voxels."""
    matrix = moved.turn.matrix if moved.matrix is None else moved.matrix @ moved.turn.matrix
    middle = np.array(middle2) / 2
    x, y, z = (
        a + s * np.arange(n) - m
        for a, s, n, m in zip(points.start, points.step, points.count, middle, strict=True)
    )
    landed = np.empty((3, *points.count))
    for axis, (along_x, along_y, along_z) in enumerate(matrix):
        plane = (middle[axis] + along_x * x)[:, None] + along_y * y
        np.add(plane[..., None], along_z * z, out=landed[axis])
    if moved.bumps is not None:
        landed += moved.bumps.at(points)
    return landed


def _intensities(block: NDArray[np.float32], moved: SegmentTransform) -> NDArray[np.float32]:
    if moved.shift is None or moved.scale is None:
        return block
    return (block + moved.shift[:, None, None, None]) * moved.scale[:, None, None, None]
