"""Volumes of NIfTI files, turned into the axes of the training cases."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NIFTI_TYPES = dict(
    zip(
        (2, 4, 8, 16, 64, 256, 512, 768, 1024),
        ("u1", "i2", "i4", "f4", "f8", "i1", "u2", "u4", "i8"),
        strict=True,
    )
)


def read_nifti(file: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels ``(X, Y, Z)`` and the affine ``(3, 4)`` in mm of a NIfTI-1 file.

    Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
    """
    content = file.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    order = "<" if int.from_bytes(content[:4], "little") == 348 else ">"

    def field(kind: str, offset: int, count: int = 1) -> NDArray[Any]:
        return np.frombuffer(content, order + kind, count, offset)

    axes = int(field("i2", 40)[0])
    shape = tuple(int(n) for n in field("i2", 42, axes))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = order + NIFTI_TYPES[int(field("i2", 70)[0])]
    begin = int(field("f4", 108)[0])
    voxels = np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape, order="F")
    slope, shift = field("f4", 112, 2).astype(float)
    if slope not in (0, 1) or shift:
        voxels = voxels * (slope or 1.0) + shift
    return voxels, _affine(field)


def _affine(field: Any) -> NDArray[np.float64]:
    if field("i2", 254)[0] > 0:  # sform
        return np.asarray(field("f4", 280, 12).reshape(3, 4), float)
    sizes = field("f4", 76, 8).astype(float)  # qfac and voxel sizes
    if field("i2", 252)[0] <= 0:
        return np.hstack([np.diag(sizes[1:4]), np.zeros((3, 1))])
    b, c, d, *offset = field("f4", 256, 6).astype(float)
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    signs = np.array([1, 1, -1 if sizes[0] < 0 else 1])
    return np.hstack([turn * sizes[1:4] * signs, np.array(offset)[:, None]])


def oriented(
    voxels: NDArray[Any], affine: NDArray[np.float64], letters: str | None
) -> NDArray[Any]:
    """Voxels with axes that grow to ``letters``, such as RAS; as they are for None."""
    if letters is None:
        return voxels
    worlds = nearest_axes(affine)
    for axis, letter in enumerate(letters):
        world = _world(letter)
        old = worlds.index(world)
        voxels, worlds = np.swapaxes(voxels, axis, old), list(worlds)
        worlds[axis], worlds[old] = worlds[old], worlds[axis]
        affine = affine.copy()
        affine[:, [axis, old]] = affine[:, [old, axis]]
        grows = affine[world, axis] > 0
        if grows != (letter in "RAS"):
            voxels = np.flip(voxels, axis)
    return voxels


def nearest_axes(affine: NDArray[np.float64]) -> list[int]:
    """The axis of the patient along which each axis of a volume runs: 0 left, 1 front, 2 top.

    >>> nearest_axes(np.array([[0, 0, -2.0, 9], [1.5, 0, 0, 0], [0, 1, 0, 0]]))
    [1, 2, 0]
    """
    cosines = np.abs(affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0))
    worlds = [-1, -1, -1]
    for _ in range(3):
        world, axis = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
        worlds[int(axis)] = int(world)
        cosines[world], cosines[:, axis] = -1, -1
    return worlds


def voxel_sizes(affine: NDArray[np.float64], letters: str | None) -> NDArray[np.float64]:
    """Sizes in mm along the axes of a volume, or along those that grow to ``letters``.

    >>> voxel_sizes(np.array([[0, 0, -2.0, 9], [1.5, 0, 0, 0], [0, 1, 0, 0]]), "RAS").tolist()
    [2.0, 1.5, 1.0]
    """
    sizes = np.asarray(np.linalg.norm(affine[:, :3], axis=0))
    if letters is None:
        return sizes
    worlds = nearest_axes(affine)
    return np.asarray(sizes[[worlds.index(_world(letter)) for letter in letters]])


def _world(letter: str) -> int:
    """The axis of the patient that grows to a side, such as 0 for L and R."""
    return next(world for world, sides in enumerate(("LR", "PA", "IS")) if letter in sides)
