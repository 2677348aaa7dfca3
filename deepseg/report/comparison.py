"""Sessions side by side: groups of seeds, their best and last scores, and when they reach one.

Values only: where the scores come from is not known here, and `comparison_picture` draws them.
Larger scores are better; epochs count from 1, and 0 is what a model could do before training. Epoch
0 is no achievement of a session: it is never its best. Every standard deviation is that of the
sample (n - 1).
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseg.counts import counted

COLUMNS = ("session", "seeds", "start", "best", "last", "reached", "epochs", "steps", "s/epoch")


@dataclass(frozen=True)
class ScoredRun:
    """The scores of one session.

    >>> scores = {0: 0.8, 2: 0.5, 4: 0.75, 6: 0.7}
    >>> run = ScoredRun("runs/a", 0, scores, 6, steps_per_epoch=10, seconds=30)
    >>> run.start, run.best, run.best_epoch, run.last
    (0.8, 0.75, 4, 0.7)
    >>> run.first_epoch_with(0.78), run.first_epoch_with(0.9)
    (0, None)

    Attributes:
        folder: Where it lies.
        seed: The seed from which its randomness follows.
        scores: Score by epoch, of the epochs that were judged; at least one after epoch 0.
        epochs: Number of epochs that it has finished.
        steps_per_epoch: Batches it learns from in an epoch.
        seconds: Duration of all its epochs together.
        class_scores: Of its best epoch, by class; None where undefined.
        case_scores: Of its best epoch, by case and class; empty where cases were not kept apart.
    """

    folder: str
    seed: int
    scores: Mapping[int, float]
    epochs: int
    steps_per_epoch: int
    seconds: float
    class_scores: Mapping[str, float | None] = field(default_factory=dict)
    case_scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def start(self) -> float | None:
        """The score before training; None where it was not judged."""
        return self.scores.get(0)

    @property
    def best(self) -> float:
        """The highest score after training, which is that of `best.save`."""
        return max(score for epoch, score in self.scores.items() if epoch > 0)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest score."""
        best = self.best
        return min(epoch for epoch, score in self.scores.items() if epoch > 0 and score == best)

    @property
    def last(self) -> float:
        """The score of the last epoch that was judged."""
        return self.scores[max(self.scores)]

    def first_epoch_with(self, score: float) -> int | None:
        """The first epoch with at least this score; None if there was none."""
        return min(
            (epoch for epoch, reached in self.scores.items() if reached >= score), default=None
        )


@dataclass(frozen=True)
class SeedGroup:
    """Sessions that differ in their seed only.

    >>> first = ScoredRun("runs/a-seed0", 0, {2: 0.5, 4: 0.75}, 4, steps_per_epoch=10, seconds=20)
    >>> second = ScoredRun("runs/a-seed1", 1, {4: 0.5, 6: 0.6}, 6, steps_per_epoch=10, seconds=30)
    >>> SeedGroup("a", (first, second)).common_epochs
    (4,)

    Attributes:
        name: The name of the group in tables and pictures.
        runs: Its sessions, at least one.
    """

    name: str
    runs: tuple[ScoredRun, ...]

    @property
    def common_epochs(self) -> tuple[int, ...]:
        """Epochs in which all its sessions were judged."""
        judged = [set(run.scores) for run in self.runs]
        return tuple(sorted(set.intersection(*judged)))


def case_count(groups: Sequence[SeedGroup]) -> int | None:
    """Number of cases on which every session was judged; None where that is not known.

    >>> def run(*cases):
    ...     scores = {case: {"core": 0.5} for case in cases}
    ...     return ScoredRun("a", 0, {1: 0.5}, 1, 1, 1.0, case_scores=scores)
    >>> case_count([SeedGroup("a", (run("anna", "ben"),)), SeedGroup("b", (run("ben"),))])
    1
    """
    cases = [set(run.case_scores) for group in groups for run in group.runs]
    return len(set.intersection(*cases)) if all(cases) else None


def counted_cases(groups: Sequence[SeedGroup]) -> str:
    """The number of cases as tables and pictures tell it; empty where it is not known."""
    count = case_count(groups)
    if count is None:
        return ""
    return counted(count, "case")


def weakest_best(groups: Sequence[SeedGroup]) -> float:
    """The best score, a mean over seeds, of the group in which it is lowest, cut to 3 digits.

    All groups come about as far, so that the epochs that they take to it tell them apart.

    >>> def run(best):
    ...     return ScoredRun("runs/a", 0, {1: best}, 1, steps_per_epoch=1, seconds=1.0)
    >>> scratch, transferred = (run(0.5), run(0.625)), (run(0.75),)
    >>> weakest_best([SeedGroup("scratch", scratch), SeedGroup("transferred", transferred)])
    0.562
    """
    means = [statistics.fmean(run.best for run in group.runs) for group in groups]
    return math.floor(min(means) * 1000) / 1000


def comparison_rows(groups: Sequence[SeedGroup], reach: float) -> list[list[str]]:
    """Cells under `COLUMNS`: a row for each group and, below it, one for each of several seeds.

    >>> run = ScoredRun("runs/a", 3, {1: 0.5, 2: 0.75}, 2, steps_per_epoch=9, seconds=5.0)
    >>> comparison_rows([SeedGroup("a", (run,))], reach=0.6)
    [['a, seed 3', '1', '-', '0.750', '0.750', '2', '2', '9', '2.5']]
    """
    return [row for group in groups for row in _group_rows(group, reach)]


def _group_rows(group: SeedGroup, reach: float) -> list[list[str]]:
    runs = group.runs
    if len(runs) == 1:
        return [_run_row(f"{group.name}, seed {runs[0].seed}", runs[0], reach, seeds="1")]
    mean = [
        group.name,
        str(len(runs)),
        _start([run.start for run in runs]),
        _spread([run.best for run in runs]),
        _spread([run.last for run in runs]),
        _reached(group, reach),
        _mean([run.epochs for run in runs]),
        _mean([run.steps_per_epoch for run in runs]),
        _mean([run.seconds / run.epochs for run in runs]),
    ]
    return [mean, *(_run_row(f"  seed {run.seed}", run, reach) for run in runs)]


def _run_row(name: str, run: ScoredRun, reach: float, *, seeds: str = "") -> list[str]:
    reached = run.first_epoch_with(reach)
    return [
        name,
        seeds,
        _start([run.start]),
        f"{run.best:.3f}",
        f"{run.last:.3f}",
        "never" if reached is None else str(reached),
        str(run.epochs),
        str(run.steps_per_epoch),
        _mean([run.seconds / run.epochs]),
    ]


def _start(scores: Sequence[float | None]) -> str:
    """The mean score before training of those sessions that were judged then."""
    defined = [score for score in scores if score is not None]
    return f"{statistics.fmean(defined):.3f}" if defined else "-"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}±{statistics.stdev(values):.3f}"


def _mean(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f}".removesuffix(".0")


def _reached(group: SeedGroup, reach: float) -> str:
    epochs = _epochs_to(group, reach)
    if not epochs:
        return "never"
    some = "" if len(epochs) == len(group.runs) else f" ({len(epochs)}/{len(group.runs)})"
    return _mean(epochs) + some


def _epochs_to(group: SeedGroup, reach: float) -> list[int]:
    """The first epoch with the score, of each session that reaches it."""
    epochs = [run.first_epoch_with(reach) for run in group.runs]
    return [epoch for epoch in epochs if epoch is not None]


def comparison_record(groups: Sequence[SeedGroup], *, metric: str, reach: float) -> dict[str, Any]:
    """All scores and their means, for programs that read comparison.json."""
    return {
        "metric": metric,
        "reach": reach,
        "cases": case_count(groups),
        "groups": [_group_record(group, reach) for group in groups],
    }


def _group_record(group: SeedGroup, reach: float) -> dict[str, Any]:
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


def _moments(group: SeedGroup, value: Callable[[ScoredRun], float]) -> dict[str, float | None]:
    values = [value(run) for run in group.runs]
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def _run_record(run: ScoredRun, reach: float) -> dict[str, Any]:
    return {
        "folder": run.folder,
        "seed": run.seed,
        "start": run.start,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "last": run.last,
        "epochs_to_reach": run.first_epoch_with(reach),
        "epochs": run.epochs,
        "steps_per_epoch": run.steps_per_epoch,
        "seconds": run.seconds,
        "scores": {str(epoch): score for epoch, score in sorted(run.scores.items())},
        "classes": dict(run.class_scores),
        "cases": {case: dict(scores) for case, scores in run.case_scores.items()},
    }


def comparison_csv(groups: Sequence[SeedGroup]) -> str:
    """Every score on a line of its own: group, folder, seed, epoch, score.

    >>> run = ScoredRun("runs/a", 3, {1: 0.5, 2: 0.75}, 2, steps_per_epoch=9, seconds=5.0)
    >>> print(comparison_csv([SeedGroup("a", (run,))]), end="")
    group,folder,seed,epoch,score
    a,runs/a,3,1,0.5
    a,runs/a,3,2,0.75
    """
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
