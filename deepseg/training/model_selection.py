"""Which numbers of an epoch's record decide: about the best model, and about an early end.

Metrics are named as in metrics.jsonl, with slashes: ``validation_volumes/dice/lesion``. ``mean``
stands for the mean of the foreground classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepseg.config.blocks.checkpoints import EarlyStopping, StopAt
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import Problem, did_you_mean
from deepseg.inference.metrics import FOREGROUND

MEAN = "mean"
OF_SAMPLES = ("dice", "sensitivity", "precision", "specificity")
OF_VOLUMES = ("dice", "sensitivity", "precision", "hausdorff95_mm")


def best_metric(config: TrainConfig) -> str:
    """What the best model is chosen by, where the settings do not name it."""
    if config.checkpoints.best is not None:
        return config.checkpoints.best
    validation = config.validation
    on_volumes = validation is not None and validation.volumes is not None
    return f"validation_{'volumes' if on_volumes else 'samples'}/dice/{MEAN}"


def stopping_metric(config: TrainConfig) -> str | None:
    """What early stopping follows, if it is on."""
    if config.early_stopping is None:
        return None
    own = config.early_stopping.metric
    return best_metric(config) if own is None else own


def lower_is_better(metric: str) -> bool:
    """Whether ``metric`` is a loss or a distance."""
    return metric.endswith("/loss") or "/hausdorff95_mm/" in metric


def value(record: Mapping[str, Any], metric: str) -> float | None:
    """The number called ``metric`` in an epoch's record; None if it was not measured."""
    section, *rest = metric.split("/", 2)
    found: Any = record.get(section)
    for key in rest:
        if found is None:
            return None
        found = _mean(found) if key == MEAN else found[key]
    return None if found is None else float(found)


def score(record: Mapping[str, Any], metric: str) -> float | None:
    """The same, turned so that higher is better."""
    found = value(record, metric)
    return -found if found is not None and lower_is_better(metric) else found


def metric_incompatibilities(config: TrainConfig, model: ModelConfig) -> Iterator[Problem]:
    """Metrics that the settings name and that no epoch will have."""
    known = list(_metrics(config, model))
    stopping, stop = config.early_stopping, config.stop_at
    named = {
        "checkpoints.best": config.checkpoints.best,
        "early_stopping.metric": None if stopping is None else stopping_metric(config),
        "stop_at.metric": None if stop is None else stop.metric,
    }
    for key, metric in named.items():
        if metric is not None and metric not in known:
            yield Problem(
                code="metric-unknown",
                got=f"{metric!r} in {key}",
                expected="a number of metrics.jsonl, such as "
                + ", ".join(repr(one) for one in known[-3:]),
                fix=f"correct the name, or switch this validation on{did_you_mean(metric, known)}",
            )


def patience_is_exhausted(settings: EarlyStopping, scores: Sequence[float | None]) -> bool:
    """Whether as many scores in a row as there is patience were no improvement.

    As Keras counts; epochs without a score do not count.
    """
    best, waited = -float("inf"), 0
    for one in scores:
        if one is None:
            continue
        if one > best + settings.min_improvement:
            best, waited = one, 0
        else:
            waited += 1
    return waited >= settings.patience


def is_reached(settings: StopAt, record: Mapping[str, Any]) -> bool:
    """Whether the epoch's metric is at least as good as asked for."""
    found = value(record, settings.metric)
    if found is None:
        return False
    return found <= settings.value if lower_is_better(settings.metric) else found >= settings.value


def _metrics(config: TrainConfig, model: ModelConfig) -> Iterator[str]:
    rows = (MEAN, FOREGROUND, *model.classes[1:])
    sections = {"training": OF_SAMPLES}
    if config.validation is not None and config.validation.samples is not None:
        sections["validation_samples"] = OF_SAMPLES
    for section in sections:
        yield from (f"{section}/loss", f"{section}/accuracy")
    if config.validation is not None and config.validation.volumes is not None:
        sections["validation_volumes"] = OF_VOLUMES
    for section, measures in sections.items():
        yield from (f"{section}/{measure}/{row}" for measure in measures for row in rows)


def _mean(rows: Mapping[str, float | None]) -> float | None:
    own = [one for name, one in rows.items() if name != FOREGROUND and one is not None]
    return sum(own) / len(own) if own else None
