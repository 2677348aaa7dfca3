"""A run in a folder: steps, scores, states and a table, until the last step or the threshold."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.on_device.cases import Cases
from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.files import not_writable, replacing
from deepseg.exports.on_device.networks import Network
from deepseg.exports.on_device.sampler import Sampler
from deepseg.exports.on_device.scores import scores
from deepseg.exports.on_device.states import COUNTERS, State, write_state
from deepseg.exports.on_device.steps import Rates, training_step

COLUMNS = "step,loss,lowest_loss,dice"


@dataclass
class Run:
    """A run in a folder: the state, and what is written of it.

    Attributes:
        folder: That is locked.
        network: That learns.
        state: After the last whole step.
        stored: Step of the last state on the disk.
    """

    folder: Path
    network: Network
    state: State
    stored: int

    @property
    def step(self) -> int:
        """Steps that have been made."""
        return int(self.state["step"])

    def save(self) -> None:
        """Write the state, unless it is there already."""
        if self.step != self.stored:
            write_state(self.folder / f"state_{self.step:06d}.npz", self.state)
            self.stored = self.step

    def advance(self, loss: float, state: State) -> None:
        """Take over the result of a step."""
        lowest = min(loss, float(self.state["lowest_loss"]))
        self.state = state | {"step": np.array(self.step + 1), "lowest_loss": np.array(lowest)}

    def score(self, cases: Cases, names: Sequence[str]) -> float:
        """The mean Dice now, which may be the best so far; the network's state stays as it is."""
        dice = scores(self.network, self.state, cases, names).mean
        if dice > self.state["best_dice"]:
            self.state = self.state | {"best_dice": np.array(dice)}
        return dice


def train(
    run: Run, options: argparse.Namespace, cases: Cases, parts: Mapping[str, Sequence[str]]
) -> None:
    """Make the steps that are left, with scores, states and a table; then score the third part."""
    if run.step < options.steps:
        first = [cases.read(name) for name in parts["first"]]
        sampler = Sampler(first, run.network.manifest, options.seed)
        with Table(run.folder / "progress.csv", run.step) as table:
            for loss in _steps(run, options, sampler):
                dice = math.nan
                if options.eval_every and run.step % options.eval_every == 0:
                    dice = run.score(cases, parts["second"])
                    best = float(run.state["best_dice"])
                    print(f"Dice on the second part = {dice:.6f} max Dice = {best:.6f}", flush=True)
                table.add(run.step, loss, float(run.state["lowest_loss"]), dice)
                if options.save_every and run.step % options.save_every == 0:
                    run.save()
                if options.stop_at is not None and dice > options.stop_at:
                    print(f"stopped: Dice {dice:.6f} is above {options.stop_at:g}", flush=True)
                    break
    run.save()
    result = scores(run.network, run.state, cases, parts["third"])
    print(f"Dice on the third part = {result.mean:.6f} ({result})", flush=True)


def _steps(run: Run, options: argparse.Namespace, sampler: Sampler) -> Iterator[float]:
    """The loss of every step that is left, when it has been made."""
    rates = Rates(options.learning_rate, options.momentum, options.decay)
    weights = _class_weights(options, run.network)
    while run.step < options.steps:
        first = run.step * options.accumulate
        batches = [sampler.batch(first + n) | weights for n in range(options.accumulate)]
        before = run.state
        loss, state = training_step(run.network, run.state, batches, rates)
        _check_finite(loss, state, run)
        run.advance(loss, state)
        print(f"{run.step}: Loss is {loss:.6g} [min={run.state['lowest_loss']:.6g}]", flush=True)
        if options.verbose:
            print_changes(before, run.state)
        yield loss


def _class_weights(options: argparse.Namespace, network: Network) -> dict[str, NDArray[Any]]:
    classes = len(network.classes)
    weights = options.class_weights or [1.0] * classes
    if len(weights) != classes:
        raise DeviceError(
            "device-command",
            f"{len(weights)} --class-weights",
            f"{classes}: {', '.join(network.classes)}",
            "give one for every class",
        )
    return {"class_weights": np.array(weights, np.float32)}


def _check_finite(loss: float, state: State, run: Run) -> None:
    tensors = (v for n, v in state.items() if n not in COUNTERS)
    if math.isfinite(loss) and all(np.isfinite(value).all() for value in tensors):
        return
    raise DeviceError(
        "loss-not-finite",
        f"a loss of {loss} or weights that are not finite after step {run.step + 1}",
        "finite values",
        f"lower --learning-rate; the state of step {run.step} is kept",
        exit_code=4,
    )


def print_changes(before: State, after: State) -> None:
    """Minimum, mean and maximum of every tensor that a step has changed."""
    for name, value in after.items():
        if name not in COUNTERS and not np.array_equal(value, before[name]):
            spread = f"min {value.min():.4g} mean {value.mean():.4g} max {value.max():.4g}"
            print(f"  {name}: {spread}")


class Table:
    """The file of all steps, a row each, written as the steps are made.

    Args:
        file: Rows after ``step`` belong to a run that went another way; they are taken out.
        step: The last one that has been made.
    """

    def __init__(self, file: Path, step: int) -> None:
        try:
            rows = file.read_text("utf-8", "replace").splitlines()[1:] if file.exists() else []
        except OSError as error:
            raise not_writable(error, file) from error
        whole = [row for row in rows if re.fullmatch(r"\d+,[^,]*,[^,]*,[^,]*", row)]
        earlier = [row for row in whole if int(row.split(",")[0]) <= step]
        with replacing(file) as temporary:
            temporary.write_text("\n".join([COLUMNS, *earlier]) + "\n", "utf-8")
        self._file = file
        self._stream = file.open("a", encoding="utf-8")

    def add(self, step: int, loss: float, lowest: float, dice: float) -> None:
        """Add the row of a step; the Dice is empty where it was not computed."""
        score = "" if math.isnan(dice) else f"{dice:.9g}"
        try:
            self._stream.write(f"{step},{loss:.9g},{lowest:.9g},{score}\n")
            self._stream.flush()
        except OSError as error:
            raise not_writable(error, self._file) from error

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
