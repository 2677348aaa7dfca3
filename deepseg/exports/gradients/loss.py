"""The cross-entropy of `deepseg.training.loss`, and the step of stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from deepseg.exports.gradients.activation import softmax
from deepseg.exports.gradients.tape import Tape, Variable

LOG_FLOOR = 1e-6  # of deepseg.training.loss
CLASS_AXIS = 1
UNLABELLED = -1


def cross_entropy(
    tape: Tape, logits: Variable, labels: Variable, class_weights: Variable
) -> Variable:
    """``-sum w[y] log(p[y] + 1e-6) / voxels``, a single number.

    Voxels with label -1 count nowhere; weights do not enter the denominator.

    Args:
        tape: That is written.
        logits: ``(N, K, X, Y, Z)``.
        labels: ``(N, X, Y, Z)`` int64.
        class_weights: ``(K,)``.
    """
    probabilities = softmax(tape, logits, CLASS_AXIS)
    shares = _shares(tape, labels, class_weights, logits.shape)
    raised = tape.call("Add", [probabilities, tape.constant(LOG_FLOOR)], logits.shape)
    logarithm = tape.call("Log", [raised], logits.shape)
    likelihood = tape.call("Mul", [shares, logarithm], logits.shape)
    loss = tape.call("Neg", [tape.call("ReduceSum", [likelihood], (), keepdims=0)], ())

    def back(g: Variable) -> Variable:
        slope = tape.call("Neg", [tape.call("Div", [shares, raised], logits.shape)], logits.shape)
        return tape.call("Mul", [g, slope], logits.shape)

    return tape.record(loss, (probabilities, back))


def _shares(
    tape: Tape, labels: Variable, class_weights: Variable, shape: tuple[int, ...]
) -> Variable:
    """``(N, K, X, Y, Z)``: the share of each voxel in the loss, at its own class, else 0."""
    batch, classes, *size = shape
    by_class = tape.call(
        "Reshape",
        [labels, tape.constant([batch, 1, *size], "int64")],
        (batch, 1, *size),
        dtype="int64",
    )
    numbers = tape.constant([[[[k]]] for k in range(classes)], "int64")
    is_class = tape.call("Equal", [by_class, numbers], shape, dtype="bool")
    weights = tape.call(
        "Reshape",
        [class_weights, tape.constant([1, classes, 1, 1, 1], "int64")],
        (1, classes, 1, 1, 1),
    )
    weight = tape.call("Where", [is_class, weights, tape.constant(0.0)], shape)
    is_labelled = tape.call(
        "Greater", [labels, tape.constant(UNLABELLED, "int64")], labels.shape, dtype="bool"
    )
    labelled = tape.call("Cast", [is_labelled], labels.shape, to="float32")
    voxels = tape.call("ReduceSum", [labelled], (), keepdims=0)
    return tape.call("Div", [weight, tape.call("Max", [voxels, tape.constant(1.0)], ())], shape)


@dataclass(frozen=True)
class Rates:
    """The settings of a step, single numbers that are fed."""

    learning_rate: Variable
    momentum: Variable
    decay: Variable

    @classmethod
    def of(cls, tape: Tape) -> Rates:
        """Inputs of the graph that is written."""
        return cls(*(tape.input(name, ()) for name in ("learning_rate", "momentum", "decay")))


@dataclass(frozen=True)
class Moved:
    """A parameter and its velocity after a step."""

    parameter: Variable
    velocity: Variable


def descended(
    tape: Tape, parameter: Variable, gradient: Variable, velocity: Variable, rates: Rates
) -> Moved:
    """A step as `torch.optim.SGD` makes it, with momentum and decay, without Nesterov.

    ``v ← momentum v + g + decay p``, then ``p ← p - learning_rate v``.
    """
    shape = parameter.shape
    pull = tape.call("Mul", [rates.decay, parameter], shape)
    slope = tape.call("Add", [gradient, pull], shape)
    momentum = tape.call("Mul", [rates.momentum, velocity], shape)
    fast = tape.call("Add", [momentum, slope], shape)
    way = tape.call("Mul", [rates.learning_rate, fast], shape)
    return Moved(tape.call("Sub", [parameter, way], shape), fast)
