"""Segments as the pathways of the network read them, also beyond the border of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.on_device.cases import Case, Labels
from deepseg.exports.on_device.intensity import Floats


def segment_inputs(case: Case, start: NDArray[Any], plan: Mapping[str, Any]) -> dict[str, Floats]:
    """``(C, X, Y, Z)`` for each pathway: the voxels that it reads for the segment at ``start``.

    Args:
        case: That is read.
        start: First voxel of the segment along X, Y, Z.
        plan: Of one of the graphs, from the manifest.
    """
    low = np.array(plan["margin"][0])
    blocks = {}
    for pathway in plan["pathways"]:
        step = np.array(pathway["step"])
        first = start + low + pathway["start"]  # counted from the corner of the padded image
        if pathway["restarts"]:
            first = first + np.where(first < 0, -first % step, 0)
        axes = [
            a + s * np.arange(n)
            for a, s, n in zip(first - low, step, pathway["count"], strict=True)
        ]
        blocks[pathway["input"]] = voxels_at(case.channels, axes, plan["mirrored"])
    return blocks


def voxels_at(
    image: Floats, axes: Sequence[NDArray[np.int64]], margin: Sequence[Sequence[int]]
) -> Floats:
    """``(C, X, Y, Z)`` voxels at the places of a grid, also beyond the border of the image.

    As far as ``margin`` voxels before and after the image, it is mirrored; further out, a channel
    has the mean of the eight corners of the image mirrored that far.
    """
    x, y, z = (mirrored(places, n) for places, n in zip(axes, image.shape[1:], strict=True))
    block = image[:, x[:, None, None], y[:, None], z]
    beyond = [
        (places < -low) | (places >= n + high)
        for places, n, low, high in zip(axes, image.shape[1:], *margin, strict=True)
    ]
    if any(b.any() for b in beyond):
        ends = [
            mirrored(np.array([-low, n - 1 + high]), n)
            for n, low, high in zip(image.shape[1:], *margin, strict=True)
        ]
        corners = [image[:, i, j, k] for i, j, k in product(*ends)]
        outside = np.asarray(np.mean(corners, axis=0, dtype=np.float64), np.float32)
        out_x, out_y, out_z = beyond
        block[:, out_x[:, None, None] | out_y[:, None] | out_z] = outside[:, None]
    return block


def mirrored(places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Voxels of an axis that is mirrored for ever, its ends not repeated.

    >>> mirrored(np.array([-2, -1, 0, 1, 2, 3, 4]), 3)
    array([2, 1, 0, 1, 2, 1, 0])
    """
    if size == 1:
        return np.zeros_like(places)
    inside = places % (2 * (size - 1))
    return np.minimum(inside, 2 * (size - 1) - inside)


def segment_labels(case: Case, start: NDArray[Any], plan: Mapping[str, Any]) -> Labels:
    """``(X, Y, Z)`` labels of what is predicted from the segment at ``start``; -1 outside."""
    first = start + plan["margin"][0]
    axes = [a + np.arange(n) for a, n in zip(first, plan["prediction"], strict=True)]
    shape = case.labels.shape
    x, y, z = (p.clip(0, n - 1) for p, n in zip(axes, shape, strict=True))
    block = case.labels[x[:, None, None], y[:, None], z]
    out_x, out_y, out_z = ((p < 0) | (p >= n) for p, n in zip(axes, shape, strict=True))
    block[out_x[:, None, None] | out_y[:, None] | out_z] = -1
    return np.asarray(block, np.int16)
