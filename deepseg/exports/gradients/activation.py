"""Activations with the way back of their gradients; at 0 they bend as torch's do."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

from deepseg.exports.gradients.arithmetic import add, multiply, reshape, summed_to, total
from deepseg.exports.gradients.tape import Tape, Variable

ELU_ALPHA = 1.0
SELU_ALPHA, SELU_SCALE = 1.67326319217681884765625, 1.05070102214813232421875  # of ONNX and torch
GELU_CUBE = 0.044715  # of ONNX and torch


def relu(tape: Tape, x: Variable) -> Variable:
    """``max(0, x)``."""
    y = tape.call("Relu", [x], x.shape)
    return tape.record(y, (x, lambda g: _choice(tape, _is_positive(tape, x), g, _zero(tape))))


def prelu(tape: Tape, x: Variable, slope: Variable) -> Variable:
    """``max(0, x) + slope min(0, x)``, with a slope that broadcasts as ONNX lets it.

    Runtimes are quicker with these sums and products than with PRelu and Where.
    """
    above = tape.call("Relu", [x], x.shape)
    below = tape.call("Min", [x, _zero(tape)], x.shape)
    y = tape.call("Add", [above, _times(tape, below, slope)], x.shape)

    def back_to_input(g: Variable) -> Variable:
        is_positive = tape.call("Cast", [_is_positive(tape, x)], x.shape, to="float32")
        rise = tape.call("Sub", [tape.constant(1.0), slope], slope.shape)
        slopes = tape.call("Add", [_times(tape, is_positive, rise), slope], x.shape)
        return _times(tape, g, slopes)

    def back_to_slope(g: Variable) -> Variable:
        return summed_to(tape, _times(tape, g, below), slope.shape)

    return tape.record(y, (x, back_to_input), (slope, back_to_slope))


def leaky_relu(tape: Tape, x: Variable, slope: float) -> Variable:
    """``max(0, x) + slope min(0, x)`` with a fixed slope."""
    y = tape.call("LeakyRelu", [x], x.shape, alpha=slope)

    def back(g: Variable) -> Variable:
        steep = tape.call("Mul", [g, tape.constant(slope)], x.shape)
        return _choice(tape, _is_positive(tape, x), g, steep)

    return tape.record(y, (x, back))


def elu(tape: Tape, x: Variable, alpha: float = ELU_ALPHA) -> Variable:
    """``x`` where it is positive, ``alpha (exp(x) - 1)`` elsewhere."""
    y = tape.call("Elu", [x], x.shape, alpha=alpha)
    return tape.record(y, (x, lambda g: _exponential_back(tape, x, g, 1.0, alpha)))


def selu(tape: Tape, x: Variable, alpha: float = SELU_ALPHA, scale: float = SELU_SCALE) -> Variable:
    """An ELU times ``scale``."""
    y = tape.call("Selu", [x], x.shape, alpha=alpha, gamma=scale)
    return tape.record(y, (x, lambda g: _exponential_back(tape, x, g, scale, scale * alpha)))


def gelu(tape: Tape, x: Variable) -> Variable:
    """``x P(x)`` with the distribution P of a normal number, as torch's without approximation."""
    turned = tape.call("Erf", [_scaled(tape, x, 2**-0.5)], x.shape)
    share = _scaled(tape, tape.call("Add", [turned, tape.constant(1.0)], x.shape), 0.5)
    y = _times(tape, x, share)

    def back(g: Variable) -> Variable:
        exponent = _scaled(tape, tape.call("Mul", [x, x], x.shape), -0.5)
        density = _scaled(tape, tape.call("Exp", [exponent], x.shape), (2 * pi) ** -0.5)
        slope = tape.call("Add", [share, _times(tape, x, density)], x.shape)
        return _times(tape, g, slope)

    return tape.record(y, (x, back))


def gelu_by_tanh(tape: Tape, x: Variable) -> Variable:
    """`gelu` with ``P(x) = (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``."""
    cube = multiply(tape, multiply(tape, x, x), multiply(tape, x, tape.constant(GELU_CUBE)))
    inner = multiply(tape, add(tape, x, cube), tape.constant((2 / pi) ** 0.5))
    double = add(tape, tanh(tape, inner), tape.constant(1.0))
    return multiply(tape, multiply(tape, x, tape.constant(0.5)), double)


def clipped(tape: Tape, x: Variable, low: float, high: float) -> Variable:
    """``x`` between two bounds, either of which may be infinite."""
    lowest, highest = tape.constant(low), tape.constant(high)
    y = tape.call("Clip", [x, lowest, highest], x.shape)

    def back(g: Variable) -> Variable:
        above = tape.call("GreaterOrEqual", [x, lowest], x.shape, dtype="bool")
        below = tape.call("LessOrEqual", [x, highest], x.shape, dtype="bool")
        inside = tape.call("And", [above, below], x.shape, dtype="bool")
        return _choice(tape, inside, g, _zero(tape))

    return tape.record(y, (x, back))


def sigmoid(tape: Tape, x: Variable) -> Variable:
    """``1 / (1 + exp(-x))``."""
    y = tape.call("Sigmoid", [x], x.shape)
    return tape.record(y, (x, lambda g: _times(tape, g, _slope_of_sigmoid(tape, y))))


def tanh(tape: Tape, x: Variable) -> Variable:
    """The hyperbolic tangent."""
    y = tape.call("Tanh", [x], x.shape)

    def back(g: Variable) -> Variable:
        square = tape.call("Mul", [y, y], y.shape)
        return _times(tape, g, tape.call("Sub", [tape.constant(1.0), square], y.shape))

    return tape.record(y, (x, back))


def softplus(tape: Tape, x: Variable) -> Variable:
    """``log(1 + exp(x))``."""
    y = tape.call("Softplus", [x], x.shape)
    return tape.record(y, (x, lambda g: _times(tape, g, tape.call("Sigmoid", [x], x.shape))))


def exponential(tape: Tape, x: Variable) -> Variable:
    """``exp(x)``."""
    y = tape.call("Exp", [x], x.shape)
    return tape.record(y, (x, lambda g: _times(tape, g, y)))


def square_root(tape: Tape, x: Variable) -> Variable:
    """The square root."""
    y = tape.call("Sqrt", [x], x.shape)

    def back(g: Variable) -> Variable:
        return tape.call("Div", [_times(tape, g, tape.constant(0.5)), y], x.shape)

    return tape.record(y, (x, back))


def softmax(tape: Tape, x: Variable, axis: int) -> Variable:
    """Probabilities along an axis."""
    y = tape.call("Softmax", [x], x.shape, axis=axis)

    def back(g: Variable) -> Variable:
        common = total(tape, _times(tape, g, y), (axis,))
        return _times(tape, y, tape.call("Sub", [g, common], y.shape))

    return tape.record(y, (x, back))


def dropped(tape: Tape, x: Variable, mask: Variable, scale: float = 1.0) -> Variable:
    """``x`` where ``mask`` is 1 and 0 where it is 0, times ``scale``."""
    y = multiply(tape, x, mask)
    return y if scale == 1.0 else multiply(tape, y, tape.constant(scale))


def slopes_per_map(tape: Tape, slope: Variable, axes: int) -> Variable:
    """``(C,)`` slopes in the shape in which ONNX broadcasts them to maps of so many axes."""
    return reshape(tape, slope, (slope.shape[0], *(1,) * (axes - 2)))


def _exponential_back(tape: Tape, x: Variable, g: Variable, above: float, below: float) -> Variable:
    """The gradient of a line for positive values and an exponential for the others."""
    low = tape.call("Exp", [tape.call("Min", [x, _zero(tape)], x.shape)], x.shape)
    slope = tape.call("Mul", [low, tape.constant(below)], x.shape)
    return _times(tape, g, _choice(tape, _is_positive(tape, x), tape.constant(above), slope))


def _slope_of_sigmoid(tape: Tape, y: Variable) -> Variable:
    rest = tape.call("Sub", [tape.constant(1.0), y], y.shape)
    return tape.call("Mul", [y, rest], y.shape)


def _is_positive(tape: Tape, x: Variable) -> Variable:
    return tape.call("Greater", [x, _zero(tape)], x.shape, dtype="bool")


def _choice(tape: Tape, condition: Variable, yes: Variable, no: Variable) -> Variable:
    return tape.call("Where", [condition, yes, no], condition.shape)


def _times(tape: Tape, a: Variable, b: Variable) -> Variable:
    return tape.call("Mul", [a, b], a.shape)


def _scaled(tape: Tape, x: Variable, factor: float) -> Variable:
    return tape.call("Mul", [x, tape.constant(factor)], x.shape)


def _zero(tape: Tape) -> Variable:
    return tape.constant(0.0)


POINTWISE: dict[str, Callable[[Tape, Variable], Variable]] = {
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Softplus": softplus,
    "Exp": exponential,
    "Sqrt": square_root,
}
"""Operators without settings that change every value by itself."""
