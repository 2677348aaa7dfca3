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

SAME_SPACING = 0.01  # share by which voxel sizes may differ and still count as the same


@dataclass(frozen=True)
class CohortRules:
    """Purpose of the cases that are used together.

    Attributes:
        classes: Names of the model's classes, the background first.
        needs_labels: The cases are for training, not for testing.
        allow_missing_classes: A class without a voxel in any case is only a warning.
        resampled: All cases are brought to one voxel size.
        title: Name of these cases for people: ``training cases``.
    """

    classes: Sequence[str]
    needs_labels: bool
    allow_missing_classes: bool = False
    resampled: bool = False
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
    problems += _channels_in_no_case(summaries)
    if rules.needs_labels:
        problems += _useless_rois(summaries)
        absent = _absent_classes(summaries, rules)
        if rules.allow_missing_classes:
            warnings += [problem.got for problem in absent]
        else:
            problems += absent
    warnings += _same_images(summaries)
    warnings += _mixed_grids(summaries, resampled=rules.resampled)
    # A mask that many cases share has its faults once.
    return list(dict.fromkeys(problems)), list(dict.fromkeys(warnings))


def _channels_in_no_case(summaries: Sequence[CaseSummary]) -> list[Problem]:
    missing = (
        set.intersection(*(set(summary.missing_channels) for summary in summaries))
        if summaries
        else set()
    )
    return [
        Problem(
            code="channel-in-no-case",
            got=f"no image of channel {channel + 1} in any case",
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
    warnings = []
    for summary in summaries:
        if summary.images is None:
            continue
        twin = first.setdefault(summary.images, summary)
        if twin is not summary:
            warnings.append(
                f"{summary.where}: {summary.name} has the same images as {twin.name} ({twin.where})"
            )
    return warnings


def _mixed_grids(summaries: Sequence[CaseSummary], *, resampled: bool) -> list[str]:
    """Warnings about voxel sizes and orientations that are not the same in all cases."""
    warnings = []
    spacings = np.array(
        [summary.spacing_mm for summary in summaries if summary.spacing_mm is not None]
    )
    if len(spacings) and not resampled:
        low, high = spacings.min(axis=0), spacings.max(axis=0)
        if (high > low * (1 + SAME_SPACING)).any():
            smallest, largest = (" x ".join(f"{mm:.3g}" for mm in end) for end in (low, high))
            warnings.append(
                f"the voxels of the cases are from {smallest} to {largest} mm large; "
                "consider the key 'resample'"
            )
    counts = Counter(
        summary.orientation for summary in summaries if summary.orientation is not None
    )
    if len(counts) > 1:
        listed = ", ".join(f"{n} {letters}" for letters, n in counts.most_common())
        warnings.append(f"the axes of the cases do not point the same way: {listed}")
    return warnings
