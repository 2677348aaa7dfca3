"""The best model, and an early end of training, from the values in an epoch's record.

Metrics are named as in metrics.jsonl, with slashes: ``validation_volumes/dice/lesion``. ``mean``
stands for the mean of the foreground classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepseg.config.blocks.checkpoints import EarlyStopping, StopAt
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.counts import counted
from deepseg.errors import Problem, did_you_mean
from deepseg.inference.metric_registry import is_lower_better
from deepseg.inference.metrics import FOREGROUND

MEAN = "mean"
OF_SAMPLES = ("dice", "sensitivity", "precision", "specificity")
OF_VOLUMES = ("dice", "sensitivity", "precision", "hausdorff95_mm")


def best_metric(config: TrainConfig) -> str:
    """The metric by which the best model is chosen: the one named, or the Dice of validation."""
    if config.checkpoints.best is not None:
        return config.checkpoints.best
    validation = config.validation
    on_volumes = validation is not None and validation.volumes is not None
    return f"validation_{'volumes' if on_volumes else 'samples'}/dice/{MEAN}"


def stopping_metric(config: TrainConfig) -> str | None:
    """The metric that early stopping follows; None where it is off."""
    if config.early_stopping is None:
        return None
    metric = config.early_stopping.metric
    return best_metric(config) if metric is None else metric


def is_better(score: float | None, best: float | None) -> bool:
    """True if a model with this score takes the place of the best; the first that has one does.

    >>> is_better(0.7, None), is_better(0.7, 0.7), is_better(None, 0.7)
    (True, False, False)
    """
    return score is not None and (best is None or score > best)


def lower_is_better(metric: str) -> bool:
    """True for losses and distances, and for metrics that were registered so.

    >>> lower_is_better("training/loss"), lower_is_better("validation_volumes/dice/mean")
    (True, False)
    """
    section, _, measure = metric.partition("/")
    if section == "validation_volumes" and is_lower_better(measure.partition("/")[0]):
        return True
    return metric.endswith("/loss") or "/hausdorff95_mm/" in metric


def value(record: Mapping[str, Any], metric: str) -> float | None:
    """The value of ``metric`` in an epoch's record; None if it was not measured.

    >>> record = {"validation_samples": {"dice": {"foreground": 0.9, "core": 0.5, "rim": 0.7}}}
    >>> value(record, "validation_samples/dice/mean")
    0.6
    >>> value(record, "validation_volumes/dice/mean") is None
    True
    """
    section, *rest = metric.split("/", 2)
    entry: Any = record.get(section)
    for key in rest:
        if entry is None:
            return None
        entry = _mean(entry) if key == MEAN else entry[key]
    return None if entry is None else float(entry)


def score(record: Mapping[str, Any], metric: str) -> float | None:
    """The value of ``metric``, with the sign turned where lower is better.

    >>> score({"training": {"loss": 0.25}}, "training/loss")
    -0.25
    """
    measured = value(record, metric)
    return -measured if measured is not None and lower_is_better(metric) else measured


def metric_incompatibilities(config: TrainConfig, model: ModelConfig) -> Iterator[Problem]:
    """Metrics that the settings name and that no epoch will have."""
    metrics = list(_metrics(config, model))
    stopping, stop = config.early_stopping, config.stop_at
    named = {
        "checkpoints.best": config.checkpoints.best,
        "early_stopping.metric": None if stopping is None else stopping_metric(config),
        "stop_at.metric": None if stop is None else stop.metric,
    }
    for key, metric in named.items():
        if metric is not None and metric not in metrics:
            yield Problem(
                code="metric-unknown",
                got=f"{metric!r} in {key}",
                expected="a number of metrics.jsonl, such as " + ", ".join(map(repr, metrics[-3:])),
                fix="correct the name, or switch this validation on"
                + did_you_mean(metric, metrics),
            )


def patience_is_exhausted(settings: EarlyStopping, scores: Sequence[float | None]) -> bool:
    """True after ``patience`` scores in a row without improvement.

    As Keras counts; epochs without a score do not count.

    >>> settings = EarlyStopping(patience=2)
    >>> patience_is_exhausted(settings, [0.5, 0.6, None, 0.6])
    False
    >>> patience_is_exhausted(settings, [0.5, 0.6, None, 0.6, 0.4])
    True
    """
    best, waited = -float("inf"), 0
    for score_of_epoch in scores:
        if score_of_epoch is None:
            continue
        if score_of_epoch > best + settings.min_improvement:
            best, waited = score_of_epoch, 0
        else:
            waited += 1
    return waited >= settings.patience


def is_reached(settings: StopAt, record: Mapping[str, Any]) -> bool:
    """True if the epoch's metric is at least as good as asked for."""
    measured, metric = value(record, settings.metric), settings.metric
    if measured is None:
        return False
    return measured <= settings.value if lower_is_better(metric) else measured >= settings.value


def reason_to_stop(
    config: TrainConfig, record: Mapping[str, Any], scores: Sequence[float | None]
) -> str:
    """The rule by which training ends after this epoch, for people; empty if it goes on.

    Args:
        config: Settings of the session.
        record: Of the epoch.
        scores: Of all epochs, by the metric that early stopping follows.
    """
    stopping, stop = config.early_stopping, config.stop_at
    if stopping is not None and patience_is_exhausted(stopping, scores):
        metric = stopping_metric(config)
        epochs = counted(stopping.patience, "epoch that has it", "epochs that have it")
        return f"{metric} did not get better in {epochs}"
    if stop is not None and is_reached(stop, record):
        return f"{stop.metric} has reached {stop.value:g}"
    return ""


def _metrics(config: TrainConfig, model: ModelConfig) -> Iterator[str]:
    rows = (MEAN, FOREGROUND, *model.classes[1:])
    sections: dict[str, tuple[str, ...]] = {"training": OF_SAMPLES}
    if config.validation is not None and config.validation.samples is not None:
        sections["validation_samples"] = OF_SAMPLES
    for section in sections:
        yield from (f"{section}/loss", f"{section}/accuracy")
    if config.validation is not None and config.validation.volumes is not None:
        sections["validation_volumes"] = (*OF_VOLUMES, *config.validation.volumes.metrics)
    for section, measures in sections.items():
        yield from (f"{section}/{measure}/{row}" for measure in measures for row in rows)


def _mean(rows: Mapping[str, float | None]) -> float | None:
    values = [v for name, v in rows.items() if name != FOREGROUND and v is not None]
    return sum(values) / len(values) if values else None
