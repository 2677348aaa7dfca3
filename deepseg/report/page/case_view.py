"""Slices of a case as small images, with which a page scrolls through it.

A plane has one image per channel, with its slices one below the other, and one image each for the
labels of truth and prediction and for a map of uncertainty.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Int3
from deepseg.report.figure import encoded_image
from deepseg.report.overlay import (
    AXES,
    SIDES,
    Array,
    Plane,
    Spacing,
    grey_levels,
    grey_window,
    resized,
    resized_labels,
    slice_of,
    slice_size,
)

BYTES_OF_A_CASE = 900_000
UNKNOWN = 255  # a label, in the images of labels


@dataclass(frozen=True)
class CaseVolumes:
    """A case to be looked at; all volumes ``(X, Y, Z)``, RAS+, on one grid.

    Attributes:
        name: Of the case.
        channels: By name, any scale.
        affine: ``(4, 4)``, voxel index to RAS millimetres.
        spacing_mm: Size of a voxel along X, Y, Z.
        prediction: The class of each voxel.
        truth: The reference, negative where it is unknown; None if there is none.
        uncertainty: Maps by name, from 0 (certain) upwards.
        part_of: Where these volumes lie in the whole image, and the voxels of that; None for all.
    """

    name: str
    channels: Mapping[str, Array]
    affine: NDArray[np.float64]
    spacing_mm: Spacing
    prediction: Array
    truth: Array | None = None
    uncertainty: Mapping[str, Array] = field(default_factory=dict)
    part_of: tuple[Int3, Int3] | None = None

    @property
    def place(self) -> tuple[Int3, Int3]:
        """The first voxel in the whole image, and the voxels of that, along X, Y, Z."""
        x, y, z = self.prediction.shape
        return ((0, 0, 0), (x, y, z)) if self.part_of is None else self.part_of

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """Voxels of a class above 0, in truth or prediction."""
        foreground = np.asarray(self.prediction > 0)
        return foreground if self.truth is None else foreground | (self.truth > 0)


@dataclass(frozen=True)
class Detail:
    """Number, size and quality of the slices of a case.

    Attributes:
        slices: At most, of each plane.
        edge: Pixels along the longest edge of the volume.
        quality: Of the images of channels, up to 100.
    """

    slices: int
    edge: int
    quality: int


DETAILS = (Detail(28, 192, 72), Detail(24, 160, 62), Detail(20, 144, 50), Detail(12, 112, 40))


def case_view(case: CaseVolumes, *, limit: int = BYTES_OF_A_CASE) -> dict[str, Any]:
    """The slices of ``case`` as plain data, which the page's scripts read.

    Args:
        case: The volumes.
        limit: Bytes of all images, above which they are made smaller and fewer.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    case = cropped(case)
    windows = {name: grey_window(channel) for name, channel in case.channels.items()}
    for detail in DETAILS:
        view = {
            "name": case.name,
            "channel": clearest_channel(case.channels, case.foreground),
            "planes": {plane: _plane(case, plane, windows, detail) for plane in AXES},
        }
        if _size(view) <= limit:
            break
    return view


def cropped(case: CaseVolumes) -> CaseVolumes:
    """The case without the empty space around the body and the foreground.

    Empty is where every channel has the value of the volume's first voxel.
    """
    body = case.foreground
    for channel in case.channels.values():
        body = body | (channel != channel[0, 0, 0])
    if not body.any():
        return case
    box = tuple(_occupied(body, axis) for axis in range(3))
    start = (box[0].start, box[1].start, box[2].start)
    affine = case.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return replace(
        case,
        channels={name: values[box] for name, values in case.channels.items()},
        affine=affine,
        prediction=case.prediction[box],
        truth=None if case.truth is None else case.truth[box],
        uncertainty={name: values[box] for name, values in case.uncertainty.items()},
        part_of=(start, case.place[1]),
    )


def slices_to_view(foreground: NDArray[np.bool_], axis: int, most: int) -> list[int]:
    """Indices along ``axis``: most of them where the foreground is, some through the whole volume.

    Args:
        foreground: ``(X, Y, Z)``.
        axis: 0, 1 or 2.
        most: Number of indices, if there are so many.

    >>> foreground = np.zeros((1, 1, 30), bool)
    >>> foreground[..., 11:14] = True
    >>> slices_to_view(foreground, axis=2, most=6)
    [0, 11, 12, 13, 29]
    >>> slices_to_view(foreground, axis=0, most=6)
    [0]
    """
    n = foreground.shape[axis]
    occupied = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
    if occupied.size == 0:
        return _evenly(0, n - 1, most)
    inside = _evenly(int(occupied[0]), int(occupied[-1]), most - most // 3)
    return sorted({*inside, *_evenly(0, n - 1, most // 3)})


def clearest_channel(channels: Mapping[str, Array], foreground: NDArray[np.bool_]) -> str:
    """The channel in which the foreground differs most from the rest, in standard deviations.

    The rest is what lies in the box around the foreground, with half of its size at every side.

    >>> foreground = np.zeros((4, 4, 4), bool)
    >>> foreground[1:3, 1:3, 1:3] = True
    >>> noise = np.arange(64.0).reshape(4, 4, 4)
    >>> clearest_channel({"T1": noise, "FLAIR": noise + 100 * foreground}, foreground)
    'FLAIR'
    """
    names = list(channels)
    if not foreground.any():
        return names[0]
    box = tuple(_neighbourhood(foreground, axis) for axis in range(3))
    inside = foreground[box]
    if inside.all():
        return names[0]
    return max(names, key=lambda name: _contrast(np.asarray(channels[name][box]), inside))


def _contrast(values: Array, inside: NDArray[np.bool_]) -> float:
    """Difference of the means inside and outside, in standard deviations of both together."""
    finite = np.nan_to_num(values.astype(np.float64))
    deviation = float(finite.std())
    difference = abs(float(finite[inside].mean() - finite[~inside].mean()))
    return difference / deviation if deviation > 0 else 0.0


def _occupied(mask: NDArray[np.bool_], axis: int) -> slice:
    """From the first to the last slice along ``axis`` in which a mask is not empty."""
    occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    return slice(int(occupied[0]), int(occupied[-1]) + 1)


def _neighbourhood(foreground: NDArray[np.bool_], axis: int) -> slice:
    occupied = _occupied(foreground, axis)
    room = (occupied.stop - occupied.start) // 2 + 1
    return slice(max(0, occupied.start - room), occupied.stop + room)


def _evenly(first: int, last: int, most: int) -> list[int]:
    """Up to ``most`` whole numbers from ``first`` to ``last``, at about the same distance."""
    return sorted({round(float(index)) for index in np.linspace(first, last, max(1, most))})


def _plane(
    case: CaseVolumes, plane: Plane, windows: Mapping[str, tuple[float, float]], detail: Detail
) -> dict[str, Any]:
    axis = AXES[plane]
    shape = case.prediction.shape
    indices = slices_to_view(case.foreground, axis, detail.slices)
    height, width = slice_size(shape, case.spacing_mm, plane, detail.edge)

    def greys(volume: Array, window: tuple[float, float]) -> str:
        tiles = [
            resized(grey_levels(slice_of(volume, plane, index), window), height, width)
            for index in indices
        ]
        return _encoded(np.round(255 * np.concatenate(tiles)), quality=detail.quality)

    def labels(volume: Array) -> str:
        tiles = [resized_labels(slice_of(volume, plane, index), height, width) for index in indices]
        stacked = np.concatenate(tiles)
        return _encoded(np.where(stacked < 0, UNKNOWN, np.minimum(stacked, UNKNOWN - 1)))

    return {
        "width": width,
        "height": height,
        "letters": SIDES[plane],
        "mm_per_pixel": max(n * mm for n, mm in zip(shape, case.spacing_mm, strict=True))
        / detail.edge,
        "of": case.place[1][axis],
        "indices": [case.place[0][axis] + index for index in indices],
        "positions_mm": [_position_mm(case.affine, shape, axis, index) for index in indices],
        "first": _fullest(case, axis, indices),
        "channels": {name: greys(case.channels[name], windows[name]) for name in case.channels},
        "truth": None if case.truth is None else labels(case.truth),
        "prediction": labels(case.prediction),
        "uncertainty": {
            name: greys(values, (0.0, max(float(values.max()), 1e-9)))
            for name, values in case.uncertainty.items()
        },
    }


def _position_mm(affine: NDArray[np.float64], shape: Sequence[int], axis: int, index: int) -> float:
    """Where the middle of a slice lies on the patient's axis nearest to its normal."""
    middle = [(n - 1) / 2 for n in shape]
    middle[axis] = index
    return round(float(affine[axis, :3] @ middle + affine[axis, 3]), 1)


def _fullest(case: CaseVolumes, axis: int, indices: Sequence[int]) -> int:
    """Which of ``indices`` is shown first: that with most foreground, or the middle one."""
    counts = case.foreground.sum(axis=tuple(a for a in range(3) if a != axis))[list(indices)]
    return int(counts.argmax()) if counts.any() else len(indices) // 2


def _encoded(pixels: Array, *, quality: int | None = None) -> str:
    """A grey image for a page: WebP with a ``quality``, or PNG, which loses nothing."""
    kind = "png" if quality is None else "webp"
    text = base64.b64encode(encoded_image(pixels, quality=quality)).decode("ascii")
    return f"data:image/{kind};base64,{text}"


def _size(view: Any) -> int:
    """Letters of all texts in nested data."""
    if isinstance(view, str):
        return len(view)
    values = view.values() if isinstance(view, dict) else view if isinstance(view, list) else ()
    return sum(_size(value) for value in values)
