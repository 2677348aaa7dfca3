"""Random segments, which depend on the seed and their number only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.on_device.cases import Case
from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.segments import segment_inputs, segment_labels

MASKS, SEGMENTS = 1, 2  # of the purposes of random numbers


@dataclass(frozen=True)
class Candidates:
    """Voxels of a case that segments may be centred on, by flat index."""

    foreground: NDArray[np.int64]
    background: NDArray[np.int64]


def candidates(case: Case, plan: Mapping[str, Any]) -> Candidates:
    """Labelled voxels in the region of interest whose prediction lies inside the image."""
    allowed = case.labels >= 0
    if case.roi is not None:
        allowed &= case.roi
    for axis, (n, s, p) in enumerate(
        zip(case.labels.shape, plan["segment"], plan["prediction"], strict=True)
    ):
        start = np.arange(n) - (s - 1) // 2 + (s - p) // 2
        fits = (start >= 0) & (start + p <= n) if p <= n else np.arange(n) == n // 2
        allowed &= fits.reshape([-1 if a == axis else 1 for a in range(3)])
    is_object = case.labels > 0
    return Candidates(np.flatnonzero(allowed & is_object), np.flatnonzero(allowed & ~is_object))


class Sampler:
    """Random segments of cases, half of them centred on foreground.

    Args:
        cases: For training.
        manifest: Of the network.
        seed: Of the segments.
    """

    def __init__(self, cases: Sequence[Case], manifest: Mapping[str, Any], seed: int) -> None:
        self._plan, self._masks, self._seed = manifest["train"], manifest["masks"], seed
        pairs = [(case, candidates(case, self._plan)) for case in cases]
        self._pairs = [p for p in pairs if p[1].foreground.size + p[1].background.size]
        if not self._pairs:
            raise DeviceError(
                "device-case", "no labelled voxel in the first part", "some", "add cases"
            )

    def batch(self, number: int) -> dict[str, NDArray[Any]]:
        """Inputs, labels and masks of a batch, which depend on its number only."""
        samples = [self._sample(number, n) for n in range(self._plan["batch"])]
        arrays: dict[str, NDArray[Any]] = {
            name: np.stack([sample[name] for sample in samples]) for name in samples[0]
        }
        rng = np.random.default_rng([self._seed, MASKS, number])
        for name, mask in self._masks.items():
            arrays[name] = (rng.random(mask["shape"]) < mask["share"]).astype(np.float32)
        return arrays

    def _sample(self, batch: int, number: int) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng([self._seed, SEGMENTS, batch, number])
        case, voxels = self._pairs[int(rng.integers(len(self._pairs)))]
        preferred = voxels.foreground if rng.random() < 0.5 else voxels.background
        pool = (
            preferred if preferred.size else np.concatenate([voxels.foreground, voxels.background])
        )
        flat = int(pool[int(rng.integers(pool.size))])
        centre = np.array(np.unravel_index(flat, case.labels.shape))
        start = centre - (np.array(self._plan["segment"]) - 1) // 2
        labels = segment_labels(case, start, self._plan).astype(np.int64)
        return {**segment_inputs(case, start, self._plan), "y": labels}
