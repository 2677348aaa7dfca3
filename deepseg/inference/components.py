"""Connected components of a segmentation: small ones removed, holes filled, class by class.

Voxels touch by their faces, edges or corners. Nothing here imports torch or knows files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepseg.inference.postprocess import Labels

TOUCHING = {"faces": 1, "edges": 2, "corners": 3}


@dataclass(frozen=True)
class Cleaning:
    """Rule for the components of one class.

    Attributes:
        keep: ``all`` of them, or the ``largest`` only.
        min_ml: Smaller ones become background.
        fill_holes: Background that the class encloses becomes part of it; in an image of one slice,
            background that it encloses within the slice.
        touching: Voxels of one component share at least faces, edges or corners.
    """

    keep: Literal["all", "largest"] = "all"
    min_ml: float = 0.0
    fill_holes: bool = False
    touching: Literal["faces", "edges", "corners"] = "faces"


def cleaned(
    labels: Labels,
    rules: Mapping[int, Cleaning],
    *,
    voxel_ml: float,
    roi: NDArray[np.bool_] | None = None,
) -> Labels:
    """``labels`` after the rules of every class: first all removals, then all holes.

    A hole inside two classes becomes part of the one with the lower label.

    Args:
        labels: ``(X, Y, Z)``; not changed.
        rules: By label above 0.
        voxel_ml: Volume of a voxel.
        roi: ``(X, Y, Z)``; holes are filled inside it only.

    >>> labels = np.array([[[1, 1, 0, 1, 0, 2]]], np.uint8)
    >>> cleaned(labels, {1: Cleaning(keep="largest")}, voxel_ml=0.001).tolist()
    [[[1, 1, 0, 0, 0, 2]]]
    >>> cleaned(labels, {2: Cleaning(min_ml=0.0015)}, voxel_ml=0.001).tolist()
    [[[1, 1, 0, 1, 0, 0]]]
    """
    result = labels.copy()
    for label, rule in sorted(rules.items()):
        region = result == label
        result[region & ~_remaining(region, rule, voxel_ml)] = 0
    for label, rule in sorted(rules.items()):
        if rule.fill_holes:
            holes = _filled(result == label) & (result == 0)
            result[holes if roi is None else holes & roi] = label
    return result


def _filled(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``region`` with its holes; those of a single slice are closed by its border in the slice.

    >>> ring = np.pad(np.zeros((1, 1, 1), bool), ((1, 1), (0, 0), (1, 1)), constant_values=True)
    >>> int(ring.sum()), int(_filled(ring).sum())
    (8, 9)
    """
    is_slice = region.shape.count(1) == 1
    flat = region.squeeze() if is_slice else region
    return np.asarray(ndimage.binary_fill_holes(flat)).reshape(region.shape)


def _remaining(region: NDArray[np.bool_], rule: Cleaning, voxel_ml: float) -> NDArray[np.bool_]:
    """The voxels of ``region`` in components that ``rule`` does not remove."""
    if rule.keep == "all" and rule.min_ml == 0:
        return region
    neighbours = ndimage.generate_binary_structure(3, TOUCHING[rule.touching])
    numbered, count = ndimage.label(region, neighbours)
    voxels = np.bincount(numbered.ravel(), minlength=count + 1)
    stays = voxels * voxel_ml >= rule.min_ml
    stays[0] = False
    if rule.keep == "largest" and count:
        largest = 1 + int(voxels[1:].argmax())
        stays &= np.arange(count + 1) == largest
    return np.asarray(stays[numbered])
