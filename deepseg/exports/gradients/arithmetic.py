"""Sums, products, means and shapes, with the way back of their gradients.

Arrays broadcast as in numpy; the gradient of an array that was repeated is the sum over its copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from deepseg.exports.gradients.tape import Shape, Tape, Variable


def add(tape: Tape, a: Variable, b: Variable) -> Variable:
    """``a + b``."""
    y = tape.call("Add", [a, b], broadcast(a, b))
    return tape.record(
        y, (a, lambda g: summed_to(tape, g, a.shape)), (b, lambda g: summed_to(tape, g, b.shape))
    )


def subtract(tape: Tape, a: Variable, b: Variable) -> Variable:
    """``a - b``."""
    y = tape.call("Sub", [a, b], broadcast(a, b))
    return tape.record(
        y,
        (a, lambda g: summed_to(tape, g, a.shape)),
        (b, lambda g: summed_to(tape, negative(tape, g), b.shape)),
    )


def multiply(tape: Tape, a: Variable, b: Variable) -> Variable:
    """``a b``."""
    y = tape.call("Mul", [a, b], broadcast(a, b))
    return tape.record(
        y,
        (a, lambda g: summed_to(tape, _product(tape, g, b), a.shape)),
        (b, lambda g: summed_to(tape, _product(tape, g, a), b.shape)),
    )


def divide(tape: Tape, a: Variable, b: Variable) -> Variable:
    """``a / b``."""
    y = tape.call("Div", [a, b], broadcast(a, b))

    def back_to_divisor(g: Variable) -> Variable:
        slope = tape.call("Div", [_product(tape, g, y), b], y.shape)  # of -a / b^2
        return summed_to(tape, negative(tape, slope), b.shape)

    return tape.record(
        y,
        (a, lambda g: summed_to(tape, tape.call("Div", [g, b], y.shape), a.shape)),
        (b, back_to_divisor),
    )


def negative(tape: Tape, x: Variable) -> Variable:
    """``-x``."""
    y = tape.call("Neg", [x], x.shape)
    return tape.record(y, (x, lambda g: tape.call("Neg", [g], g.shape)))


def total(tape: Tape, x: Variable, axes: Sequence[int], *, keeps: bool = True) -> Variable:
    """The sum over ``axes``, which stay with a size of 1 unless told otherwise."""
    axes = sorted(axis % len(x.shape) for axis in axes)
    flat = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    shape = flat if keeps else tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    if not axes:
        return x
    numbers = tape.constant(axes, "int64")
    y = tape.call("ReduceSum", [x, numbers], shape, keepdims=int(keeps))
    return tape.record(y, (x, lambda g: expand(tape, reshape(tape, g, flat), x.shape)))


def mean(tape: Tape, x: Variable, axes: Sequence[int], *, keeps: bool = True) -> Variable:
    """The mean over ``axes``, which stay with a size of 1 unless told otherwise."""
    count = prod(x.shape[axis] for axis in axes)
    return multiply(tape, total(tape, x, axes, keeps=keeps), tape.constant(1 / count))


def reshape(tape: Tape, x: Variable, shape: Shape) -> Variable:
    """The values of ``x`` in another shape."""
    if shape == x.shape:
        return x
    y = tape.call("Reshape", [x, tape.constant(shape, "int64")], shape, dtype=x.dtype)
    return tape.record(y, (x, lambda g: reshape(tape, g, x.shape)))


def transpose(tape: Tape, x: Variable, order: Sequence[int]) -> Variable:
    """The axes of ``x`` in another order."""
    if list(order) == list(range(len(x.shape))):
        return x
    back = tuple(int(axis) for axis in np.argsort(order))
    shape = tuple(x.shape[axis] for axis in order)
    y = tape.call("Transpose", [x], shape, perm=tuple(order))
    return tape.record(y, (x, lambda g: transpose(tape, g, back)))


def expand(tape: Tape, x: Variable, shape: Shape) -> Variable:
    """``x`` repeated along axes of size 1 until it has ``shape``."""
    if shape == x.shape:
        return x
    y = tape.call("Expand", [x, tape.constant(shape, "int64")], shape)
    return tape.record(y, (x, lambda g: summed_to(tape, g, x.shape)))


def matrix_product(tape: Tape, a: Variable, b: Variable) -> Variable:
    """``a b`` over the last two axes; those before are broadcast."""
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = tape.call("MatMul", [a, b], (*outer, a.shape[-2], b.shape[-1]))
    return tape.record(
        y,
        (a, lambda g: summed_to(tape, matrix_product(tape, g, _turned(tape, b)), a.shape)),
        (b, lambda g: summed_to(tape, matrix_product(tape, _turned(tape, a), g), b.shape)),
    )


def summed_to(tape: Tape, x: Variable, shape: Shape) -> Variable:
    """``x`` added up over the axes along which an array of ``shape`` was repeated."""
    if x.shape == shape:
        return x
    padded = (1,) * (len(x.shape) - len(shape)) + shape
    axes = [axis for axis, n in enumerate(x.shape) if padded[axis] != n]
    return reshape(tape, total(tape, x, axes), shape)


def per_map(tape: Tape, x: Variable, axes: int) -> Variable:
    """``(C,)`` as ``(1, C, 1, …)``, to broadcast with maps of so many axes."""
    return reshape(tape, x, (1, x.shape[0], *(1,) * (axes - 2)))


def broadcast(a: Variable, b: Variable) -> Shape:
    """The shape of both arrays together."""
    return tuple(np.broadcast_shapes(a.shape, b.shape))


def _product(tape: Tape, a: Variable, b: Variable) -> Variable:
    return tape.call("Mul", [a, b], broadcast(a, b))


def _turned(tape: Tape, x: Variable) -> Variable:
    *outer, row, column = range(len(x.shape))
    return transpose(tape, x, (*outer, column, row))
