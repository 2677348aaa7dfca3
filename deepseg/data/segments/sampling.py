"""Around which voxels segments are cut: how many per case and category, and where.

A category is what segments are centred on: foreground and background, every class, or anything in
the region of interest. Which voxels of a case belong to a category is worked out once and kept
beside the prepared case; a draw then reads a single number.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseg.config.blocks.sampling import Sampling
from deepseg.data.preparation import PreparedCase, mappings_of
from deepseg.geometry.boxes import Int3
from deepseg.storage.atomic import replacing


@dataclass(frozen=True)
class Candidates:
    """The voxels of one case that segments may be centred on, by category.

    Attributes:
        voxels: Flat indices into the image (C order), category after category.
        ends: ``(categories,)``: where each category ends in ``voxels``.
        running_weight: ``None`` if all voxels of a category are equally likely, else the running
            sum of weights over ``voxels``, starting anew in each category.
    """

    voxels: NDArray[np.int64]
    ends: NDArray[np.int64]
    running_weight: NDArray[np.float64] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Voxels of each category."""
        return tuple(int(n) for n in np.diff(self.ends, prepend=0))

    def forget(self) -> None:
        """Give back the memory of what can be read from files again."""
        for mapping in mappings_of([self.voxels, self.running_weight]):
            mapping.madvise(mmap.MADV_DONTNEED)

    def draw(self, category: int, shape: Int3, *, rng: np.random.Generator) -> Int3:
        """A random voxel of ``category``, which must not be empty."""
        begin = int(self.ends[category - 1]) if category else 0
        end = int(self.ends[category])
        if self.running_weight is None:
            position = int(rng.integers(begin, end))
        else:
            part = self.running_weight[begin:end]
            position = begin + int(np.searchsorted(part, rng.random() * part[-1], side="right"))
        x, y, z = np.unravel_index(int(self.voxels[min(position, end - 1)]), shape)
        return int(x), int(y), int(z)


def category_names(sampling: Sampling, classes: Sequence[str]) -> tuple[str, ...]:
    """What the categories of a sampling type are called, in their order."""
    match sampling.type:
        case "foreground_background":
            return ("foreground", "background")
        case "per_class":
            return tuple(classes)
        case "uniform":
            return ("region of interest",)
        case "whole_image":
            return ("image",)


def shares(sampling: Sampling, classes: Sequence[str]) -> NDArray[np.float64]:
    """``(categories,)``: the wanted share of each category; they sum to 1."""
    count = len(category_names(sampling, classes))
    wanted = np.ones(count) if sampling.proportions is None else np.array(sampling.proportions)
    return np.asarray(wanted / wanted.sum(), dtype=np.float64)


def candidates(
    case: PreparedCase, sampling: Sampling, *, classes: int, segment: Int3, prediction: Int3
) -> Candidates:
    """The voxels of ``case`` on which a segment may be centred.

    Centres keep the prediction inside the image where the image is large enough. Weight maps, where
    the case has them, replace labels and ROI altogether.

    Args:
        case: The prepared case.
        sampling: Which categories there are.
        classes: Number of classes.
        segment: Size of the segment.
        prediction: Size of what is predicted from it.
    """
    allowed = _centres_inside(case.shape, segment, prediction)
    if case.weights is not None:
        maps: Sequence[NDArray[np.float32] | NDArray[np.bool_]] = list(case.weights)
    else:
        maps = _category_masks(case, sampling, classes)
    found = [np.flatnonzero(np.where(allowed, one, 0)) for one in maps]
    running = (
        None
        if case.weights is None
        else np.concatenate(
            [
                np.cumsum(one.ravel()[flat], dtype=np.float64)
                for one, flat in zip(maps, found, strict=True)
            ]
        )
    )
    return Candidates(np.concatenate(found), np.cumsum([len(flat) for flat in found]), running)


def _category_masks(
    case: PreparedCase, sampling: Sampling, classes: int
) -> list[NDArray[np.bool_]]:
    everywhere = np.ones(case.shape, bool)
    inside = everywhere if case.roi is None else np.asarray(case.roi)
    match sampling.type:
        case "whole_image":
            return [everywhere]
        case "uniform":
            return [inside]
        case "foreground_background":
            foreground = np.asarray(case.labels) > 0
            return [foreground & inside, inside & ~foreground]
        case "per_class":
            return [(np.asarray(case.labels) == label) & inside for label in range(classes)]


def _centres_inside(shape: Int3, segment: Int3, prediction: Int3) -> NDArray[np.bool_]:
    """True where a centred segment's prediction lies inside the image, or in the image's middle.

    A centre c predicts from c - (s-1)//2 + (s-p)//2 on.
    """
    axes = []
    for n, s, p in zip(shape, segment, prediction, strict=True):
        start = np.arange(n) - (s - 1) // 2 + (s - p) // 2
        axes.append((start >= 0) & (start + p <= n) if p <= n else np.arange(n) == n // 2)
    return axes[0][:, None, None] & axes[1][:, None] & axes[2]


def keep_candidates(found: Candidates, file: Path) -> None:
    """Write ``found`` so that `open_candidates` maps it into memory; the ends come last."""
    parts = {"voxels": found.voxels, "weights": found.running_weight, "ends": found.ends}
    for name, array in parts.items():
        if array is not None:
            with replacing(file.with_name(f"{file.name}-{name}.npy")) as temporary:
                np.save(temporary, array)


def open_candidates(file: Path) -> Candidates:
    """What `keep_candidates` wrote, mapped into memory."""
    weights = file.with_name(f"{file.name}-weights.npy")
    return Candidates(
        voxels=np.load(file.with_name(f"{file.name}-voxels.npy"), mmap_mode="r"),
        ends=np.load(file.with_name(f"{file.name}-ends.npy")),
        running_weight=np.load(weights, mmap_mode="r") if weights.exists() else None,
    )


@dataclass(frozen=True)
class Draw:
    """One segment to be cut: from which case, centred on which category."""

    case: int
    category: int


def subepoch_draws(
    counts: Sequence[Sequence[int]],
    wanted: NDArray[np.float64],
    *,
    segments: int,
    cases: int,
    rng: np.random.Generator,
) -> list[Draw]:
    """The segments of one sub-epoch, in the order in which they are used.

    Random cases are taken without replacement; each gives the same number of segments, left-over
    ones go to random cases. Within a case, categories get their wanted share; the share of those
    that the case lacks is spread over the others. Cases without any candidate are never taken.

    Args:
        counts: Candidates of each category, per case.
        wanted: ``(categories,)`` shares that sum to 1.
        segments: How many to draw in all.
        cases: How many cases to draw from at the most.
        rng: Source of randomness.
    """
    usable = [
        i for i, per_category in enumerate(counts) if _shares_present(per_category, wanted).any()
    ]
    chosen = rng.permutation(usable)[:cases]
    per_case = np.full(len(chosen), segments // len(chosen))
    np.add.at(per_case, rng.integers(len(chosen), size=segments % len(chosen)), 1)
    draws = []
    for case, number in zip(chosen, per_case, strict=True):
        share = _shares_present(counts[case], wanted)
        per_category = np.floor(number * share).astype(int)
        rest = int(number - per_category.sum())
        np.add.at(per_category, rng.choice(len(share), size=rest, p=share), 1)
        draws += [
            Draw(int(case), category)
            for category, times in enumerate(per_category)
            for _ in range(times)
        ]
    return [draws[i] for i in rng.permutation(len(draws))]


def _shares_present(counts: Sequence[int], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """``wanted`` with the share of empty categories spread over the others; zeros if all are."""
    share = np.where(np.array(counts) > 0, wanted, 0.0)
    if share.sum() == 0:  # the wanted categories are all missing: take what there is
        share = (np.array(counts) > 0).astype(float)
    return np.asarray(share / max(share.sum(), 1e-300), dtype=np.float64)
