"""What is wrong with many cases together, though each of them may be right.

Judged from their facts; no file is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from deepseg.data.cases.summary import CaseSummary
from deepseg.errors import Problem

SAME_SPACING = 0.01  # share by which voxel sizes may differ and still count as the same


def find_problems(
    facts: Sequence[CaseSummary],
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
    # A mask that many cases share has its faults once.
    return list(dict.fromkeys(problems)), list(dict.fromkeys(warnings))


def _channels_in_no_case(facts: Sequence[CaseSummary]) -> list[Problem]:
    missing = set.intersection(*(set(one.missing_channels) for one in facts)) if facts else set()
    return [
        Problem(
            code="channel-in-no-case",
            got=f"no image of channel {channel + 1} in any case",
            expected="every channel of the model in at least one case",
            fix="give the images, or use a model without this channel",
        )
        for channel in sorted(missing)
    ]


def _useless_rois(facts: Sequence[CaseSummary]) -> list[Problem]:
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


def _absent_classes(facts: Sequence[CaseSummary], classes: Sequence[str]) -> list[Problem]:
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


def _same_images(facts: Sequence[CaseSummary]) -> list[str]:
    first: dict[str, CaseSummary] = {}
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


def _mixed_grids(facts: Sequence[CaseSummary], *, resampled: bool) -> list[str]:
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
