"""Draws of one sub-epoch: the number of segments of each case and category, before any is cut.

Only counts of voxels are known here; the voxels are found in `deepseg.data.segments.candidates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepseg.config.blocks.sampling import Sampling


@dataclass(frozen=True)
class Draw:
    """One segment to be cut: from which case, centred on which category."""

    case: int
    category: int


def category_names(sampling: Sampling, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the categories of a sampling type, in their order.

    >>> category_names(Sampling(type="foreground_background"), ["healthy", "core", "edge"])
    ('foreground', 'background')
    >>> category_names(Sampling(type="per_class"), ["healthy", "core", "edge"])
    ('healthy', 'core', 'edge')
    """
    match sampling.type:
        case "foreground_background":
            return ("foreground", "background")
        case "per_class":
            return tuple(classes)
        case "uniform":
            return ("region of interest",)
        case "whole_image":
            return ("image",)


def category_shares(sampling: Sampling, classes: Sequence[str]) -> NDArray[np.float64]:
    """``(categories,)``: share of the segments that each category gets; they sum to 1.

    >>> three_to_one = Sampling(type="foreground_background", proportions=(3, 1))
    >>> category_shares(three_to_one, ["healthy", "lesion"])
    array([0.75, 0.25])
    """
    count = len(category_names(sampling, classes))
    shares = np.ones(count) if sampling.proportions is None else np.array(sampling.proportions)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def subepoch_draws(
    counts: Sequence[Sequence[int]],
    shares: NDArray[np.float64],
    *,
    segments: int,
    cases: int,
    rng: np.random.Generator,
) -> list[Draw]:
    """The segments of one sub-epoch, in the order in which they are used.

    Random cases are taken without replacement; each gives the same number of segments, left-over
    ones go to random cases. Within a case, categories get their shares; the share of those that the
    case lacks is spread over the others. Cases without any candidate are never taken.

    Args:
        counts: Candidates of each category, per case.
        shares: ``(categories,)``; they sum to 1.
        segments: Number of draws in all.
        cases: Number of cases to draw from at the most.
        rng: Source of randomness.
    """
    usable = np.flatnonzero(np.asarray(counts).any(axis=1))
    chosen = rng.permutation(usable)[:cases]
    per_case = np.full(len(chosen), segments // len(chosen))
    np.add.at(per_case, rng.integers(len(chosen), size=segments % len(chosen)), 1)
    draws = []
    for case, count in zip(chosen, per_case, strict=True):
        present = present_shares(counts[case], shares)
        per_category = np.floor(count * present).astype(int)
        rest = int(count - per_category.sum())
        np.add.at(per_category, rng.choice(len(present), size=rest, p=present), 1)
        draws += [
            Draw(int(case), category)
            for category, times in enumerate(per_category)
            for _ in range(times)
        ]
    return [draws[i] for i in rng.permutation(len(draws))]


def present_shares(counts: Sequence[int], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """``shares`` with that of empty categories spread over the others; zeros if all are empty.

    Where only categories without a share have voxels, these are drawn equally often.

    >>> present_shares([9, 0, 4], np.array([0.5, 0.25, 0.25])) * 3
    array([2., 0., 1.])
    >>> present_shares([0, 7], np.array([1.0, 0.0]))
    array([0., 1.])
    """
    present = np.where(np.array(counts) > 0, shares, 0.0)
    if present.sum() == 0:
        present = (np.array(counts) > 0).astype(float)
    return np.asarray(present / max(present.sum(), 1e-300), dtype=np.float64)
