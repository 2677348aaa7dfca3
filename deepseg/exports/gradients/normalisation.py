"""Normalisation by the statistics of the maps themselves, with the way back of its gradients.

With ``z = (x - mean) / deviation`` over n values, the gradient of ``x`` is
``(g - mean(g) - z mean(g z)) / deviation``; doi:10.48550/arXiv.1502.03167.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseg.exports.gradients.arithmetic import add, multiply, subtract
from deepseg.exports.gradients.tape import Tape, Variable


@dataclass(frozen=True)
class Statistics:
    """Mean and biased variance, and what is added to the variance before its root is taken."""

    mean: Variable
    variance: Variable
    epsilon: float


@dataclass(frozen=True)
class Normalised:
    """Values of mean 0 and deviation 1, and what they were before.

    Attributes:
        values: Of the shape of the maps.
        mean: With axes of size 1 where it is taken over them.
        variance: Biased, likewise.
    """

    values: Variable
    mean: Variable
    variance: Variable


def normalised(tape: Tape, x: Variable, axes: Sequence[int], epsilon: float) -> Normalised:
    """``(x - mean) / sqrt(variance + epsilon)`` with the statistics over ``axes``."""
    centre = _mean(tape, x, axes)
    centred = tape.call("Sub", [x, centre], x.shape)
    variance = _mean(tape, tape.call("Mul", [centred, centred], x.shape), axes)
    scale = _inverse_deviation(tape, variance, epsilon)
    z = tape.call("Mul", [centred, scale], x.shape)

    def back(g: Variable) -> Variable:
        common = _mean(tape, g, axes)
        share = _mean(tape, tape.call("Mul", [g, z], x.shape), axes)
        along = tape.call("Mul", [z, share], x.shape)
        rest = tape.call("Sub", [tape.call("Sub", [g, common], x.shape), along], x.shape)
        return tape.call("Mul", [rest, scale], x.shape)

    tape.record(z, (x, back))
    return Normalised(z, centre, variance)


def scaled(tape: Tape, x: Variable, weight: Variable, bias: Variable) -> Variable:
    """``weight x + bias``, of shapes that broadcast."""
    return add(tape, multiply(tape, x, weight), bias)


def by_fixed_statistics(
    tape: Tape, x: Variable, statistics: Statistics, weight: Variable, bias: Variable
) -> Variable:
    """``weight (x - mean) / deviation + bias``, of statistics that do not depend on ``x``.

    Args:
        tape: That is written.
        x: ``(N, C, …)``.
        statistics: In a shape that broadcasts with ``x``, as are the next two.
        weight: Times the normalised values.
        bias: Added then.
    """
    inverse = _inverse_deviation(tape, statistics.variance, statistics.epsilon)
    scale = multiply(tape, weight, inverse)
    return scaled(tape, x, scale, subtract(tape, bias, multiply(tape, statistics.mean, scale)))


def _inverse_deviation(tape: Tape, variance: Variable, epsilon: float) -> Variable:
    raised = tape.call("Add", [variance, tape.constant(epsilon)], variance.shape)
    root = tape.call("Sqrt", [raised], variance.shape)
    return tape.call("Reciprocal", [root], variance.shape)


def _mean(tape: Tape, x: Variable, axes: Sequence[int]) -> Variable:
    """The mean without a way back: what it contributes is in the formula above."""
    flat = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    return tape.call("ReduceMean", [x], flat, axes=tuple(axes), keepdims=1)
