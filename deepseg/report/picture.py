"""Pictures of segmentations for the eye: small PNG files of slices with coloured classes.

How slices look is decided in `deepseg.report.overlay`, where they stand in `deepseg.report.sheet`.
Nothing here measures how good a segmentation is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepseg.geometry.boxes import Int3
from deepseg.report.overlay import (
    AXES,
    SIDES,
    Array,
    Pixels,
    Plane,
    Spacing,
    colour,
    grey_levels,
    grey_window,
    overlay,
    resized,
    resized_labels,
    slice_of,
    slice_size,
)
from deepseg.report.sheet import LegendItem, SheetRow, write_sheet

ROWS = ("image", "reference", "segmentation")
TILE = 270
SMALLEST_TILE = 90
PIXELS_OF_A_GALLERY = 2_000_000
MOST_CLASSES = 21


@dataclass(frozen=True)
class CasePicture:
    """One case to be drawn.

    Attributes:
        name: Written at its left.
        image: One channel, ``(X, Y, Z)``, any scale.
        spacing_mm: Size of a voxel along X, Y, Z.
        segmentation: Class of each voxel, ``(X, Y, Z)``.
        truth: The reference, like ``segmentation``; None if there is none.
    """

    name: str
    image: Array
    spacing_mm: Spacing
    segmentation: Array
    truth: Array | None = None


def write_picture(
    file: Path,
    image: Array,
    *,
    spacing_mm: Spacing,
    truth: Array | None,
    segmentation: Array,
    classes: Sequence[str],
    title: str,
) -> None:
    """Draw one case: axial, coronal and sagittal slices of image, reference and segmentation.

    Args:
        file: The PNG file.
        image: One channel, ``(X, Y, Z)``, any scale.
        spacing_mm: Size of a voxel along X, Y, Z.
        truth: Class of each voxel, ``(X, Y, Z)``; None leaves the row of the reference out.
        segmentation: Class of each voxel, ``(X, Y, Z)``.
        classes: Names; the first is the background and has no colour.
        title: First line of the picture.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    case = CasePicture(title, image, spacing_mm, segmentation, truth)
    by_volume = zip(*_tiles(case, tuple(AXES), TILE), strict=True)
    named = zip(ROWS, by_volume, strict=True)
    rows = [SheetRow(name, tiles) for name, tiles in named if tiles[0] is not None]
    write_sheet(file, title, tuple(AXES), rows, legend(classes), sides=[SIDES[p][:2] for p in AXES])


def write_gallery(
    file: Path, pictures: Sequence[CasePicture], *, classes: Sequence[str], title: str
) -> None:
    """Draw several cases, one a row: image, reference and segmentation on an axial slice.

    Args:
        file: The PNG file.
        pictures: At least one; the more there are, the smaller they get.
        classes: Names; the first is the background and has no colour.
        title: First line of the picture.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    fair = math.isqrt(PIXELS_OF_A_GALLERY // (len(ROWS) * len(pictures)))
    size = min(TILE, max(SMALLEST_TILE, fair))
    rows = [SheetRow(case.name, _tiles(case, ("axial",), size)[0]) for case in pictures]
    sides = [SIDES["axial"][:2]] * len(ROWS)
    write_sheet(file, title, ROWS, rows, legend(classes), sides=sides)


def slices_to_show(case: CasePicture) -> Int3:
    """Indices along X, Y, Z of the slices on which the reference has most foreground.

    The segmentation takes its place where there is no reference or it is empty, and the middle of
    the volume where both are.
    """
    for labels in (case.truth, case.segmentation):
        if labels is not None and (labels > 0).any():
            x, y, z = (
                int(np.count_nonzero(labels > 0, axis=within).argmax())
                for within in ((1, 2), (0, 2), (0, 1))
            )
            return x, y, z
    x, y, z = (n // 2 for n in case.image.shape)
    return x, y, z


def legend(classes: Sequence[str]) -> list[LegendItem]:
    """Each class but the background with its colour; their number only if they are very many.

    >>> legend(["background", "oedema", "core"])
    [('oedema', (230, 85, 13)), ('core', (86, 180, 233))]
    """
    if len(classes) - 1 > MOST_CLASSES:
        return [(f"{len(classes) - 1} classes, whose colours repeat", None)]
    return [(name, colour(label)) for label, name in enumerate(classes) if label > 0]


def _tiles(
    case: CasePicture, planes: Sequence[Plane], size: int
) -> list[tuple[Pixels | None, ...]]:
    """For each plane: image alone, reference (None without one), segmentation."""
    window = grey_window(case.image)
    at = slices_to_show(case)
    return [_tiles_of_slice(case, plane, at[AXES[plane]], window, size) for plane in planes]


def _tiles_of_slice(
    case: CasePicture, plane: Plane, index: int, window: tuple[float, float], size: int
) -> tuple[Pixels | None, ...]:
    height, width = slice_size(case.image.shape, case.spacing_mm, plane, size)
    grey = resized(grey_levels(slice_of(case.image, plane, index), window), height, width)

    def tile(labels: Array) -> Pixels:
        return overlay(grey, resized_labels(slice_of(labels, plane, index), height, width))

    alone = overlay(grey, np.zeros((height, width), dtype=np.int64))
    reference = None if case.truth is None else tile(case.truth)
    return alone, reference, tile(case.segmentation)
