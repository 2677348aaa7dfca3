"""The log of a session: the line of an epoch, its score, curves and event files."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.counts import counted
from deepseg.errors import DeepsegError
from deepseg.inference.metrics import FOREGROUND, Scores
from deepseg.report.console import Console
from deepseg.report.curves import write_curves
from deepseg.report.tensorboard import write_events
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.outcome import command_line
from deepseg.sessions.training.progress import flattened
from deepseg.sessions.training.timer import EpochTimer
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import SegmentScores
from deepseg.version import VERSION

WORTH_PRINTING = 0.1  # of an epoch, spent waiting
BEFORE = -1  # the epoch of what is measured before the first one


def announce(
    console: Console, title: str, warnings: Sequence[str], device: torch.device, ranks: int = 1
) -> None:
    """Print the first line of every session, what runs where, and warnings of its config files."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if ranks > 1:
        where = f"{ranks} ranks, each on {where}"
    console.say(
        f"deepseg {VERSION}: {title} on {where} ({counted(torch.get_num_threads(), 'thread')}, "
        f"torch {torch.__version__}, Python {platform.python_version()})"
    )
    for warning in warnings:
        console.warn(warning)


def log_settings(console: Console, config: TrainConfig | TestConfig) -> None:
    """Write the command line and every setting to the log file."""
    console.log(f"command: {command_line()}")
    settings = flattened(config.model_dump(mode="json"))
    console.log("\n".join(["settings:", *(f"  {key}: {value}" for key, value in settings.items())]))


def subepoch_text(
    scores: SegmentScores, classes: tuple[str, ...], *, epoch: int, number: int, of: int
) -> str:
    """Line of the log for one sub-epoch of training; epochs and sub-epochs count from 1."""
    record = scores.record(classes)
    parts = [
        f"epoch {epoch}, sub-epoch {number} of {of}: loss {scores.loss:.4f}",
        f"accuracy {record['accuracy']:.4f}",
        *(
            f"{measure} " + _values(record[measure])
            for measure in ("dice", "sensitivity", "precision", "specificity")
        ),
    ]
    return ", ".join(parts)


def case_text(case: str, scores: Mapping[str, Scores], *, epoch: int) -> str:
    """Line of the log for a case that was segmented between two epochs."""
    return f"epoch {epoch + 1}, {case}: dice " + _values(
        {name: score.dice for name, score in scores.items()}
    )


def _values(values: Mapping[str, float | None]) -> str:
    return " ".join(
        f"{name} {'-' if v is None else format(v, '.4f')}" for name, v in values.items()
    )


def epoch_record(
    epoch: int,
    timer: EpochTimer,
    optimizer: Optimizer,
    model: ModelConfig,
    training: SegmentScores,
    samples: SegmentScores | None,
    volumes: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The line of metrics.jsonl for one epoch."""
    record: dict[str, Any] = {
        "epoch": epoch,
        "seconds": round(timer.seconds, 3),
        "waited": round(timer.waited, 3),
        "core_seconds": round(timer.core_seconds, 3),
        "learning_rate": optimizer.learning_rate,
        "momentum": optimizer.momentum,
    }
    if set(optimizer.learning_rates) != {"default"}:
        record["learning_rates"] = optimizer.learning_rates
    record["training"] = training.record(model.classes)
    return record | validation_record(epoch, model, samples, volumes)


def validation_record(
    epoch: int, model: ModelConfig, samples: SegmentScores | None, volumes: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The part of an epoch's line that does not need training; all of it `BEFORE` the first."""
    record: dict[str, Any] = {"epoch": epoch}
    if samples is not None:
        record["validation_samples"] = samples.record(model.classes)
    if volumes is not None:
        record["validation_volumes"] = dict(volumes)
    return record


def schedule_score(record: Mapping[str, Any]) -> float | None:
    """The mean Dice that the plateau schedule follows: on samples, where there are any."""
    return mean_dice(record.get("validation_samples", record.get("validation_volumes")))


def mean_dice(part: Mapping[str, Any] | None) -> float | None:
    """Mean Dice of the foreground classes in a part of a record; None where there is none.

    >>> mean_dice({"dice": {"foreground": 0.9, "core": 0.5, "rim": 0.75, "absent": None}})
    0.625
    """
    if part is None:
        return None
    dice = part["dice"].items()
    defined = [value for name, value in dice if name != FOREGROUND and value is not None]
    return sum(defined) / len(defined) if defined else None


def show_progress(folder: SessionFolder, config: TrainConfig) -> None:
    """Print the scores of the last epoch, and draw the curves of all."""
    records = folder.records()
    folder.console.say(_line(records[-1], config.epochs))
    try:
        write_curves(records, folder.path / "progress.png")
        if config.tensorboard:
            write_events(records[-1], folder.path / "tensorboard")
    except DeepsegError as error:
        folder.console.warn(str(error))


def show_before(folder: SessionFolder, record: Mapping[str, Any]) -> None:
    """Print the scores of the weights before the first epoch."""
    parts = _validation_parts(record)
    if parts:
        folder.console.say(f"before training: {', '.join(parts)}")


def rates_text(rate: float, rates: Mapping[str, float]) -> str:
    """The learning rate, with the groups that have another one in brackets.

    >>> rates_text(0.001, {"default": 0.001, "head": 0.1})
    'learning rate 0.001 (head 0.1)'
    """
    groups = [f"{label} {value:.3g}" for label, value in rates.items() if value != rate]
    return f"learning rate {rate:.3g}" + (f" ({', '.join(groups)})" if groups else "")


def _line(record: Mapping[str, Any], epochs: int) -> str:
    parts = [f"epoch {record['epoch'] + 1} of {epochs}", f"loss {record['training']['loss']:.4f}"]
    rates = rates_text(record["learning_rate"], record.get("learning_rates", {}))
    parts += [*_validation_parts(record), rates, f"{record['seconds']:.0f} s"]
    waited = record.get("waited", 0.0)
    if waited > WORTH_PRINTING * record["seconds"]:
        parts.append(f"{waited:.0f} s of them waiting for segments")
    return ", ".join(parts) + (" (best so far)" if record.get("best") else "")


def _validation_parts(record: Mapping[str, Any]) -> list[str]:
    parts = []
    if "validation_samples" in record:
        parts.append(f"validation loss {record['validation_samples']['loss']:.4f}")
        parts.append(f"Dice on samples {_dice(record['validation_samples'])}")
    if "validation_volumes" in record:
        parts.append(f"Dice on volumes {_dice(record['validation_volumes'])}")
    return parts


def _dice(part: Mapping[str, Any]) -> str:
    values = part["dice"].items()
    shown = list(values) if len(part["dice"]) <= 6 else list(values)[:1]
    if len(shown) == 2:  # one class: it is the foreground
        shown = shown[1:]
    return " ".join(f"{name} {'-' if v is None else format(v, '.3f')}" for name, v in shown)
