"""Preparation of a case: its files are read, turned, resampled to one voxel size and normalised.

Everything that a network sees of a case is made here. Where prepared cases lie on the disk, and how
they are sampled, is not known here.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.masks import nonzero_roi
from deepseg.data.images.orientation import KEPT_AXES, Reorientation
from deepseg.data.images.resampling import cropped_geometry, resample, resampled_geometry
from deepseg.data.images.volumes import (
    Geometry,
    Volume,
    read_geometry,
    read_image,
    read_labels,
    read_mask,
)
from deepseg.data.intensity import normalise
from deepseg.data.nnunet_preparation import (
    box_of,
    nonzero_mask,
    normalised,
    resized,
    resized_geometry,
    resized_shape,
    separate_axis,
)
from deepseg.geometry.boxes import Int3
from deepseg.storage.atomic import writable

FLOAT_BYTES = 4

ReadChannel = Callable[[int], NDArray[np.float32] | None]  # index → (X, Y, Z), or None if missing


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        name: Of the case.
        channels: ``(C, X, Y, Z)``, normalised.
        labels: ``(X, Y, Z)`` integers, or None.
        roi: ``(X, Y, Z)`` bool, over which intensities are normalised and from which segments are
            taken, or None where the whole image counts.
        weights: ``(categories, X, Y, Z)`` sampling weights, or None.
        geometry: Of these arrays.
        reference: The first channel, on whose grid results are written. Where that is the grid of
            ``channels`` too, it is held once, normalised; else it is as in its file. The two differ
            by an offset and a scale, so that pictures are the same. None for a case opened from
            the cache.
        turn: From the axes of the case's files to those of these arrays.
        mappings: The files that arrays lie in; none in memory.
        to_compute: ``(X, Y, Z)`` bool, the voxels to be predicted; None for all.
    """

    name: str
    channels: NDArray[np.float32]
    labels: NDArray[np.integer] | None
    roi: NDArray[np.bool_] | None
    weights: NDArray[np.float32] | None
    geometry: Geometry
    reference: Volume | None = None
    turn: Reorientation = KEPT_AXES
    mappings: tuple[mmap.mmap, ...] = ()
    to_compute: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> Int3:
        """Voxels along X, Y, Z."""
        return self.geometry.shape

    def forget(self) -> None:
        """Give back the memory of voxels that can be read from files again."""
        for mapping in self.mappings:
            mapping.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class CaseImages:
    """Images of a case before they are prepared, on one grid; a channel is read when it is needed.

    Attributes:
        name: Of the case.
        first: Number of the first channel that the case has.
        channel: Reads a channel by its number; None for one that the case lacks.
        labels: ``(X, Y, Z)`` integers, or None.
        roi: ``(X, Y, Z)`` bool, or None where the whole image counts.
        weight_maps: Sampling weights, one per category.
        is_oriented: It is known where their axes grow to.
    """

    name: str
    first: int
    channel: Callable[[int], Volume | None]
    labels: Volume | None = None
    roi: Volume | None = None
    weight_maps: tuple[Volume, ...] = ()
    is_oriented: bool = True


@dataclass(frozen=True)
class _GridChange:
    """From the grid of a case's images to the grid of the prepared case.

    Attributes:
        turn: Of the axes; comes first.
        before: The grid of the images, turned.
        after: The grid of the prepared case.
    """

    turn: Reorientation
    before: Geometry
    after: Geometry

    @classmethod
    def of(cls, geometry: Geometry, preparation: Preparation) -> _GridChange:
        """The change of images with the grid ``geometry``."""
        turn = Reorientation.of(geometry, preparation.orientation)
        before, spacing_mm = turn.geometry(geometry), preparation.spacing_mm
        after = before if spacing_mm is None else resampled_geometry(before, spacing_mm)
        return cls(turn, before, after)

    @property
    def keeps_voxels(self) -> bool:
        """No voxel is interpolated."""
        return self.before == self.after

    def apply(self, volume: Volume, *, order: Literal[0, 1]) -> NDArray[Any]:
        """The voxels of ``volume`` on the grid of the prepared case."""
        # The images of one case share their voxels; the checks have judged their geometry.
        array = self.turn.copied(volume.array)
        return array if self.keeps_voxels else resample(array, self.before, self.after, order=order)


def prepare(
    case: Case, preparation: Preparation, channels: Sequence[str], *, scratch: Path | None = None
) -> PreparedCase:
    """Read ``case`` and make it what the network sees.

    Args:
        case: Its files.
        preparation: Axes, voxel size, region of interest and normalisation.
        channels: The model's channel names.
        scratch: Folder for a nameless file that holds the channels; None for memory.
    """
    return prepare_images(images_of(case), preparation, channels, scratch=scratch)


def images_of(case: Case) -> CaseImages:
    """The images of ``case``, whose channels are read when they are needed."""
    return CaseImages(
        name=case.name,
        first=next(i for i, (path, _) in enumerate(case.images) if path is not None),
        channel=partial(_channel, case),
        roi=None if case.roi is None else read_mask(case.roi),
        labels=None if case.labels is None else read_labels(case.labels, dict(case.label_map)),
        weight_maps=tuple(read_image(path) for path in case.weight_maps),
    )


def with_roi(images: CaseImages, preparation: Preparation, channels: Sequence[str]) -> CaseImages:
    """The images with a region of interest, if they have none and ``preparation`` makes one."""
    if preparation.nnunet is not None:
        return _within_crop(images, channels)
    if images.roi is not None or preparation.roi is None:
        return images
    present = (images.channel(number) for number in range(len(channels)))
    return replace(images, roi=nonzero_roi(volume for volume in present if volume is not None))


def _within_crop(images: CaseImages, channels: Sequence[str]) -> CaseImages:
    """The images with the box that nnU-Net cuts out as their region, or what of theirs is in it."""
    volumes = [volume for n in range(len(channels)) if (volume := images.channel(n)) is not None]
    box = box_of(nonzero_mask(volume.array for volume in volumes))
    inside = np.zeros(volumes[0].array.shape, bool)
    inside[box.slices] = True if images.roi is None else images.roi.array[box.slices] != 0
    return replace(images, roi=replace(volumes[0], array=inside, warnings=()))


def prepare_images(
    images: CaseImages,
    preparation: Preparation,
    channels: Sequence[str],
    *,
    scratch: Path | None = None,
) -> PreparedCase:
    """Make images what the network sees, wherever they come from.

    Args:
        images: On one grid.
        preparation: Axes, voxel size, region of interest and normalisation.
        channels: The model's channel names.
        scratch: Folder for a nameless file that holds the channels; None for memory.
    """
    if preparation.nnunet is not None:
        return _prepared_as_nnunet(images, preparation, channels, scratch=scratch)
    if not images.is_oriented:
        preparation = preparation.model_copy(update={"orientation": None})
    images = with_roi(images, preparation, channels)
    first = images.channel(images.first)
    assert first is not None
    grids = _GridChange.of(first.geometry, preparation)
    mask = None if images.roi is None else grids.apply(images.roi, order=0).astype(bool, copy=False)
    reference = replace(first, array=np.empty(0)) if grids.keeps_voxels else first
    waiting = [first]
    del first  # so that its voxels are free once they are in the stack

    def channel(number: int) -> NDArray[np.float32] | None:
        volume = waiting.pop() if number == images.first else images.channel(number)
        if volume is None:
            return None
        image = grids.apply(volume, order=1).astype(np.float32, copy=False)
        if preparation.clip is not None:
            np.clip(image, *preparation.clip, out=image)
        normalise(image, mask, preparation.z_score, channels[number])
        return image

    stack, mapping = _stack(channel, (len(channels), *grids.after.shape), scratch)
    if grids.keeps_voxels:
        reference = replace(reference, array=grids.turn.inverse.array(stack[images.first]))
    weights = [grids.apply(weight_map, order=1) for weight_map in images.weight_maps]
    return PreparedCase(
        name=images.name,
        channels=stack,
        labels=None if images.labels is None else grids.apply(images.labels, order=0),
        roi=mask,
        weights=np.stack(weights).astype(np.float32) if weights else None,
        geometry=grids.after,
        reference=reference,
        turn=grids.turn,
        mappings=() if mapping is None else (mapping,),
    )


def _prepared_as_nnunet(
    images: CaseImages,
    preparation: Preparation,
    channels: Sequence[str],
    *,
    scratch: Path | None,
) -> PreparedCase:
    """Cropped to what is not 0, normalised, then resampled; for arguments see `prepare_images`."""
    assert preparation.nnunet is not None
    rules = preparation.nnunet
    first = images.channel(images.first)
    assert first is not None
    turn = Reorientation.of(first.geometry, preparation.orientation)
    before = turn.geometry(first.geometry)
    present = (images.channel(number) for number in range(len(channels)))
    mask = nonzero_mask(turn.copied(v.array) for v in present if v is not None)
    box = box_of(mask)
    inside, crop = mask[box.slices], cropped_geometry(before, box)
    spacing_mm = crop.spacing_mm if preparation.spacing_mm is None else preparation.spacing_mm
    separate = separate_axis(crop.spacing_mm, spacing_mm)
    after = resized_geometry(crop, resized_shape(crop.shape, crop.spacing_mm, spacing_mm))

    def channel(number: int) -> NDArray[np.float32] | None:
        volume = images.channel(number)
        if volume is None:
            return None
        image = turn.copied(volume.array)[box.slices].astype(np.float32)
        image = normalised(image, inside, rules.rule(channels[number]))
        return resized(image, after.shape, separate)

    def nearest(volume: Volume) -> NDArray[Any]:
        return resample(turn.copied(volume.array)[box.slices], crop, after, order=0)

    stack, mapping = _stack(channel, (len(channels), *after.shape), scratch)
    weights = [nearest(weight_map) for weight_map in images.weight_maps]
    return PreparedCase(
        name=images.name,
        channels=stack,
        labels=None if images.labels is None else nearest(images.labels),
        roi=None if images.roi is None else nearest(images.roi).astype(bool, copy=False),
        weights=np.stack(weights).astype(np.float32) if weights else None,
        geometry=after,
        reference=first,
        turn=turn,
        mappings=() if mapping is None else (mapping,),
    )


def prepared_geometry(geometry: Geometry, preparation: Preparation) -> Geometry:
    """The grid of a prepared case whose files have the grid ``geometry``."""
    return _GridChange.of(geometry, preparation).after


def channel_bytes(case: Case, preparation: Preparation, channels: Sequence[str]) -> int:
    """Bytes that the channels of the prepared ``case`` take in memory."""
    path, volume = next(image for image in case.images if image[0] is not None)
    assert path is not None
    geometry = prepared_geometry(read_geometry(path, volume=volume), preparation)
    return FLOAT_BYTES * len(channels) * prod(geometry.shape)


def _stack(
    read: ReadChannel, size: tuple[int, ...], scratch: Path | None
) -> tuple[NDArray[np.float32], mmap.mmap | None]:
    """The channels ``(C, X, Y, Z)`` and the file that they lie in.

    A missing channel is 0, the mean of normalised ones.
    """
    if scratch is None:
        return _stack_in_memory(read, size), None
    return _stack_in_file(read, size, scratch)


def _stack_in_memory(read: ReadChannel, size: tuple[int, ...]) -> NDArray[np.float32]:
    stack = np.zeros(size, np.float32)

    def fill(number: int) -> None:
        image = read(number)
        if image is not None:
            stack[number] = image

    for number in range(size[0]):  # no more than one image beside the array
        fill(number)
    return stack


def _stack_in_file(
    read: ReadChannel, size: tuple[int, ...], scratch: Path
) -> tuple[NDArray[np.float32], mmap.mmap]:
    """The channels ``(C, X, Y, Z)`` in a file that is gone when nothing uses it any more."""
    channel_size = FLOAT_BYTES * prod(size[1:])
    with writable(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=scratch) as file:

            def fill(number: int) -> None:
                image = read(number)
                if image is not None:
                    file.seek(number * channel_size)
                    file.write(np.ascontiguousarray(image).data)

            file.truncate(channel_size * size[0])  # what is not written reads as 0
            for number in range(size[0]):
                fill(number)
            file.flush()
            # Copy on write: torch wants writable memory, and nothing reaches the disk.
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(mapping, np.float32).reshape(size), mapping


def _channel(case: Case, number: int) -> Volume | None:
    path, volume = case.images[number]
    return None if path is None else read_image(path, nan=case.nan, volume=volume)
