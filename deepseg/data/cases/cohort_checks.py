"""Problems of many cases together, though each of them may be right.

They are judged from their summaries; no file is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepseg.data.cases.summary import CaseSummary
from deepseg.errors import Problem
from deepseg.geometry.boxes import text

IMPLAUSIBLE = 100  # ratio of voxel sides before and after resampling
OUTSIDE_ROI = 0.05  # share of the foreground of a case, from which a warning is worth it
TWINS = 3  # pairs of equal cases that are named
OTHER_UNIT = 5  # ratio of all voxel sides before and after, from which the unit may be another
SAME_SPACING = 0.01  # share by which voxel sizes may differ and still count as the same


@dataclass(frozen=True)
class CohortRules:
    """Purpose of the cases that are used together.

    Attributes:
        channels: Names of the model's channels.
        classes: Names of the model's classes, the background first.
        needs_labels: The cases are for training, not for testing.
        allow_missing_classes: A class without a voxel in any case is only a warning.
        may_lack_channels: A channel that no case has is judged elsewhere.
        is_turned: All cases are brought to one orientation.
        spacings_mm: Voxel sizes to which all cases are resampled; none if they keep their own.
        title: Name of these cases for people: ``training cases``.
    """

    channels: Sequence[str]
    classes: Sequence[str]
    needs_labels: bool
    allow_missing_classes: bool = False
    may_lack_channels: bool = False
    is_turned: bool = False
    spacings_mm: Sequence[tuple[float, float, float]] = ()
    title: str = "cases"


def find_problems(
    summaries: Sequence[CaseSummary], rules: CohortRules
) -> tuple[list[Problem], list[str]]:
    """All problems and warnings of the cases, then those that only show over all of them.

    Args:
        summaries: Of all cases that are used together.
        rules: What they are for.
    """
    problems = [problem for summary in summaries for problem in summary.problems]
    warnings = [warning for summary in summaries for warning in summary.warnings]
    if not rules.may_lack_channels:
        problems += _channels_in_no_case(summaries, rules.channels)
    for spacing_mm in dict.fromkeys(rules.spacings_mm):
        problems += _implausible_spacings(summaries, spacing_mm)
    if rules.needs_labels:
        problems += _useless_rois(summaries)
        absent = _absent_classes(summaries, rules)
        if rules.allow_missing_classes:
            warnings += [problem.got for problem in absent]
        else:
            problems += absent
    warnings += _same_images(summaries)
    warnings += _same_labels(summaries)
    warnings += _foreground_outside_rois(summaries)
    warnings += _mixed_spacings(summaries) if not rules.spacings_mm else []
    for spacing_mm in dict.fromkeys(rules.spacings_mm):
        warnings += _doubtful_units(summaries, spacing_mm)
    warnings += _mixed_orientations(summaries) if not rules.is_turned else []
    # A mask that many cases share has its faults once.
    return list(dict.fromkeys(problems)), list(dict.fromkeys(warnings))


def _channels_in_no_case(
    summaries: Sequence[CaseSummary], channels: Sequence[str]
) -> list[Problem]:
    missing = (
        set.intersection(*(set(summary.missing_channels) for summary in summaries))
        if summaries
        else set()
    )
    return [
        Problem(
            code="channel-in-no-case",
            got=f"no image of channel {channels[channel]} in any case",
            expected="every channel of the model in at least one case",
            fix="give the images, or use a model without this channel",
        )
        for channel in sorted(missing)
    ]


def _useless_rois(summaries: Sequence[CaseSummary]) -> list[Problem]:
    if not summaries:
        return []
    if all(summary.roi_voxels == 0 for summary in summaries):
        got, expected = "an empty region of interest in every case", "voxels to learn from"
        return [Problem("roi-empty", got, expected, "correct the masks, or leave out the roi")]
    if all(summary.foreground_outside_roi == 1.0 for summary in summaries):
        got = "all foreground outside the region of interest, in every case"
        expected, fix = "foreground to learn from", "correct the masks, or leave out the roi"
        return [Problem("roi-without-foreground", got, expected, fix)]
    return []


def _absent_classes(summaries: Sequence[CaseSummary], rules: CohortRules) -> list[Problem]:
    """A problem for every class without a voxel, once the labels of all cases can be used."""
    counts = [summary.class_voxels for summary in summaries if summary.class_voxels is not None]
    if not counts or len(counts) < len(summaries):
        return []
    return [
        Problem(
            code="class-in-no-case",
            got=f"no voxel of class {label} ({name}) in any of the {rules.title}",
            expected="every class of the model in at least one case",
            fix="check the labels and the label_map, or set 'allow_missing_classes: true'",
        )
        for label, name in enumerate(rules.classes)
        if not any(count[label] for count in counts)
    ]


def _same_images(summaries: Sequence[CaseSummary]) -> list[str]:
    first: dict[str, CaseSummary] = {}
    twins = []
    for summary in summaries:
        if summary.images is not None:
            twin = first.setdefault(summary.images, summary)
            twins += [] if twin is summary else [(summary, twin)]
    return _twin_warnings(twins, "images")


def _same_labels(summaries: Sequence[CaseSummary]) -> list[str]:
    """Warnings about cases with the labels of another, though their images differ."""
    first: dict[str, CaseSummary] = {}
    twins = []
    for summary in summaries:
        if summary.labels is not None:
            twin = first.setdefault(summary.labels, summary)
            twins += [] if twin.images == summary.images else [(summary, twin)]
    return _twin_warnings(twins, "labels")


def _twin_warnings(twins: Sequence[tuple[CaseSummary, CaseSummary]], noun: str) -> list[str]:
    """A sentence for each of the first pairs, and one for all others."""
    warnings = [
        f"{case.where}: {case.name} has the same {noun} as {twin.name} ({twin.where})"
        for case, twin in twins[:TWINS]
    ]
    more = len(twins) - TWINS
    if more > 0:
        warnings.append(f"{more} more case{'s have' if more > 1 else ' has'} the {noun} of another")
    return warnings


def _foreground_outside_rois(summaries: Sequence[CaseSummary]) -> list[str]:
    """A warning about foreground that is neither learnt nor found; all of it is told elsewhere."""
    shares = {
        summary.name: summary.foreground_outside_roi
        for summary in summaries
        if OUTSIDE_ROI <= summary.foreground_outside_roi < 1
    }
    if not shares:
        return []
    worst = max(shares, key=lambda name: shares[name])
    number = f"of {worst}" if len(shares) == 1 else f"of {worst}, less of {len(shares) - 1} others,"
    return [
        f"{shares[worst]:.0%} of the foreground {number} lies outside the region of interest, "
        "where nothing is learnt and all is background"
    ]


def _implausible_spacings(
    summaries: Sequence[CaseSummary], spacing_mm: tuple[float, float, float]
) -> list[Problem]:
    """Problems of voxels so much smaller or larger than the new ones that the unit is wrong."""
    return [
        Problem(
            code="spacing-implausible",
            got=f"{text(summary.shape)} voxels of {_mm(summary.spacing_mm)} mm",
            expected=f"voxels that can be resampled to {_mm(spacing_mm)} mm: sides that are less "
            f"than {IMPLAUSIBLE} times larger or smaller",
            fix="correct the sides in the header, whose unit may be wrong (metres, micrometres); "
            "or change preparation.resample",
            where=f"{summary.where}: {summary.name}" if summary.where else summary.name,
        )
        for summary in summaries
        if summary.shape is not None
        and summary.spacing_mm is not None
        and _ratio(summary.spacing_mm, spacing_mm) >= IMPLAUSIBLE
    ]


def _doubtful_units(
    summaries: Sequence[CaseSummary], spacing_mm: tuple[float, float, float]
) -> list[str]:
    """A warning about voxels all of whose sides are several times smaller or larger than new ones.

    So are those of a header that counts in centimetres, which NIfTI has no unit for.
    """
    doubtful = [
        summary
        for summary in summaries
        if summary.spacing_mm is not None
        and _common_ratio(summary.spacing_mm, spacing_mm) >= OTHER_UNIT
        and _ratio(summary.spacing_mm, spacing_mm) < IMPLAUSIBLE
    ]
    if not doubtful:
        return []
    first, more = doubtful[0], len(doubtful) - 1
    tail = f" and {more} more case{'s have' if more > 1 else ' has'} such voxels" if more else ""
    return [
        f"{first.name} has voxels of {_mm(first.spacing_mm or ())} mm, all sides at least "
        f"{OTHER_UNIT} times other than the {_mm(spacing_mm)} mm to which they are "
        f"resampled{tail}; correct the header if it counts in centimetres"
    ]


def _common_ratio(sides: Sequence[float], other: Sequence[float]) -> float:
    """The ratio by which all sides are smaller, or all are larger, at least."""
    ratios = [a / b for a, b in zip(sorted(sides), sorted(other), strict=True)]
    return max(min(ratios), 1 / max(ratios))


def _ratio(sides: Sequence[float], other: Sequence[float]) -> float:
    """The largest ratio of two sides, in any order of the axes."""
    pairs = zip(sorted(sides), sorted(other), strict=True)
    return max(max(a / b, b / a) for a, b in pairs)


def _mm(sides: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in sides)


def _mixed_spacings(summaries: Sequence[CaseSummary]) -> list[str]:
    """A warning about voxel sizes that are not the same in all cases."""
    spacings = np.array(
        [
            _along_the_body(summary.spacing_mm, summary.orientation)
            for summary in summaries
            if summary.spacing_mm is not None
        ]
    )
    if not len(spacings):
        return []
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    if not (high > low * (1 + SAME_SPACING)).any():
        return []
    return [
        f"the voxels of the cases are from {_mm(low)} to {_mm(high)} mm large; "
        "consider the key 'resample'"
    ]


def _along_the_body(
    spacing_mm: tuple[float, float, float], orientation: str | None
) -> tuple[float, float, float]:
    """Voxel sides from side to side, from back to front and from feet to head.

    >>> _along_the_body((1.0, 2.0, 3.0), "LSA")
    (1.0, 3.0, 2.0)
    """
    if orientation is None:
        return spacing_mm
    axes = (next(k for k in range(3) if orientation[k] in ends) for ends in ("LR", "AP", "IS"))
    x, y, z = (spacing_mm[axis] for axis in axes)
    return x, y, z


def _mixed_orientations(summaries: Sequence[CaseSummary]) -> list[str]:
    """A warning about orientations that are not the same in all cases."""
    counts = Counter(
        summary.orientation for summary in summaries if summary.orientation is not None
    )
    if len(counts) < 2:
        return []
    listed = ", ".join(f"{n} {letters}" for letters, n in counts.most_common())
    return [f"the axes of the cases do not point the same way: {listed}"]
