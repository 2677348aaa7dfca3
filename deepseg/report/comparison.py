"""Sessions side by side: groups of seeds, their best and last scores, and when they reach one.

Numbers only: where the scores come from is not known here, and `comparison_picture` draws them.
Larger scores are better; epochs count from 1, and 0 is what a model could do before training.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = ("session", "best", "last", "reached", "epochs", "steps", "s/epoch")


@dataclass(frozen=True)
class Run:
    """One session.

    Attributes:
        folder: Where it lies.
        seed: From which its randomness follows.
        scores: Score by epoch, of the epochs that were judged; at least one.
        epochs: How many it has finished.
        steps_per_epoch: Batches it learns from in an epoch.
        seconds: What all its epochs took.
    """

    folder: str
    seed: int
    scores: Mapping[int, float]
    epochs: int
    steps_per_epoch: int
    seconds: float

    @property
    def best(self) -> float:
        """The highest score."""
        return max(self.scores.values())

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest score."""
        return min(epoch for epoch, score in self.scores.items() if score == self.best)

    @property
    def last(self) -> float:
        """The score of the last epoch that was judged."""
        return self.scores[max(self.scores)]

    def first_epoch_with(self, score: float) -> int | None:
        """The first epoch with at least this score; None if there was none."""
        return min((epoch for epoch, own in self.scores.items() if own >= score), default=None)


@dataclass(frozen=True)
class RunGroup:
    """Sessions that differ in their seed only."""

    name: str
    runs: tuple[Run, ...]

    @property
    def common_epochs(self) -> tuple[int, ...]:
        """Epochs in which all its sessions were judged."""
        first, *others = (run.scores.keys() for run in self.runs)
        return tuple(sorted(set(first).intersection(*others)))


def weakest_best(groups: Sequence[RunGroup]) -> float:
    """The best score, a mean over seeds, of the group in which it is lowest, cut to 3 digits.

    All groups come about as far, so that the epochs that they take to it tell them apart.
    """
    means = [statistics.fmean(run.best for run in group.runs) for group in groups]
    return math.floor(min(means) * 1000) / 1000


def comparison_rows(groups: Sequence[RunGroup], reach: float) -> list[list[str]]:
    """Cells under `COLUMNS`: a row for each group and, below it, one for each of several seeds."""
    return [row for group in groups for row in _rows(group, reach)]


def _rows(group: RunGroup, reach: float) -> list[list[str]]:
    runs = group.runs
    if len(runs) == 1:
        return [_row(f"{group.name}, seed {runs[0].seed}", runs[0], reach)]
    mean = [
        group.name,
        _spread([run.best for run in runs]),
        _spread([run.last for run in runs]),
        _reached(group, reach),
        _mean([run.epochs for run in runs]),
        _mean([run.steps_per_epoch for run in runs]),
        _mean([run.seconds / run.epochs for run in runs]),
    ]
    return [mean, *(_row(f"  seed {run.seed}", run, reach) for run in runs)]


def _row(name: str, run: Run, reach: float) -> list[str]:
    reached = run.first_epoch_with(reach)
    return [
        name,
        f"{run.best:.3f}",
        f"{run.last:.3f}",
        "never" if reached is None else str(reached),
        str(run.epochs),
        str(run.steps_per_epoch),
        _mean([run.seconds / run.epochs]),
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def _mean(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f}".removesuffix(".0")


def _reached(group: RunGroup, reach: float) -> str:
    epochs = _epochs_to(group, reach)
    if not epochs:
        return "never"
    some = "" if len(epochs) == len(group.runs) else f" ({len(epochs)}/{len(group.runs)})"
    return _mean(epochs) + some


def _epochs_to(group: RunGroup, reach: float) -> list[int]:
    """Of the sessions that reach the score."""
    first = [run.first_epoch_with(reach) for run in group.runs]
    return [epoch for epoch in first if epoch is not None]


def comparison_record(groups: Sequence[RunGroup], *, metric: str, reach: float) -> dict[str, Any]:
    """Everything that is compared, for programs."""
    return {
        "metric": metric,
        "reach": reach,
        "groups": [_group_record(group, reach) for group in groups],
    }


def _group_record(group: RunGroup, reach: float) -> dict[str, Any]:
    epochs = _epochs_to(group, reach)
    return {
        "name": group.name,
        "best": _moments(group, lambda run: run.best),
        "last": _moments(group, lambda run: run.last),
        "epochs_to_reach": {
            "mean": statistics.fmean(epochs) if epochs else None,
            "sessions": len(epochs),
        },
        "sessions": [_run_record(run, reach) for run in group.runs],
    }


def _moments(group: RunGroup, value: Callable[[Run], float]) -> dict[str, float | None]:
    values = [value(run) for run in group.runs]
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def _run_record(run: Run, reach: float) -> dict[str, Any]:
    return {
        "folder": run.folder,
        "seed": run.seed,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "last": run.last,
        "epochs_to_reach": run.first_epoch_with(reach),
        "epochs": run.epochs,
        "steps_per_epoch": run.steps_per_epoch,
        "seconds": run.seconds,
        "scores": {str(epoch): score for epoch, score in sorted(run.scores.items())},
    }


def comparison_csv(groups: Sequence[RunGroup]) -> str:
    """Every score on a line of its own: group, folder, seed, epoch, score."""
    rows = [
        [group.name, run.folder, run.seed, epoch, f"{score:.6g}"]
        for group in groups
        for run in group.runs
        for epoch, score in sorted(run.scores.items())
    ]
    text = io.StringIO()
    heads = ["group", "folder", "seed", "epoch", "score"]
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()
