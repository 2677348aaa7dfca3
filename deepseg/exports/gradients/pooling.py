"""Pooling with the way back of its gradients."""

from __future__ import annotations

from math import prod

import numpy as np

from deepseg.exports.gradients.arithmetic import mean, reshape
from deepseg.exports.gradients.tape import Shape, Tape, Variable
from deepseg.model.graph.operators.window import SlidingWindow


def max_pooling(
    tape: Tape, x: Variable, window: SlidingWindow, size: Shape, *, is_ceil: bool = False
) -> Variable:
    """Largest value of each window, ``(N, C, *size)``; of equal ones, the first gets the gradient.

    Args:
        tape: That is written.
        x: ``(N, C, …)``.
        window: Its borders count as the smallest value.
        size: Of the result, along the spatial axes.
        is_ceil: Windows that begin inside the image count, even if they end outside.
    """
    shape = (*x.shape[:2], *size)
    y, places = tape.call_several(
        "MaxPool",
        [x],
        [(shape, "float32"), (shape, "int64")],
        kernel_shape=window.kernel,
        strides=window.stride,
        dilations=window.dilation,
        pads=(*window.low, *window.high),
        ceil_mode=int(is_ceil),
    )
    count = prod(shape)

    def back(g: Variable) -> Variable:
        empty = tape.constant(np.zeros(prod(x.shape)))
        flat_places = tape.call(
            "Reshape", [places, tape.constant([count], "int64")], (count,), dtype="int64"
        )
        flat = tape.call(
            "ScatterElements",
            [empty, flat_places, reshape(tape, g, (count,))],
            empty.shape,
            axis=0,
            reduction="add",
        )
        return reshape(tape, flat, x.shape)

    return tape.record(y, (x, back))


def global_average(tape: Tape, x: Variable) -> Variable:
    """``(N, C, …)`` to ``(N, C, 1, …)``."""
    return mean(tape, x, range(2, len(x.shape)))
