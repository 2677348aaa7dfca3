"""What a segmented case has come to, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepseg.inference.metrics import Scores, mean_dice


@dataclass(frozen=True)
class CaseResult:
    """Volumes and scores of a segmented case.

    Attributes:
        name: Of the case.
        volumes_ml: What was predicted, by name of the class.
        scores: By row of the table of scores; None without a truth.
    """

    name: str
    volumes_ml: Mapping[str, float]
    scores: Mapping[str, Scores] | None = None

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice of the foreground classes in which it is defined; None without a truth."""
        return None if self.scores is None else mean_dice(self.scores, list(self.volumes_ml))
