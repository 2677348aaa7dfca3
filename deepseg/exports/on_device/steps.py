"""Steps of training: runs of one graph, from state to state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.on_device.networks import Network, outputs
from deepseg.exports.on_device.states import State


@dataclass(frozen=True)
class Rates:
    """Settings of a step."""

    learning_rate: float
    momentum: float
    decay: float


STILL = Rates(learning_rate=0.0, momentum=0.0, decay=0.0)


def training_step(
    network: Network, state: State, batches: Sequence[Mapping[str, NDArray[Any]]], rates: Rates
) -> tuple[float, State]:
    """Loss and new state of a step; several batches are one large one, but for batch norm.

    A step from velocity 0 without momentum and decay leaves the gradient as the new velocity.
    """
    if len(batches) == 1:
        return _run_step(network, state, batches[0], rates)
    learnt = network.manifest["trainable"]
    losses, sums, moving = [], {name: np.zeros_like(state[name]) for name in learnt}, state
    for batch in batches:
        loss, result = _run_step(network, _at_rest(state, moving, learnt), batch, STILL)
        losses.append(loss)
        sums = {name: total + result[f"velocity.{name}"] for name, total in sums.items()}
        moving = result
    new = _at_rest(state, moving, learnt)
    for name, total in sums.items():
        slope = total / np.float32(len(batches)) + np.float32(rates.decay) * state[name]
        velocity = np.float32(rates.momentum) * state[f"velocity.{name}"] + slope
        new |= {
            name: state[name] - np.float32(rates.learning_rate) * velocity,
            f"velocity.{name}": velocity,
        }
    return float(np.mean(losses)), new


def _at_rest(state: State, moving: State, learnt: Sequence[str]) -> State:
    """The statistics of ``moving`` with the weights of ``state``, whose velocities are 0."""
    weights = {name: state[name] for name in learnt}
    return {**moving, **weights, **{f"velocity.{n}": np.zeros_like(w) for n, w in weights.items()}}


def _run_step(
    network: Network, state: State, batch: Mapping[str, NDArray[Any]], rates: Rates
) -> tuple[float, State]:
    settings = {name: np.array(value, np.float32) for name, value in vars(rates).items()}
    feeds = {**state, **batch, **settings}
    results = outputs(network.train, feeds)
    changed = {n.removeprefix("new."): value for n, value in results.items() if n != "loss"}
    return float(results["loss"]), {**state, **changed}
