"""The voxels of a case that segments may be centred on, by category, kept beside the prepared case.

A category is what segments are centred on: foreground and background, every class, or anything in
the region of interest. Which voxels of a case belong to a category is worked out once; a draw then
reads a single index.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseg.config.blocks.sampling import Sampling
from deepseg.data.case_cache import mappings_of
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Int3, text
from deepseg.storage.atomic import replacing


@dataclass(frozen=True)
class CandidateRules:
    """Rules by which voxels become candidates.

    Attributes:
        sampling: Which categories there are.
        classes: Number of classes.
        segment: Size of the segments.
        prediction: Size of what is predicted from them.
    """

    sampling: Sampling
    classes: int
    segment: Int3
    prediction: Int3

    @property
    def file_name(self) -> str:
        """Beginning of the names of the files that candidates are kept in."""
        sizes = f"{text(self.segment)}-{text(self.prediction)}".replace(" ", "")
        return f"{self.sampling.type}-{self.classes}-{sizes}"


@dataclass(frozen=True)
class Candidates:
    """The voxels of one case that segments may be centred on, by category.

    Attributes:
        voxels: Flat indices into the image (C order), category after category.
        ends: ``(categories,)``: where each category ends in ``voxels``.
        running_weight: None if all voxels of a category are equally likely, else the running sum of
            weights over ``voxels``, starting anew in each category.

    >>> candidates = Candidates(voxels=np.array([4, 5, 9]), ends=np.array([2, 3]))
    >>> candidates.counts
    (2, 1)
    >>> candidates.draw(1, (2, 2, 4), rng=np.random.default_rng(0))
    (1, 0, 1)
    """

    voxels: NDArray[np.integer]
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
            weight = self.running_weight[begin:end]
            position = begin + int(np.searchsorted(weight, rng.random() * weight[-1], side="right"))
        x, y, z = np.unravel_index(int(self.voxels[min(position, end - 1)]), shape)
        return int(x), int(y), int(z)


def find_candidates(case: PreparedCase, rules: CandidateRules) -> Candidates:
    """The voxels of ``case`` on which a segment may be centred.

    Centres keep the prediction inside the image where the image is large enough. Weight maps, where
    the case has them, replace labels and ROI altogether.
    """
    allowed = _centres_inside(case.shape, rules.segment, rules.prediction)
    if case.weights is None:
        masks = _category_masks(case, rules)
        voxels = [_flat_indices(allowed & mask) for mask in masks]
        running_weight: NDArray[np.float64] | None = None
    else:
        voxels = [_flat_indices(allowed & (weights != 0)) for weights in case.weights]
        sums = [
            np.cumsum(weights.ravel()[flat], dtype=np.float64)
            for weights, flat in zip(case.weights, voxels, strict=True)
        ]
        running_weight = np.concatenate(sums)
    ends = np.cumsum([len(flat) for flat in voxels])
    return Candidates(np.concatenate(voxels), ends, running_weight)


def _flat_indices(mask: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Flat indices of the voxels in ``mask``, in four bytes each where that is enough."""
    return np.flatnonzero(mask).astype(np.int32 if mask.size < 1 << 31 else np.int64)


def _category_masks(case: PreparedCase, rules: CandidateRules) -> Sequence[NDArray[np.bool_]]:
    """``(X, Y, Z)`` for each category; unlabelled voxels are only in that of the whole image."""
    everywhere = np.ones(case.shape, bool)
    inside = everywhere if case.roi is None else np.asarray(case.roi)
    if case.labels is not None and case.labels.dtype.kind == "i":  # else no label is negative
        inside = inside & (np.asarray(case.labels) >= 0)
    match rules.sampling.type:
        case "whole_image":
            return [everywhere]
        case "uniform":
            return [inside]
        case "foreground_background":
            foreground = np.asarray(case.labels) > 0
            return [foreground & inside, inside & ~foreground]
        case "per_class":
            return [(np.asarray(case.labels) == label) & inside for label in range(rules.classes)]


def _centres_inside(shape: Int3, segment: Int3, prediction: Int3) -> NDArray[np.bool_]:
    """True where a centred segment's prediction lies inside the image, or in the image's middle.

    A centre c predicts from c - (s-1)//2 + (s-p)//2 on.
    """
    axes = []
    for n, s, p in zip(shape, segment, prediction, strict=True):
        start = np.arange(n) - (s - 1) // 2 + (s - p) // 2
        axes.append((start >= 0) & (start + p <= n) if p <= n else np.arange(n) == n // 2)
    return axes[0][:, None, None] & axes[1][:, None] & axes[2]


def write_candidates(candidates: Candidates, file: Path) -> None:
    """Write ``candidates`` so that `open_candidates` maps them into memory; the ends come last."""
    arrays = {
        "voxels": candidates.voxels,
        "weights": candidates.running_weight,
        "ends": candidates.ends,
    }
    for name, array in arrays.items():
        if array is not None:
            with replacing(file.with_name(f"{file.name}-{name}.npy")) as temporary:
                np.save(temporary, array)


def open_candidates(file: Path) -> Candidates:
    """The candidates that `write_candidates` wrote, mapped into memory."""
    weights = file.with_name(f"{file.name}-weights.npy")
    return Candidates(
        voxels=np.load(file.with_name(f"{file.name}-voxels.npy"), mmap_mode="r"),
        ends=np.load(file.with_name(f"{file.name}-ends.npy")),
        running_weight=np.load(weights, mmap_mode="r") if weights.exists() else None,
    )
