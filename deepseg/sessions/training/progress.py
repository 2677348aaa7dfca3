"""The progress of a training session, as its model files remember it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from deepseg.config.training import TrainConfig
from deepseg.report.console import Console
from deepseg.sessions.outcome import command_line
from deepseg.storage.save_file import file_sha256
from deepseg.training.model_selection import best_metric, is_better, stopping_metric
from deepseg.training.optimization import Optimizer
from deepseg.version import VERSION

# on what is learnt
WITHOUT_EFFECT = (
    *("model", "workers", "output", "cache", "tensorboard", "report", "checkpoints.seconds"),
    "training.cases.only",  # whose cases are compared themselves
)
ENDING = ("early_stopping", "stop_at")
RATES = ("optimiser", "schedule", "steps")


@dataclass(frozen=True)
class StartFile:
    """The file of the model with which a session began.

    Attributes:
        file: Its whole path.
        sha256: Of its content; empty for DeepMedic's checkpoints, which are several files.
    """

    file: str
    sha256: str


def start_file(path: Path | None) -> StartFile | None:
    """Record of the file with which a session begins; None where the model was in no file."""
    if path is None:
        return None
    return StartFile(str(path.resolve()), file_sha256(path) if path.is_file() else "")


@dataclass(frozen=True)
class Progress:
    """Epochs and scores so far.

    >>> progress = Progress().after(0.5, candidate=0.7).after(0.6, candidate=0.65)
    >>> progress.epoch, progress.scores, progress.best
    (2, (0.5, 0.6), 0.7)

    Attributes:
        epoch: Epochs finished; the index of the next one.
        subepoch: Sub-epochs of the next epoch that are finished too.
        scores: Validation score of every epoch that schedules follow, None where it had none.
        best: The best score so far of those that models are chosen by; higher is better.
        watched: Score of every epoch that early stopping follows.
        end: Why training ended before its last epoch; empty while it goes on.
        slowing: Factor of the learning rates of the schedule.
        start: The file with which the session began; None where that is not known.
        cases: Stamps of its cases, as `session_cases` gives them.
    """

    epoch: int = 0
    subepoch: int = 0
    scores: tuple[float | None, ...] = ()
    best: float | None = None
    watched: tuple[float | None, ...] = ()
    end: str = ""
    slowing: float = 1.0
    start: StartFile | None = None
    cases: Mapping[str, Any] = field(default_factory=dict)

    def after(
        self, score: float | None, candidate: float | None, watched: float | None = None
    ) -> Progress:
        """The progress when one more epoch has ended with these scores."""
        return replace(
            self,
            epoch=self.epoch + 1,
            subepoch=0,
            scores=(*self.scores, score),
            best=candidate if is_better(candidate, self.best) else self.best,
            watched=(*self.watched, watched),
        )

    def state_dict(self, config: TrainConfig, optimizer: Optimizer) -> dict[str, Any]:
        """The training state in a model file, from which the session can go on."""
        return {
            "session": config.name,
            "command": command_line(),
            "settings": _plain(config),
            "epoch": self.epoch,
            "subepoch": self.subepoch,
            "scores": list(self.scores),
            "best": self.best,
            "best_metric": best_metric(config),
            "watched": list(self.watched),
            "watched_metric": stopping_metric(config),
            "end": self.end,
            "slowing": self.slowing,
            "start": None if self.start is None else vars(self.start),
            "cases": self.cases,
            "optimizer": optimizer.state_dict(),
            "machine": machine_facts(next(iter(optimizer.weights.values())).device),
        }


def restored(
    training: Mapping[str, Any] | None, config: TrainConfig, optimizer: Optimizer, console: Console
) -> Progress:
    """The progress from which a session goes on; none, if it has not begun.

    Settings that changed since the last epoch are named in a warning and hold from now on.
    """
    if training is None:
        return Progress()
    old, new = flattened(training["settings"]), flattened(_plain(config))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key not in WITHOUT_EFFECT:
            console.warn(f"{key} changed since the last epoch: {old.get(key)} → {new.get(key)}")
    facts = machine_facts(next(iter(optimizer.weights.values())).device)
    for key, value in facts.items():
        before = training["machine"].get(key, value)  # older files know less
        if before != value:
            console.warn(f"{key} was {before} and is {value}: results differ in the last digits")
    if training["optimizer"]["name"] == config.optimiser.name:
        optimizer.load_state_dict(training["optimizer"])
    else:
        console.warn(f"a new {config.optimiser.name} optimiser begins without the state of the old")
    same_best = training.get("best_metric", best_metric(config)) == best_metric(config)
    same_watch = training.get("watched_metric") == stopping_metric(config)
    same_end, same_rates = (
        all(training["settings"].get(key) == _plain(config).get(key) for key in keys)
        for keys in (ENDING, RATES)
    )
    return Progress(
        epoch=training["epoch"],
        subepoch=training.get("subepoch", 0),
        scores=tuple(training["scores"]),
        best=training["best"] if same_best else None,
        watched=tuple(training.get("watched", ())) if same_watch else (),
        end=training.get("end", "") if same_end else "",
        slowing=training.get("slowing", 1.0) if same_rates else 1.0,
        start=None if training.get("start") is None else StartFile(**training["start"]),
        cases=training.get("cases", {}),
    )


def _plain(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested settings, each under its whole key.

    >>> flattened({"training": {"batch_size": 4}, "seed": 1})
    {'training.batch_size': 4, 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def machine_facts(device: torch.device) -> dict[str, str]:
    """The facts on which the last digits of results depend."""
    return {
        "deepseg": VERSION,
        "torch": str(torch.__version__),  # a plain str: only such may be read back
        "device": device.type,
        "threads": str(torch.get_num_threads()),
        "ranks": str(dist.get_world_size() if dist.is_initialized() else 1),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processors": str(os.cpu_count()),
    }
