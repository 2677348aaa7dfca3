"""What a segmented case has come to, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepseg.inference.metrics import Scores, mean_dice, summary


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


def mean_record(
    per_case: Mapping[str, Mapping[str, Scores]], measures: Sequence[str]
) -> dict[str, Any]:
    """Mean scores of segmented cases by class and, under ``cases``, the Dice of each.

    Args:
        per_case: Scores by case and class.
        measures: Names of those whose means are taken.
    """
    means = summary(per_case)
    dice = {
        case: {row: values.dice for row, values in rows.items()} for case, rows in per_case.items()
    }
    return {
        measure: {row: values[measure]["mean"] for row, values in means.items()}
        for measure in measures
    } | {"cases": dice}
