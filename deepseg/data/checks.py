"""What is in the cases, and everything that is wrong with them, all at once.

Every file of a case is read completely, so that damage shows before a session begins. `examine`
judges one case, `find_problems` what only shows over all of them. Nothing here knows networks or
sessions, and nothing is repaired.
"""

from __future__ import annotations

import filecmp
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from deepseg.data.cases import Case
from deepseg.data.volumes import (
    Geometry,
    Volume,
    read_geometry,
    read_image,
    read_labels,
    read_mask,
)
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3, text

Array: TypeAlias = NDArray[Any]

SILENT_VOXELS = 0.01  # files of one case may lie so far apart without a word
TOLERATED_VOXELS = 0.5  # and so far with a warning
SMALL_ROI = 10  # voxels, up to which a region of interest is suspicious
MANY_LABELS = 32  # values that no class has, above which a file of labels is taken for an image
SAME_SPACING = 0.01  # share by which voxel sizes may differ and still count as the same


@dataclass(frozen=True)
class Intensity:
    """The intensities of one channel, inside the region of interest if there is one."""

    mean: float
    deviation: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Facts:
    """What one case holds.

    Attributes:
        name: Of the case.
        where: File and line that list it.
        shape: Voxels along X, Y, Z; None if no channel can be read.
        spacing_mm: Distance between voxels along X, Y, Z.
        orientation: Where X, Y, Z grow to, such as ``RAS``: right, anterior, superior.
        missing_channels: Channels that the case lacks, counted from 0.
        intensity: Of every channel; None for one that is missing or cannot be read.
        images: Digest of the voxels of all channels; None if one of them cannot be read.
        class_voxels: Voxels of every class; None without labels that can be used.
        roi_voxels: Voxels of the region of interest, or None without one.
        foreground_outside_roi: Share of the foreground that lies outside the region of interest.
        problems: What is wrong.
        warnings: What the user should know, one sentence each.
    """

    name: str
    where: str
    shape: Int3 | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    missing_channels: tuple[int, ...]
    intensity: tuple[Intensity | None, ...]
    images: str | None
    class_voxels: tuple[int, ...] | None
    roi_voxels: int | None
    foreground_outside_roi: float
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        values: dict[str, Any] = _FACTS.dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """The facts of which ``values`` are the JSON."""
        return _FACTS.validate_python(values)


_FACTS = TypeAdapter(Facts)


def examine(case: Case, *, class_count: int, needs_labels: bool) -> Facts:
    """Read every file of ``case`` to its end and say what is in it; bad data raises nothing."""
    reader = _Reader(case)
    roi = reader.array(case.roi, read_mask)
    labels = reader.array(case.labels, partial(read_labels, label_map=dict(case.label_map)))
    intensity, digests = [], []
    for path in case.channels:
        image = reader.array(path, read_image)
        intensity.append(None if image is None else _intensity(image, roi))
        digests.append("" if path is None else None if image is None else _digest(image))
        reader.note_constant(path, intensity[-1])
    for path in case.weight_maps:
        reader.check_weights(path)
    reader.check_presence(needs_labels)
    class_voxels = reader.checked_classes(labels, class_count)
    outside = _share_outside(labels, roi)
    reader.note_roi(roi, outside)
    grid = reader.grid
    return Facts(
        name=case.name,
        where=case.where,
        shape=None if grid is None else grid.shape,
        spacing_mm=None if grid is None else grid.spacing_mm,
        orientation=None if grid is None else "".join(nib.aff2axcodes(grid.affine)),
        missing_channels=tuple(i for i, path in enumerate(case.channels) if path is None),
        intensity=tuple(intensity),
        images=None if None in digests else " ".join(d for d in digests if d is not None),
        class_voxels=class_voxels,
        roi_voxels=None if roi is None else int(np.count_nonzero(roi)),
        foreground_outside_roi=outside,
        problems=tuple(reader.problems),
        warnings=tuple(reader.warnings),
    )


def examine_all(
    cases: Sequence[Case], *, class_count: int, needs_labels: bool, processes: int = 1
) -> list[Facts]:
    """`examine` of every case, in their order, by so many processes at a time."""
    judge = partial(examine, class_count=class_count, needs_labels=needs_labels)
    count = min(processes, len(cases))
    # A daemonic process may not have children.
    if count <= 1 or multiprocessing.current_process().daemon:
        return [judge(case) for case in cases]
    # Not forked, because torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker)
    try:
        return list(pool.map(judge, cases))
    except BrokenProcessPool:  # a worker was killed, perhaps for its memory
        return [judge(case) for case in cases]
    finally:
        pool.shutdown(cancel_futures=True)


def find_problems(
    facts: Sequence[Facts],
    *,
    classes: Sequence[str],
    needs_labels: bool,
    allow_missing_classes: bool = False,
    resampled: bool = False,
) -> tuple[list[Problem], list[str]]:
    """All problems and warnings of the cases, then those that only show over all of them.

    Args:
        facts: Of all cases that are used together.
        classes: Names of the model's classes, the background first.
        needs_labels: Whether the cases are for training, not for testing.
        allow_missing_classes: Whether a class without a voxel in any case is only a warning.
        resampled: Whether all cases are brought to one voxel size.
    """
    problems = [problem for one in facts for problem in one.problems]
    warnings = [warning for one in facts for warning in one.warnings]
    problems += _channels_in_no_case(facts)
    if needs_labels:
        problems += _useless_rois(facts)
        absent = _absent_classes(facts, classes)
        if allow_missing_classes:
            warnings += [f"{problem.got} in any case" for problem in absent]
        else:
            problems += absent
    warnings += _same_images(facts)
    warnings += _mixed_grids(facts, resampled=resampled)
    return problems, warnings


class _Reader:
    """Reads the files of one case and collects what is wrong with them.

    Attributes:
        grid: Geometry of the first channel that has one; the other files must share it.
        problems: Found so far.
        warnings: Found so far.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.grid, self.grid_file = _grid(case)

    def array(self, path: Path | None, read: Callable[[Path], Volume]) -> Array | None:
        """The voxels ``(X, Y, Z)`` of ``path``, or None if there are none or they are unreadable.

        An array of the wrong shape is returned too, because its values are still to be judged.
        """
        if path is None:
            return None
        try:
            volume = read(path)
        except DeepsegError as refusal:
            self.problems += refusal.at(str(path)).problems
            return None
        self.warnings += [f"{path}: {warning}" for warning in volume.warnings]
        self._check_place(path, volume.geometry)
        return volume.array

    def _check_place(self, path: Path, geometry: Geometry) -> None:
        """The file must have the voxels of the first channel at the same place."""
        if self.grid is None or self.grid_file is None or path == self.grid_file:
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
        voxels = distance / min(self.grid.spacing_mm)
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
        same = next((path for path in channels if _is_same_file(path, case.labels)), None)
        if same is not None:
            got, expected = f"the same bytes as {same}", "labels, not one of the images"
            fix = f"correct the label file in {case.where}"
            self.problems.append(Problem("labels-are-image", got, expected, fix, str(case.labels)))
        twice = [str(path) for path, times in Counter(channels).items() if times > 1]
        self.warnings += [f"{path}: it is more than one channel of {case.name}" for path in twice]

    def checked_classes(self, labels: Array | None, class_count: int) -> tuple[int, ...] | None:
        """Voxels per class, or None if there are labels that no class has."""
        if labels is None:
            return None
        counts = _value_counts(labels)
        if not set(counts) <= set(range(class_count)):
            self.problems.append(_strange_labels(self.case, counts, class_count))
            return None
        if set(counts) == {0}:
            self.warnings.append(f"{self.case.labels}: it is all background")
        elif 0 not in counts:
            self.warnings.append(f"{self.case.labels}: it has no background")
        return tuple(counts.get(label, 0) for label in range(class_count))

    def note_constant(self, path: Path | None, intensity: Intensity | None) -> None:
        """An image that is the same everywhere tells the network nothing."""
        if intensity is not None and intensity.minimum == intensity.maximum:
            place = "" if self.case.roi is None else " of the region of interest"
            self.warnings.append(f"{path}: every voxel{place} is {intensity.mean:g}")

    def note_roi(self, roi: Array | None, outside: float) -> None:
        """A region of interest should be there and hold the foreground."""
        if roi is None:
            return
        voxels = int(np.count_nonzero(roi))
        if voxels == 0:
            self.warnings.append(
                f"{self.case.roi}: the region of interest is empty; nothing is learnt from "
                f"{self.case.name}, and its result is all background"
            )
        elif voxels <= SMALL_ROI:
            self.warnings.append(
                f"{self.case.roi}: the region of interest has only {voxels} "
                f"voxel{'s' * (voxels > 1)}"
            )
        if outside == 1.0:
            self.warnings.append(
                f"{self.case.roi}: 100 % of the foreground of {self.case.labels} lies outside the "
                "region of interest"
            )


def _grid(case: Case) -> tuple[Geometry | None, Path | None]:
    """Geometry and file of the first channel whose header can be read."""
    for path in case.channels:
        if path is None:
            continue
        try:
            return read_geometry(path), path
        except DeepsegError:
            continue  # reading its voxels will say what is wrong
    return None, None


def _intensity(image: Array, roi: Array | None) -> Intensity:
    inside = image[roi] if roi is not None and roi.shape == image.shape and roi.any() else image
    return Intensity(
        mean=float(inside.mean(dtype=np.float64)),
        deviation=float(inside.std(dtype=np.float64)),
        minimum=float(inside.min()),
        maximum=float(inside.max()),
    )


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


def _value_counts(labels: Array) -> dict[int, int]:
    """Voxels of every value in ``labels``, ascending."""
    low, high = int(labels.min()), int(labels.max())
    if high - low < 1 << 16:  # counting is much quicker than sorting
        counts = np.bincount(labels.ravel(order="K").astype(np.int64) - low)
        return {low + i: int(n) for i, n in enumerate(counts) if n}
    values, counts = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def _strange_labels(case: Case, counts: Mapping[int, int], class_count: int) -> Problem:
    strange = [value for value in counts if not 0 <= value < class_count]
    expected = f"labels 0 to {class_count - 1} ({class_count} classes)"
    if len(strange) > MANY_LABELS or strange[0] < -1:
        values = f"{len(counts)} different values" if len(counts) > 1 else "the value"
        return Problem(
            code="label-values",
            got=f"{values} from {min(counts)} to {max(counts)}, which looks like an image",
            expected=expected,
            fix=f"correct the label file in {case.where}",
            where=str(case.labels),
        )
    values = ", ".join(map(str, counts))
    voxels = ", ".join(f"{value}: {counts[value]} voxels" for value in strange)
    entries = ", ".join(f"{a}: {b}" for a, b in _suggested_map(case, counts, class_count).items())
    more = f", or give the model {max(counts) + 1} classes" if class_count <= max(counts) else ""
    return Problem(
        code="label-values",
        got=f"labels {{{values}}} ({voxels})",
        expected=expected,
        fix=f"set 'label_map: {{{entries}}}' as it fits your data{more}",
        where=str(case.labels),
    )


def _suggested_map(case: Case, counts: Mapping[int, int], class_count: int) -> dict[int, int]:
    """A label map with the labels that no class has on the highest classes without a label."""
    free = [label for label in range(1, class_count) if label not in counts]
    strange = [value for value in counts if value >= class_count]
    targets = dict.fromkeys((value for value in counts if value < 0), 0)
    targets |= dict.fromkeys(strange, 0)
    targets |= dict(zip(reversed(strange), reversed(free), strict=False))
    known = {label: targets.get(wanted, wanted) for label, wanted in case.label_map}
    new = {value: label for value, label in targets.items() if value not in known.values()}
    mapped = {wanted for _, wanted in case.label_map}
    return known | {value: label for value, label in new.items() if value not in mapped}


def _is_same_file(path: Path, labels: Path | None) -> bool:
    try:
        return labels is not None and filecmp.cmp(path, labels, shallow=False)
    except OSError:
        return False


def _channels_in_no_case(facts: Sequence[Facts]) -> list[Problem]:
    missing = set.intersection(*(set(one.missing_channels) for one in facts)) if facts else set()
    # A case without any channel has a problem of its own.
    if any(len(one.missing_channels) == len(one.intensity) for one in facts):
        return []
    return [
        Problem(
            code="channel-in-no-case",
            got=f"no image of channel {channel + 1} in any case",
            expected="every channel of the model in at least one case",
            fix="give the images, or use a model without this channel",
        )
        for channel in sorted(missing)
    ]


def _useless_rois(facts: Sequence[Facts]) -> list[Problem]:
    if not facts:
        return []
    if all(one.roi_voxels == 0 for one in facts):
        got, expected = "an empty region of interest in every case", "voxels to learn from"
        return [Problem("roi-empty", got, expected, "correct the masks, or leave out the roi")]
    if all(one.foreground_outside_roi == 1.0 for one in facts):
        got = "all foreground outside the region of interest, in every case"
        expected, fix = "foreground to learn from", "correct the masks, or leave out the roi"
        return [Problem("roi-without-foreground", got, expected, fix)]
    return []


def _absent_classes(facts: Sequence[Facts], classes: Sequence[str]) -> list[Problem]:
    """A problem for every class without a voxel, once the labels of all cases can be used."""
    counts = [one.class_voxels for one in facts if one.class_voxels is not None]
    if not counts or len(counts) < len(facts):
        return []
    return [
        Problem(
            code="class-in-no-case",
            got=f"no voxel of class {label} ({name})",
            expected="every class of the model in at least one case",
            fix="check the labels and the label_map, or set 'allow_missing_classes: true'",
        )
        for label, name in enumerate(classes)
        if not any(count[label] for count in counts)
    ]


def _same_images(facts: Sequence[Facts]) -> list[str]:
    first: dict[str, Facts] = {}
    warnings = []
    for one in facts:
        if one.images is None:
            continue
        other = first.setdefault(one.images, one)
        if other is not one:
            warnings.append(
                f"{one.where}: {one.name} has the same images as {other.name} ({other.where})"
            )
    return warnings


def _mixed_grids(facts: Sequence[Facts], *, resampled: bool) -> list[str]:
    """Warnings about voxel sizes and orientations that are not the same in all cases."""
    warnings = []
    spacings = np.array([one.spacing_mm for one in facts if one.spacing_mm is not None])
    if len(spacings) and not resampled:
        low, high = spacings.min(axis=0), spacings.max(axis=0)
        if (high > low * (1 + SAME_SPACING)).any():
            smallest, largest = (" x ".join(f"{mm:.3g}" for mm in end) for end in (low, high))
            warnings.append(
                f"the voxels of the cases are from {smallest} to {largest} mm large; "
                "consider the key 'resample'"
            )
    counts = Counter(one.orientation for one in facts if one.orientation is not None)
    if len(counts) > 1:
        listed = ", ".join(f"{n} {letters}" for letters, n in counts.most_common())
        warnings.append(f"the axes of the cases do not point the same way: {listed}")
    return warnings


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
