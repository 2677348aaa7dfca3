"""The two graphs of a network: one step of training, and inference with the weights it is fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.gradients.activation import softmax
from deepseg.exports.gradients.loss import Moved, Rates, cross_entropy, descended
from deepseg.exports.gradients.tape import Tape, Variable
from deepseg.exports.train_step.construction import (
    Construction,
    DropoutMask,
    changing_statistics,
    learnt_names,
    values_of,
)
from deepseg.exports.train_step.imported import check_operators
from deepseg.exports.train_step.layers import logits
from deepseg.geometry.boxes import Box, Int3
from deepseg.geometry.context import Lattice
from deepseg.model.network import Network

VELOCITY = "velocity."  # before the name of a parameter
NEW = "new."  # before the name of what a step changes


@dataclass(frozen=True)
class StepGraph:
    """A graph with its inputs and outputs.

    Attributes:
        tape: Nodes and constants.
        outputs: By the names that they have outside.
        masks: Of dropout, by name.
    """

    tape: Tape
    outputs: tuple[Variable, ...]
    masks: Mapping[str, DropoutMask]


def input_name(pathway: str) -> str:
    """The input of a graph that a pathway reads.

    >>> input_name("sub1")
    'x_sub1'
    """
    return f"x_{pathway}"


def lattices(network: Network, segment: Int3) -> tuple[Lattice, ...]:
    """Points that each parallel pathway reads for a segment at the origin."""
    return network.geometry.lattices(Box((0, 0, 0), segment))


def training_step(network: Network, *, batch: int, segment: Int3) -> StepGraph:
    """The graph of one step of stochastic gradient descent.

    Args:
        network: In training mode; what is frozen stays as it is.
        batch: Segments of a step.
        segment: Their size.

    Raises:
        DeepsegError: ``train-step-operator``.
    """
    check_operators(network)
    tape = Tape()
    work = _construction(network, tape, trains=True)
    inputs = list(_inputs(tape, network, batch, segment))
    size = network.layout.prediction_size(segment)
    labels = tape.input("y", (batch, *size), "int64")
    rates = Rates.of(tape)
    weights = tape.input("class_weights", (len(network.config.classes),))
    loss = cross_entropy(tape, logits(work, network, inputs), labels, weights)
    names = learnt_names(network)
    parameters = [work[name] for name in names]
    gradients = tape.gradients(loss, parameters)
    outputs = [tape.rename(loss, "loss")]
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        velocity = tape.input(VELOCITY + name, parameter.shape)
        # As in torch, what the loss does not depend on is not pulled to 0 either.
        moved = (
            Moved(parameter, velocity)
            if gradient is None
            else descended(tape, parameter, gradient, velocity, rates)
        )
        outputs.append(tape.rename(moved.parameter, NEW + name))
        outputs.append(tape.rename(moved.velocity, NEW + VELOCITY + name))
    for name, variable in work.statistics.items():
        outputs.append(tape.rename(variable, NEW + name))
    return StepGraph(tape, tuple(outputs), work.masks)


def inference(network: Network, *, batch: int, segment: Int3) -> StepGraph:
    """The graph of the probabilities ``(N, K, X', Y', Z')``, fed with all that a step changes.

    Args:
        network: In training mode, frozen as for the step.
        batch: Segments of a call.
        segment: Their size.
    """
    tape = Tape()
    work = _construction(network, tape, trains=False)
    inputs = list(_inputs(tape, network, batch, segment))
    probabilities = softmax(tape, logits(work, network, inputs), 1)
    return StepGraph(tape, (tape.rename(probabilities, "probabilities"),), {})


def _construction(network: Network, tape: Tape, *, trains: bool) -> Construction:
    learnt = frozenset(learnt_names(network))
    changing = learnt | set(changing_statistics(network))
    return Construction(tape, values_of(network), changing, learnt, trains)


def _inputs(tape: Tape, network: Network, batch: int, segment: Int3) -> Iterator[Variable]:
    channels = len(network.config.channels)
    pathways: Sequence[Lattice] = lattices(network, segment)
    for pathway, points in zip(network.layout.pathways, pathways, strict=True):
        yield tape.input(input_name(pathway.name), (batch, channels, *points.count))


def initial_state(network: Network) -> dict[str, NDArray[Any]]:
    """All parameters and statistics by name, and a velocity of 0 for each parameter that learns."""
    values = values_of(network)
    return values | {VELOCITY + name: np.zeros_like(values[name]) for name in learnt_names(network)}
