"""Content of a case, and everything that is wrong with it, all at once.

Every file of a case is read completely, so that damage shows before a session begins. Nothing here
knows networks or sessions, and nothing is repaired.
"""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepseg.data.cases.case import UNKNOWN, Case
from deepseg.data.cases.label_values import strange_labels, value_counts
from deepseg.data.cases.listing import is_there
from deepseg.data.cases.summary import CaseSummary, Intensity
from deepseg.data.images.masks import nonzero_roi
from deepseg.data.images.volumes import (
    Geometry,
    Volume,
    read_geometry,
    read_image,
    read_labels,
    read_mask,
)
from deepseg.data.intensity import mean_and_deviation
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import text

Array: TypeAlias = NDArray[Any]

SILENT_VOXELS = 0.01  # files of one case may lie so far apart without a word
TOLERATED_VOXELS = 0.5  # and so far with a warning
NEARLY_ALL = (0.1, 99.9)  # percentiles
PERCENTILE_VOXELS = 1 << 18  # that are enough for percentiles
SMALL_ROI = 10  # voxels, up to which a region of interest is suspicious

# Other remedies than for an image, by the code of the problem.
ONE_LABEL = {
    "image-not-3d": "save the labels as one volume that holds the class of every voxel; of one-hot "
    "labels, the number of the volume that is 1 there"
}
ONE_MASK = {"image-not-3d": "save the mask as one volume, 1 inside and 0 outside"}
NO_FIXES: Mapping[str, str] = {}


def examine(
    case: Case, *, class_count: int, needs_labels: bool, computes_roi: bool = False
) -> CaseSummary:
    """Read every file of ``case`` to its end and sum it up; bad data raises nothing.

    Args:
        case: Its files.
        class_count: Classes of the model.
        needs_labels: A case without labels is a problem.
        computes_roi: The region of interest of a case without a mask is made of its images.
    """
    reader = _Reader(case)
    roi = reader.array(case.roi, read_mask, fixes=ONE_MASK)
    if case.roi is None and computes_roi:
        roi = _computed_roi(case)
    read = partial(read_labels, label_map=dict(case.label_map))
    labels = reader.array(case.labels, read, fixes=ONE_LABEL)
    intensity, digests = [], []
    for path, volume in case.images:
        image = reader.array(path, partial(read_image, nan=case.nan, volume=volume))
        intensity.append(None if image is None else channel_intensity(image, roi))
        digests.append("" if path is None else None if image is None else _digest(image))
        del image  # before the next one is read
        reader.note_constant(path, volume, intensity[-1])
    for path in case.weight_maps:
        reader.check_weights(path)
    reader.check_presence(needs_labels)
    class_voxels = reader.checked_classes(labels, class_count)
    outside = _share_outside(labels, roi)
    reader.note_roi(roi, outside, is_learnt=needs_labels)
    grid = reader.grid
    return CaseSummary(
        name=case.name,
        where=case.where,
        shape=None if grid is None else grid.shape,
        spacing_mm=None if grid is None else grid.spacing_mm,
        orientation=None if grid is None else grid.orientation,
        missing_channels=tuple(i for i, path in enumerate(case.channels) if path is None),
        intensity=tuple(intensity),
        images=None if None in digests else " ".join(d for d in digests if d is not None),
        class_voxels=class_voxels,
        roi_voxels=None if roi is None else int(np.count_nonzero(roi)),
        foreground_outside_roi=outside,
        # A file that serves several channels has its faults once.
        problems=tuple(dict.fromkeys(reader.problems)),
        warnings=tuple(dict.fromkeys(reader.warnings)),
        labels=None if labels is None or not (labels > 0).any() else _digest(labels),
    )


class _Reader:
    """Reads the files of one case and collects what is wrong with them.

    Attributes:
        grid: Geometry of the first channel that has one; the other files must share it.
        problems: Found so far.
        warnings: Found so far.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.problems = list(case.missing)
        self.warnings: list[str] = []
        self.grid, self.grid_file = case_geometry(case)

    def array(
        self,
        path: Path | None,
        read: Callable[[Path], Volume],
        *,
        fixes: Mapping[str, str] = NO_FIXES,
    ) -> Array | None:
        """The voxels ``(X, Y, Z)`` of ``path``, or None if there are none or they are unreadable.

        An array of the wrong shape is returned too, because its values are still to be judged.

        Args:
            path: The file.
            read: Reads it.
            fixes: What to do about a problem instead, by its code.
        """
        if path is None or _is_missing(self.case, path):
            return None
        try:
            volume = read(path)
        except DeepsegError as refusal:
            problems = refusal.at(str(path)).problems
            self.problems += [replace(p, fix=fixes.get(p.code, p.fix)) for p in problems]
            return None
        self.warnings += [f"{path}: {warning}" for warning in volume.warnings]
        self._check_place(path, volume.geometry)
        return volume.array

    def _check_place(self, path: Path, geometry: Geometry) -> None:
        """The file must have the voxels of the first channel at the same place."""
        if self.grid is None:
            return
        if geometry.shape != self.grid.shape:
            self.problems.append(
                Problem(
                    code="shape-mismatch",
                    got=f"{text(geometry.shape)} voxels",
                    expected=f"{text(self.grid.shape)}, as {self.grid_file} has",
                    fix=f"resample one onto the other, or correct the file in {self.case.where}",
                    where=str(path),
                )
            )
            return
        distance = geometry.distance_mm(self.grid)
        voxels = self.grid.distance_voxels(geometry)
        if voxels <= SILENT_VOXELS:
            return
        away = f"up to {distance:.3g} mm ({voxels:.3g} voxels) away from {self.grid_file}"
        if voxels <= TOLERATED_VOXELS or self.case.trust_arrays:
            self.warnings.append(f"{path}: its voxels lie {away}; they are used as they are")
            return
        self.problems.append(
            Problem(
                code="geometry-mismatch",
                got=f"voxels that lie {away}",
                expected=f"the same place in space, or at most {TOLERATED_VOXELS} voxels away",
                fix="resample one onto the other or correct its header; if the voxels belong "
                "together as they are, set 'trust_arrays: true'",
                where=str(path),
            )
        )

    def check_weights(self, path: Path) -> None:
        """A weight map must have no negative weight."""
        weights = self.array(path, read_image)
        if weights is None or weights.min() >= 0:
            return
        self.problems.append(
            Problem(
                code="weights-negative",
                got=f"{np.count_nonzero(weights < 0)} negative weights, down to {weights.min():g}",
                expected="weights of 0 or more",
                fix="correct the weight map",
                where=str(path),
            )
        )

    def check_presence(self, needs_labels: bool) -> None:
        """A case needs a channel, for training also labels, and these are no channel."""
        case = self.case
        channels = [path for path in case.channels if path is not None]
        if not channels:
            got, expected = f"no image of case {case.name!r}", "at least one of its channels"
            fix = "give an image, or take the case out"
            self.problems.append(Problem("case-without-channels", got, expected, fix, case.where))
        if case.labels is None and needs_labels:
            got, expected = f"no labels of case {case.name!r}", "labels for every case"
            fix = "give the label file, or take the case out"
            self.problems.append(Problem("labels-missing", got, expected, fix, case.where))
        image = next((path for path in channels if _is_same_file(path, case.labels)), None)
        if image is not None:
            got, expected = f"the same bytes as {image}", "labels, not one of the images"
            fix = f"correct the label file in {case.where}"
            self.problems.append(Problem("labels-are-image", got, expected, fix, str(case.labels)))
        times = Counter((path, volume) for path, volume in case.images if path is not None)
        twice = [path for (path, _), number in times.items() if number > 1]
        self.warnings += [f"{path}: it is more than one channel of {case.name}" for path in twice]

    def checked_classes(self, labels: Array | None, class_count: int) -> tuple[int, ...] | None:
        """Voxels per class, or None if there are labels that no class has."""
        if labels is None:
            return None
        counts = value_counts(labels)
        if UNKNOWN in dict(self.case.label_map).values():
            counts.pop(UNKNOWN, None)
        if not set(counts) <= set(range(class_count)):
            self.problems.append(strange_labels(self.case, labels, class_count))
            return None
        if not counts:
            self.warnings.append(f"{self.case.labels}: label_map ignores all of it")
        elif set(counts) == {0}:
            self.warnings.append(f"{self.case.labels}: it is all background")
        elif 0 not in counts:
            self.warnings.append(f"{self.case.labels}: it has no background")
        return tuple(counts.get(label, 0) for label in range(class_count))

    def note_constant(
        self, path: Path | None, volume: int | None, intensity: Intensity | None
    ) -> None:
        """An image that is the same everywhere tells the network nothing."""
        if intensity is not None and intensity.minimum == intensity.maximum:
            place = "" if self.case.roi is None else " of the region of interest"
            where = "" if volume is None else f" in volume {volume}"
            self.warnings.append(f"{path}: every voxel{place}{where} is {intensity.mean:g}")

    def note_roi(self, roi: Array | None, outside: float, *, is_learnt: bool) -> None:
        """A region of interest should be there and hold the foreground."""
        if roi is None:
            return
        place = f"{self.case.where}: {self.case.name}" if self.case.roi is None else self.case.roi
        voxels = int(np.count_nonzero(roi))
        if voxels == 0:
            consequence = f"nothing is learnt from {self.case.name}, and " if is_learnt else ""
            self.warnings.append(
                f"{place}: the region of interest is empty; {consequence}its result is all "
                "background"
            )
        elif voxels <= SMALL_ROI:
            self.warnings.append(
                f"{place}: the region of interest has only {voxels} voxel{'s' * (voxels > 1)}"
            )
        if outside == 1.0:
            self.warnings.append(
                f"{place}: 100 % of the foreground of {self.case.labels} lies outside the "
                "region of interest"
            )


def _is_missing(case: Case, path: Path) -> bool:
    """True if ``path`` is one of the missing files of the case, which are problems already."""
    return bool(case.missing) and not is_there(path)


def case_geometry(case: Case) -> tuple[Geometry | None, Path | None]:
    """Geometry and file of the first channel whose header can be read."""
    for path, volume in case.images:
        if path is None or _is_missing(case, path):
            continue
        try:
            return read_geometry(path, volume=volume), path
        except DeepsegError:
            continue  # reading its voxels will say what is wrong
    return None, None


def channel_intensity(image: Array, roi: Array | None) -> Intensity:
    """The intensities of a channel before it is normalised.

    Args:
        image: ``(X, Y, Z)``.
        roi: ``(X, Y, Z)`` bool; None, empty or of another shape where all voxels count.
    """
    inside = image[roi] if roi is not None and roi.shape == image.shape and roi.any() else image
    mean, deviation = mean_and_deviation(inside)
    minimum = inside.min()
    above = inside[inside > minimum]
    few = above[:: above.size // PERCENTILE_VOXELS + 1].astype(np.float64)
    low, high = np.percentile(few, NEARLY_ALL) if few.size else (minimum, minimum)
    return Intensity(
        mean=mean,
        deviation=deviation,
        minimum=float(minimum),
        maximum=float(inside.max()),
        minimum_share=1 - above.size / inside.size,
        second=float(above.min() if above.size else minimum),
        low=float(low),
        high=float(high),
    )


def _computed_roi(case: Case) -> Array | None:
    """The region of interest made of the images; None if that is impossible."""
    try:
        present = [image for image in case.images if image[0] and not _is_missing(case, image[0])]
        volumes = (
            read_image(path, nan=case.nan, volume=volume)
            for path, volume in present
            if path is not None
        )
        return nonzero_roi(volumes).array if present else None
    except (DeepsegError, ValueError):  # which shapes that differ cause; both are told elsewhere
        return None


def _digest(image: Array) -> str:
    # In the order of memory, which spares a copy; equal files come in equal order.
    return hashlib.blake2b(image.ravel(order="K").data, digest_size=16).hexdigest()


def _share_outside(labels: Array | None, roi: Array | None) -> float:
    """Share of the foreground outside ``roi``; 0 without foreground or ``roi``."""
    if labels is None or roi is None or labels.shape != roi.shape:
        return 0.0
    foreground = labels > 0
    total = int(np.count_nonzero(foreground))
    return int(np.count_nonzero(foreground & ~roi)) / total if total else 0.0


def _is_same_file(path: Path, labels: Path | None) -> bool:
    try:
        return labels is not None and filecmp.cmp(path, labels, shallow=False)
    except (OSError, ValueError):  # the latter for characters that no path holds
        return False
