"""Where segments come from: any one of a session by its place, whatever was cut before it.

Sample i of a sub-epoch is the same whoever cuts it and whenever: its randomness is counted from
the session's seed, the sub-epoch and i. Batches and processes are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.sampling import Sampling
from deepseg.data.segments.augmentation import IDENTITY, SegmentTransform, random_transform
from deepseg.data.segments.case_cache import MappedCase, mapped_case
from deepseg.data.segments.sampling import Draw, shares, subepoch_draws
from deepseg.data.segments.segment import Segment, box_around, cut, reach
from deepseg.geometry.boxes import Box, Int3
from deepseg.geometry.context import NetworkGeometry
from deepseg.randomness import Purpose, generator


@dataclass(frozen=True)
class SegmentRules:
    """How segments are drawn.

    Attributes:
        sampling: Categories and their shares.
        classes: Names of the classes.
        geometry: How the network looks at the image.
        size: Of the segments.
        segments: Of one sub-epoch.
        cases: That one sub-epoch draws from.
        augmentation: Random changes, or None.
        seed: Of the session.
        is_training: Training and validation draw different numbers.
    """

    sampling: Sampling
    classes: tuple[str, ...]
    geometry: NetworkGeometry
    size: Int3
    segments: int
    cases: int
    augmentation: Augmentation | None
    seed: int
    is_training: bool


class SegmentDataset(Dataset[tuple[Segment, str]]):
    """Cuts sample ``i`` of sub-epoch ``s`` when asked for ``(s, i)``."""

    def __init__(self, folders: Sequence[Path], rules: SegmentRules) -> None:
        self.folders = tuple(folders)
        self.rules = rules
        self.counts = tuple(self._opened(folder).candidates.counts for folder in self.folders)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Segment, str]:
        subepoch, index = place
        own = self.rules
        draw = self._draws(subepoch)[index]
        case = self._opened(self.folders[draw.case])
        purpose = Purpose.TRAINING_SEGMENT if own.is_training else Purpose.VALIDATION_SEGMENT
        rng = generator(own.seed, purpose, subepoch, index)
        centre = case.candidates.draw(draw.category, case.prepared.shape, rng=rng)
        segment = box_around(centre, own.size)
        moved = IDENTITY if own.augmentation is None else self._motion(case, segment, rng=rng)
        return cut(case.prepared, segment, own.geometry, moved=moved), case.prepared.name

    def without_candidates(self) -> list[str]:
        """Names of the cases from which nothing can be drawn."""
        return [
            self._opened(folder).prepared.name
            for folder, counts in zip(self.folders, self.counts, strict=True)
            if sum(counts) == 0
        ]

    def _draws(self, subepoch: int) -> list[Draw]:
        return _subepoch_draws(self.counts, self.rules, subepoch)

    def _opened(self, folder: Path) -> MappedCase:
        own = self.rules
        return mapped_case(
            folder, own.sampling, classes=len(own.classes), segment=own.size,
            prediction=own.geometry.prediction(box_around((0, 0, 0), own.size)).size,
        )  # fmt: skip

    def _motion(
        self, case: MappedCase, segment: Box, *, rng: np.random.Generator
    ) -> SegmentTransform:
        assert self.rules.augmentation is not None
        return random_transform(
            self.rules.augmentation,
            channels=len(case.prepared.channels),
            spacing_mm=case.prepared.geometry.spacing_mm,
            reach=reach(self.rules.geometry.lattices(segment)),
            rng=rng,
        )


@lru_cache(maxsize=4)
def _subepoch_draws(
    counts: tuple[tuple[int, ...], ...], rules: SegmentRules, subepoch: int
) -> list[Draw]:
    purpose = Purpose.TRAINING_PLAN if rules.is_training else Purpose.VALIDATION_PLAN
    return subepoch_draws(
        counts,
        shares(rules.sampling, rules.classes),
        segments=rules.segments,
        cases=rules.cases,
        rng=generator(rules.seed, purpose, subepoch),
    )
