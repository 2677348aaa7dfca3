"""Images as Python code has them: arrays, nibabel images and file names, as channels of a case.

Everything that is wrong with them is found at once. How they are prepared is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from deepseg.data.cases.checks import SILENT_VOXELS, TOLERATED_VOXELS, channel_intensity
from deepseg.data.cases.summary import Intensity
from deepseg.data.images.grid import invertible
from deepseg.data.images.raw_voxels import first_place, voxel_phrase
from deepseg.data.images.volumes import Geometry, Volume, new_volume, read_image, read_mask
from deepseg.data.preparation import CaseImages
from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.geometry.boxes import text
from deepseg.inference.cohort_differences import CaseTraits

Image: TypeAlias = Any
"""``(X, Y, Z)`` array, nibabel image, or name of a file."""
Images: TypeAlias = Any
"""``(C, X, Y, Z)`` array, 4D nibabel image, or images in the model's order or by channel."""


@dataclass(frozen=True)
class Placement:
    """Place of arrays in the patient; other images have their own.

    Attributes:
        affine: ``(4, 4)``: voxel index to RAS millimetres; None if the spacing is given.
        spacing_mm: Sides of the voxels along X, Y, Z, or one for cubes; None if the affine is.
    """

    affine: Any = None
    spacing_mm: float | Sequence[float] | None = None

    @property
    def is_empty(self) -> bool:
        """Neither is given."""
        return self.affine is None and self.spacing_mm is None

    def matrix(self) -> NDArray[np.float64] | None:
        """Affine matrix, from the spacing if need be; None if neither is given.

        Raises:
            DeepsegError: ``geometry-twice``, ``affine-singular`` or ``spacing-invalid``.

        >>> Placement(spacing_mm=(1, 2, 3)).matrix().diagonal().tolist()
        [1.0, 2.0, 3.0, 1.0]
        """
        if self.affine is not None and self.spacing_mm is not None:
            raise DeepsegError(placed_twice("both affine and spacing_mm"))
        if self.spacing_mm is not None:
            return np.diag([*_sides(self.spacing_mm), 1.0])
        if self.affine is None:
            return None
        matrix = np.asarray(self.affine, np.float64)
        if matrix.shape == (4, 4):
            return invertible(Path("affine"), (1, 1, 1), matrix).affine
        raise DeepsegError(
            Problem(
                code="affine-singular",
                got=f"an affine matrix of shape {matrix.shape}",
                expected="a matrix of shape (4, 4) that gives every voxel its own place",
                fix="give the affine matrix of the image, or spacing_mm",
                where="affine",
            )
        )


def _sides(spacing_mm: float | Sequence[float]) -> list[float]:
    values = np.asarray(spacing_mm, np.float64).ravel()
    sides = [float(side) for side in (np.repeat(values, 3) if values.size == 1 else values)]
    if len(sides) == 3 and all(0 < side < float("inf") for side in sides):
        return sides
    raise DeepsegError(
        Problem(
            code="spacing-invalid",
            got=f"sides of {' x '.join(f'{side:g}' for side in sides)} mm",
            expected="three sides above 0, or one for cubes",
            fix="give the sides of the voxels along X, Y, Z",
            where="spacing_mm",
        )
    )


def placed_twice(got: str) -> Problem:
    """Problem of a place that is given for voxels that have one already."""
    return Problem(
        code="geometry-twice",
        got=got,
        expected="the place of the voxels once",
        fix="give affine or spacing_mm for arrays, and neither for images that have a place",
    )


def case_images(
    images: Images,
    channels: Sequence[str],
    *,
    placement: Placement,
    roi: Image | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> CaseImages:
    """Checked channels of a case; arrays are not changed, and copied when they are prepared.

    Args:
        images: Of all channels.
        channels: Names of the model's channels.
        placement: Of arrays.
        roi: Region of interest, true or above 0 inside; None where the whole image counts.
        warn: Called with a line about images that lie slightly apart.

    Raises:
        DeepsegError: Everything that is wrong with the images.
    """
    problems: list[Problem] = []
    matrix = None if placement.is_empty else np.eye(4)  # if the place is wrong, that is said once
    per_channel: dict[str, Image | None] = {}
    with collected(problems):
        matrix = placement.matrix()
    with collected(problems):
        per_channel = _per_channel(images, channels)
    if matrix is not None and per_channel and all(map(_has_place, per_channel.values())):
        problems.append(placed_twice("a place for images that have their own"))
    volumes: dict[str, Volume] = {}
    for name, image in per_channel.items():
        with collected(problems):
            if image is not None:
                volumes[name] = _volume(image, matrix, f"channel {name}")
    first, mask = next(iter(volumes), None), None
    if first is not None:
        with collected(problems):
            mask = None if roi is None else _mask(roi, volumes[first].geometry)
        placed = {f"channel {name}": volume for name, volume in volumes.items()}
        for where, volume in (placed | ({} if mask is None else {"roi": mask})).items():
            problems += _misplaced(volume, volumes[first], (where, f"channel {first}"), warn)
    if problems or first is None:
        raise DeepsegError(*problems)

    def channel(number: int) -> Volume | None:
        volume = volumes.get(channels[number])
        if volume is None:
            return None
        array = np.array(volume.array, dtype=np.float32, order="C")  # a copy: it is normalised
        return Volume(array, volume.geometry, volume.header)

    # Sides of voxels do not tell where axes grow to: those are the model's then.
    is_oriented = placement.spacing_mm is None
    return CaseImages(
        "case", list(channels).index(first), channel, roi=mask, is_oriented=is_oriented
    )


def image_traits(images: CaseImages, channels: Sequence[str]) -> CaseTraits:
    """Properties of images that are compared with those of a model's training cases.

    Args:
        images: Of a case.
        channels: Names of the model's channels.
    """
    roi = None if images.roi is None else images.roi.array
    present: dict[str, Intensity] = {}
    geometry = None
    for number, name in enumerate(channels):
        volume = images.channel(number)
        if volume is not None:
            geometry = volume.geometry
            present[name] = channel_intensity(volume.array, roi)
    return CaseTraits(
        name=images.name,
        has_mask=roi is not None,
        missing_channels=tuple(name for name in channels if name not in present),
        spacing_mm=None if geometry is None else geometry.spacing_mm,
        orientation=geometry.orientation if geometry is not None and images.is_oriented else None,
        intensity=present,
    )


@contextmanager
def collected(problems: list[Problem]) -> Iterator[None]:
    """Add the problems that are raised while this is open to the list."""
    try:
        yield
    except DeepsegError as error:
        problems += error.problems


def _per_channel(images: Images, channels: Sequence[str]) -> dict[str, Image | None]:
    """The images by channel; None for those that the case lacks."""
    if isinstance(images, Mapping):
        _check_names(images, channels)
        values = [images[name] for name in channels]
    else:
        values = _in_order(images)
        if len(values) != len(channels):
            raise DeepsegError(
                Problem(
                    code="channel-count",
                    got=f"{len(values)} image{'s' * (len(values) != 1)}",
                    expected=f"{len(channels)}, one per channel: {', '.join(channels)}",
                    fix="give the images in this order, or by name; None for a missing one",
                )
            )
    if all(value is None for value in values):
        raise DeepsegError(
            Problem(
                code="case-without-channels",
                got="no image",
                expected="at least one of the channels",
                fix="give an image",
            )
        )
    return dict(zip(channels, values, strict=True))


def _check_names(images: Mapping[str, Image], channels: Sequence[str]) -> None:
    problems = [
        Problem(
            code="channel-unknown",
            got=f"channel {name!r}",
            expected=f"channels of the model: {', '.join(channels)}",
            fix="correct the name" + did_you_mean(str(name), channels),
        )
        for name in images
        if name not in channels
    ]
    missing = [name for name in channels if name not in images]
    if missing:
        problems.append(
            Problem(
                code="channel-count",
                got=f"no image of {', '.join(missing)}",
                expected=f"{len(channels)}, one per channel: {', '.join(channels)}",
                fix="give them too, or None (NAME= on the command line) for a channel that the "
                "case lacks",
            )
        )
    if problems:
        raise DeepsegError(*problems)


def _in_order(images: Images) -> list[Image | None]:
    if isinstance(images, str | Path):
        return [images]
    if isinstance(images, SpatialImage):
        if len(images.shape) == 3:
            return [images]
        return [
            type(images)(np.asanyarray(images.dataobj[..., number]), images.affine)
            for number in range(images.shape[-1])
        ]
    if isinstance(images, Sequence):
        return list(images)
    array = np.asarray(images)
    return [array] if array.ndim == 3 else list(array)


def _has_place(image: Image | None) -> bool:
    return image is None or isinstance(image, str | Path | SpatialImage)


def _volume(image: Image, matrix: NDArray[np.float64] | None, where: str) -> Volume:
    """The image with its place, ``(X, Y, Z)``; arrays are not copied.

    Raises:
        DeepsegError: ``image-not-3d``, ``image-dtype``, ``image-not-finite``,
            ``geometry-missing``, or what is wrong with a file.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, SpatialImage):
        array, matrix = np.asarray(image.dataobj), np.asarray(image.affine)
    else:
        array = np.asarray(image)
    problem = next(_voxel_problems(array, matrix, where), None)
    if problem is not None:
        raise DeepsegError(problem)
    assert matrix is not None
    x, y, z = array.shape
    return new_volume(array, invertible(Path(where), (x, y, z), matrix))


def _voxel_problems(
    array: NDArray[Any], matrix: NDArray[np.float64] | None, where: str
) -> Iterator[Problem]:
    """Problems of an image; the next one is looked for only where there is none before."""
    if array.ndim != 3 or 0 in array.shape:
        yield Problem(
            code="image-not-3d",
            got=f"an image of shape {array.shape}",
            expected="3D, with at least one voxel along X, Y and Z",
            fix="give one 3D image per channel, or an array (C, X, Y, Z)",
            where=where,
        )
    if array.dtype.kind not in "biuf":
        yield Problem(
            code="image-dtype",
            got=f"voxels of type {array.dtype}",
            expected="integers or floats",
            fix="convert the image",
            where=where,
        )
    bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros((), bool)
    if bad.any():
        yield Problem(
            code="image-not-finite",
            got=f"{voxel_phrase(bad)} NaN or infinite, the first at {first_place(bad)}",
            expected="a finite number in every voxel",
            fix="repair the image, or replace these voxels, as by numpy.nan_to_num",
            where=where,
        )
    if matrix is None:
        yield Problem(
            code="geometry-missing",
            got="an array without a place",
            expected="an affine matrix or the sides of its voxels",
            fix="give affine, or spacing_mm such as (1, 1, 1)",
            where=where,
        )


def _mask(roi: Image, grid: Geometry) -> Volume:
    """The region of interest as bool; an array lies on the grid of the case."""
    if isinstance(roi, str | Path):
        return read_mask(Path(roi))
    volume = _volume(roi, grid.affine, "roi")
    array = volume.array
    bad = (array < 0) | (array != np.rint(array))
    if bad.any():
        raise DeepsegError(
            Problem(
                code="mask-not-binary",
                got=f"{voxel_phrase(bad)} neither 0 nor a positive whole number, the first at "
                f"{first_place(bad)}",
                expected="0 or False outside and 1 or True inside",
                fix="threshold it",
                where="roi",
            )
        )
    return Volume(array > 0, volume.geometry, volume.header)


def _misplaced(
    volume: Volume, first: Volume, names: tuple[str, str], warn: Callable[[str], None]
) -> Iterator[Problem]:
    """Problems of an image that has not the voxels of the first one at the same place."""
    where, name = names
    if volume.geometry.shape != first.geometry.shape:
        yield Problem(
            code="shape-mismatch",
            got=f"{text(volume.geometry.shape)} voxels",
            expected=f"{text(first.geometry.shape)}, as {name} has",
            fix="resample one onto the other",
            where=where,
        )
        return
    distance = volume.geometry.distance_mm(first.geometry)
    voxels = first.geometry.distance_voxels(volume.geometry)
    away = f"up to {distance:.3g} mm ({voxels:.3g} voxels) away from {name}"
    if voxels > TOLERATED_VOXELS:
        yield Problem(
            code="geometry-mismatch",
            got=f"voxels that lie {away}",
            expected=f"the same place in space, or at most {TOLERATED_VOXELS} voxels away",
            fix="resample one onto the other, or correct its affine matrix",
            where=where,
        )
    elif voxels > SILENT_VOXELS:
        warn(f"{where}: its voxels lie {away}; they are used as they are")
