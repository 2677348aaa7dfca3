"""Dataset of segments: every sample of a session by its place, whatever was cut before it.

Sample i of a sub-epoch is the same whoever cuts it and whenever: its randomness is counted from
the session's seed, the sub-epoch and i. Batches and processes are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.sampling import Sampling
from deepseg.data.segments.augmentation import IDENTITY, SegmentTransform, random_transform
from deepseg.data.segments.candidates import CandidateRules
from deepseg.data.segments.mapped_cases import (
    DEFAULT_LIMITS,
    MappedCase,
    MappedCases,
    MappingLimits,
)
from deepseg.data.segments.sampling import Draw, category_shares, subepoch_draws
from deepseg.data.segments.segment import Segment, cut, enclosing_lattice
from deepseg.geometry.boxes import Box, Int3
from deepseg.geometry.context import NetworkGeometry
from deepseg.randomness import Purpose, generator


@dataclass(frozen=True)
class SegmentRules:
    """Rules by which segments are drawn.

    Attributes:
        sampling: Categories and their shares.
        classes: Names of the classes.
        geometry: Where the network reads the image.
        size: Of the segments.
        segments: Of one sub-epoch.
        cases: That one sub-epoch draws from.
        augmentation: Random changes, or None.
        seed: Of the session.
        is_training: Training and validation draw different segments.
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

    @property
    def candidates(self) -> CandidateRules:
        """Rules for the voxels that segments may be centred on."""
        prediction = self.geometry.prediction(Box.around((0, 0, 0), self.size)).size
        return CandidateRules(self.sampling, len(self.classes), self.size, prediction)


class SegmentDataset(Dataset[tuple[Segment, str]]):
    """Cuts sample ``i`` of sub-epoch ``s`` for the index ``(s, i)``; gives its case's name too.

    The cases stay mapped into memory until `release`, or until the dataset is left as a context
    manager.

    Args:
        folders: Of the prepared cases.
        rules: How segments are drawn.
        limits: How many cases stay mapped.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        rules: SegmentRules,
        *,
        limits: MappingLimits = DEFAULT_LIMITS,
    ) -> None:
        self.folders = tuple(folders)
        self.rules = rules
        self._cases = MappedCases(rules.candidates, limits)
        self.counts = tuple(self._cases[folder].candidates.counts for folder in self.folders)
        self._subepoch: tuple[int, list[Draw]] | None = None  # the one used last

    def __getitem__(self, place: tuple[int, int]) -> tuple[Segment, str]:
        subepoch, index = place
        rules = self.rules
        draw = self._draws(subepoch)[index]
        case = self._cases[self.folders[draw.case]]
        purpose = Purpose.TRAINING_SEGMENT if rules.is_training else Purpose.VALIDATION_SEGMENT
        rng = generator(rules.seed, purpose, subepoch, index)
        centre = case.candidates.draw(draw.category, case.prepared.shape, rng=rng)
        segment = Box.around(centre, rules.size)
        transform = self._transform(case, segment, rng=rng)
        sample = cut(case.prepared, segment, rules.geometry, transform=transform)
        return sample, case.prepared.name

    def __enter__(self) -> SegmentDataset:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go of all files; a case that is needed again is mapped again."""
        self._cases.release()

    def without_candidates(self) -> list[str]:
        """Names of the cases from which nothing can be drawn."""
        return [
            self._cases[folder].prepared.name
            for folder, counts in zip(self.folders, self.counts, strict=True)
            if sum(counts) == 0
        ]

    def _draws(self, subepoch: int) -> list[Draw]:
        if self._subepoch is None or self._subepoch[0] != subepoch:
            rules = self.rules
            purpose = Purpose.TRAINING_PLAN if rules.is_training else Purpose.VALIDATION_PLAN
            draws = subepoch_draws(
                self.counts,
                category_shares(rules.sampling, rules.classes),
                segments=rules.segments,
                cases=rules.cases,
                rng=generator(rules.seed, purpose, subepoch),
            )
            self._subepoch = (subepoch, draws)
        return self._subepoch[1]

    def _transform(
        self, case: MappedCase, segment: Box, *, rng: np.random.Generator
    ) -> SegmentTransform:
        settings = self.rules.augmentation
        if settings is None:
            return IDENTITY
        lattices = () if settings.elastic is None else self.rules.geometry.lattices(segment)
        return random_transform(
            settings,
            channels=len(case.prepared.channels),
            spacing_mm=case.prepared.geometry.spacing_mm,
            extent=enclosing_lattice(lattices) if lattices else None,
            rng=rng,
        )
