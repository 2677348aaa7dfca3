"""Facts about the cases of a study, from which settings follow.

Every file of every case is read to its end. Facts are plain values; nothing here knows settings.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepseg.data.cases.case import Case
from deepseg.data.cases.checks import channel_intensity, examine
from deepseg.data.cases.label_values import value_counts
from deepseg.data.cases.summary import CaseSummary, Intensity
from deepseg.data.images.volumes import read_image, read_labels, read_mask
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.geometry.boxes import Int3
from deepseg.sessions.planning.layouts import Study, known_labels

AIR = -500.0  # Hounsfield units: below, there is air
THREADS = 2
NORMALISED = 0.15  # how far mean and deviation of normalised images may be from 0 and 1
FOREGROUND_PERCENTILES = (0.5, 99.5)
SAMPLE = 1 << 16  # foreground voxels of a case that are enough for percentiles
ONE_SIDE = 0.1  # of half the width, from the middle
CASES_FOR_SIDES = 5


@dataclass(frozen=True)
class CaseFacts:
    """Facts about one case.

    Attributes:
        name: Of the case.
        shape: Voxels along X, Y, Z.
        spacing_mm: Distance between voxels along X, Y, Z.
        orientation: Where X, Y, Z grow to, such as ``RAS``.
        class_voxels: Voxels of each label of the file; empty without labels.
        object_mm: Extent of the largest connected object of the foreground; None without one.
        sides: Place of each label's centre between left and right, -1 to 1.
        zero_share: Share of the voxels that are 0 in all channels.
        body_mm: Largest extent of the voxels that are not the lowest value of the first channel.
        intensity: Of each channel, inside the region of interest if there is one.
        foreground_range: Percentiles of all channels inside the foreground, lowest and highest.
        has_roi: It has a mask of the region of interest.
    """

    name: str
    shape: Int3
    spacing_mm: tuple[float, float, float]
    orientation: str
    class_voxels: Mapping[int, int]
    object_mm: float | None
    sides: Mapping[int, float]
    zero_share: float
    body_mm: float
    intensity: tuple[Intensity, ...]
    foreground_range: tuple[float, float] | None
    has_roi: bool


@dataclass(frozen=True)
class StudyFacts:
    """Facts about all cases that have labels.

    Attributes:
        layout: Where they were found, for people.
        channels: Names of the channels.
        cases: Facts about each case.
        class_names: Names of labels, where something tells them.
        unlabelled: Names of the cases without labels.
    """

    layout: str
    channels: tuple[str, ...]
    cases: tuple[CaseFacts, ...]
    class_names: Mapping[int, str]
    unlabelled: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels of the files, 0 first, whether a voxel has it or not."""
        values = {label for case in self.cases for label in case.class_voxels}
        return tuple(sorted(values | {0}))

    @property
    def class_shares(self) -> dict[int, float]:
        """Share of each label of all voxels."""
        total = sum(voxels for case in self.cases for voxels in case.class_voxels.values())
        return {
            label: sum(case.class_voxels.get(label, 0) for case in self.cases) / total
            for label in self.labels
        }

    @property
    def orientation(self) -> str:
        """The most common orientation, to which all cases are turned."""
        words = [case.orientation for case in self.cases]
        return max(sorted(set(words)), key=words.count)

    @property
    def _spacings_mm(self) -> list[tuple[float, ...]]:
        """The voxel size of each case along the axes to which it is turned."""
        return [turned(case.spacing_mm, case.orientation, self.orientation) for case in self.cases]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The median voxel size along X, Y, Z, when all cases are turned to one orientation."""
        x, y, z = (statistics.median(sizes) for sizes in zip(*self._spacings_mm, strict=True))
        return x, y, z

    @property
    def spacing_spread(self) -> float:
        """The largest voxel size over the smallest, of the axis on which cases differ most."""
        axes = zip(*self._spacings_mm, strict=True)
        return float(max(max(sizes) / min(sizes) for sizes in axes))

    @property
    def anisotropy(self) -> float:
        """The coarsest over the finest axis of the median voxel size."""
        return float(max(self.spacing_mm) / min(self.spacing_mm))

    @property
    def coarse_axis(self) -> int:
        """The axis with the largest voxels."""
        return self.spacing_mm.index(max(self.spacing_mm))

    @property
    def object_mm(self) -> float:
        """The median extent of the largest object of each case; 0 without foreground."""
        extents = [case.object_mm for case in self.cases if case.object_mm is not None]
        return statistics.median(extents) if extents else 0.0

    @property
    def body_mm(self) -> float:
        """The median extent of what was scanned."""
        return statistics.median(case.body_mm for case in self.cases)

    @property
    def zero_share(self) -> float:
        """The share of voxels that are 0 in all channels, of the case with the fewest."""
        return min(case.zero_share for case in self.cases)

    @property
    def is_ct(self) -> bool:
        """One channel of Hounsfield units: air in every case, and whole ranges below it."""
        lowest = [case.intensity[0].minimum for case in self.cases]
        return len(self.channels) == 1 and all(-2100 <= value <= AIR for value in lowest)

    @property
    def is_normalised(self) -> bool:
        """Every channel of every case has about mean 0 and deviation 1 already."""
        values = [intensity for case in self.cases for intensity in case.intensity]
        return all(abs(v.mean) <= NORMALISED and abs(v.deviation - 1) <= NORMALISED for v in values)

    @property
    def foreground_range(self) -> tuple[float, float]:
        """The median percentiles of the intensities inside the foreground."""
        ranges = [case.foreground_range for case in self.cases if case.foreground_range is not None]
        low, high = (statistics.median(ends) for ends in zip(*ranges, strict=True))
        return low, high

    @property
    def sided_labels(self) -> tuple[int, ...]:
        """Labels on the same side in every case, of which there must be five to tell."""
        sided = []
        for label in self.labels[1:]:
            places = [case.sides[label] for case in self.cases if label in case.sides]
            same = all(p > ONE_SIDE for p in places) or all(p < -ONE_SIDE for p in places)
            if len(places) >= CASES_FOR_SIDES and same:
                sided.append(label)
        return tuple(sided)


def turned(values: tuple[float, float, float], orientation: str, target: str) -> tuple[float, ...]:
    """Values along X, Y, Z of a case, along the axes of another orientation.

    >>> turned((1, 2, 3), "RAS", "SLP")
    (3, 1, 2)
    """
    sides = [next(pair for pair in ("RL", "AP", "SI") if letter in pair) for letter in orientation]
    return tuple(
        next(v for v, side in zip(values, sides, strict=True) if letter in side)
        for letter in target
    )


def study_facts(study: Study, advance: Callable[[], None] = lambda: None) -> StudyFacts:
    """Read all cases of ``study``.

    Args:
        study: The cases.
        advance: Called after each.

    Raises:
        DeepsegError: Everything that is wrong with any of them, and ``plan-labels``.
    """
    labelled = [case for case in study.cases if case.labels is not None]
    if not labelled:
        raise DeepsegError(_without_labels(study))

    def read(case: Case) -> CaseFacts | tuple[Problem, ...]:
        facts = _facts_or_problems(case)
        advance()
        return facts

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(read, labelled))
    raise_if_any(dict.fromkeys(problem for r in results if isinstance(r, tuple) for problem in r))
    cases = tuple(result for result in results if isinstance(result, CaseFacts))
    unlabelled = tuple(case.name for case in study.cases if case.labels is None)
    return StudyFacts(study.layout, study.channels, cases, study.class_names, unlabelled)


def _facts_or_problems(case: Case) -> CaseFacts | tuple[Problem, ...]:
    assert case.labels is not None
    try:
        labels = read_labels(case.labels, dict(case.label_map))
    except DeepsegError as refusal:
        problems = list(refusal.at(str(case.labels)).problems)
        rest = _examined(replace(case, labels=None), class_count=1).problems
        return tuple(dict.fromkeys([*problems, *rest]))
    counts = {label: n for label, n in value_counts(labels.array).items() if label >= 0}
    numbered = tuple((old, number) for number, old in enumerate(sorted(counts)))
    ignored = tuple(pair for pair in case.label_map if pair[0] in known_labels(case))
    summary = _examined(
        replace(case, label_map=(*ignored, *numbered)), class_count=max(len(counts), 1)
    )
    if summary.problems:
        return summary.problems
    return _case_facts(case, summary, labels.array, counts)


def _examined(case: Case, *, class_count: int) -> CaseSummary:
    return examine(case, class_count=class_count, needs_labels=case.labels is not None)


def _case_facts(
    case: Case, summary: CaseSummary, labels: NDArray[Any], counts: Mapping[int, int]
) -> CaseFacts:
    assert summary.shape is not None
    assert summary.spacing_mm is not None
    assert summary.orientation is not None
    roi = None if case.roi is None else read_mask(case.roi).array
    is_zero = np.ones(summary.shape, bool)
    body_mm, ends, intensity = 0.0, [], []
    foreground = labels > 0
    for path, volume in case.images:
        if path is None:
            continue
        image = read_image(path, nan=case.nan, volume=volume).array
        is_zero &= image == 0
        body_mm = body_mm or _extent_mm(image > image.min(), summary.spacing_mm)
        inside = roi if roi is not None else _not_lowest(image)
        intensity.append(channel_intensity(image, inside))
        values = image[foreground]
        if values.size:
            few = values[:: values.size // SAMPLE + 1].astype(np.float64)
            ends.append(np.percentile(few, FOREGROUND_PERCENTILES))
    return CaseFacts(
        name=case.name,
        shape=summary.shape,
        spacing_mm=summary.spacing_mm,
        orientation=summary.orientation,
        class_voxels=dict(sorted(counts.items())),
        object_mm=_largest_object_mm(foreground, summary.spacing_mm),
        sides=_sides(labels, summary.orientation, tuple(counts)),
        zero_share=float(is_zero.mean()),
        body_mm=body_mm,
        intensity=tuple(intensity),
        foreground_range=(float(min(e[0] for e in ends)), float(max(e[1] for e in ends)))
        if ends
        else None,
        has_roi=case.roi is not None,
    )


def _not_lowest(image: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Voxels that are not 0, where a large part of the image is; None for all."""
    is_zero = image == 0
    return ~is_zero if is_zero.mean() > 0.2 else None


def _extent_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Length of the longest side of the box around ``mask``; 0 for an empty one.

    >>> mask = np.zeros((9, 9, 9), bool)
    >>> mask[2:5, 3:5, 0:4] = True
    >>> _extent_mm(mask, (1.0, 1.0, 2.0))
    8.0
    """
    sides = []
    for axis, mm in enumerate(spacing_mm):
        other_axes = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(mask.any(axis=other_axes))
        sides.append((places[-1] - places[0] + 1) * mm if places.size else 0.0)
    return float(max(sides))


def _largest_object_mm(foreground: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float | None:
    """Extent of the connected object with the most voxels."""
    objects, count = ndimage.label(foreground)
    if count == 0:
        return None
    largest = int(np.bincount(objects.ravel())[1:].argmax()) + 1
    return _extent_mm(objects == largest, spacing_mm)


def _sides(labels: NDArray[Any], orientation: str, values: Sequence[int]) -> dict[int, float]:
    """Place of the centre of each label above 0 between left (-1) and right (1).

    >>> round(_sides(np.array([[[0]], [[0]], [[1]]]), "RAS", (0, 1))[1], 3)
    0.667
    """
    axis = next(i for i, letter in enumerate(orientation) if letter in "LR")
    other_axes = tuple(a for a in range(3) if a != axis)
    size = labels.shape[axis]
    places = (np.arange(size) + 0.5) / size * 2 - 1
    turned = 1.0 if orientation[axis] == "R" else -1.0
    sides = {}
    for value in values:
        if value > 0:
            profile = (labels == value).sum(axis=other_axes)
            sides[value] = float(turned * (places * profile).sum() / profile.sum())
    return sides


def _without_labels(study: Study) -> Problem:
    return Problem(
        code="plan-labels",
        got=f"{len(study.cases)} cases in {study.layout}, none with labels",
        expected="a segmentation for each case to learn from",
        fix="put it beside the images, with 'seg' or 'label' in its name, or list the cases in a "
        "table with a column labels",
    )


def fact_rows(facts: StudyFacts) -> list[list[str]]:
    """The facts for people: a name and a value in each row."""
    shares = facts.class_shares
    voxels = [f"{label}: {share:.2%}" for label, share in shares.items() if label > 0]
    low = min(value.minimum for case in facts.cases for value in case.intensity)
    high = max(value.maximum for case in facts.cases for value in case.intensity)
    kind = "CT values" if facts.is_ct else "normalised" if facts.is_normalised else "as scanned"
    return [
        [
            "cases",
            f"{len(facts.cases)} with labels, {len(facts.unlabelled)} without, in {facts.layout}",
        ],
        ["images", ", ".join(facts.channels)],
        ["labels, share of voxels", ", ".join(voxels)],
        ["voxels in mm", " x ".join(f"{mm:.3g}" for mm in facts.spacing_mm)],
        ["voxel sizes differ by", f"a factor of {facts.spacing_spread:.3g}"],
        ["coarsest axis over finest", f"{facts.anisotropy:.3g}"],
        ["largest object in mm", f"{facts.object_mm:.3g}"],
        ["body in mm", f"{facts.body_mm:.3g}"],
        ["intensities", f"{low:.4g} to {high:.4g}, {kind}"],
        ["voxels that are 0 in all images", f"at least {facts.zero_share:.0%}"],
        ["masks of the ROI", f"{sum(case.has_roi for case in facts.cases)}"],
    ]
