"""Convolutions and transposed convolutions, whose gradients are convolutions again.

Of ``y = x * w``: the gradient of ``x`` is the transposed convolution of that of ``y``; the gradient
of ``w`` is ``x`` convolved with the gradient of ``y``, maps and batch changing places, and stride
and dilation too. Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep
learning", 2016, doi:10.48550/arXiv.1603.07285.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from deepseg.exports.gradients.arithmetic import add, per_map, reshape, total, transpose
from deepseg.exports.gradients.resampling import box
from deepseg.exports.gradients.tape import Shape, Tape, Variable
from deepseg.exports.gradients.winograd import is_suited, winograd_convolution
from deepseg.model.graph.operators.window import SlidingWindow


def plain_window(kernel: Shape) -> SlidingWindow:
    """A window of every voxel, without stride, dilation and border."""
    single, none = (1,) * len(kernel), (0,) * len(kernel)
    return SlidingWindow(tuple(kernel), single, single, none, none)


def convolution(
    tape: Tape,
    x: Variable,
    weight: Variable,
    window: SlidingWindow | None = None,
    bias: Variable | None = None,
) -> Variable:
    """``(N, C, …)`` to ``(N, F, …)`` with a kernel ``(F, C, …)``."""
    if window is None:
        window = plain_window(weight.shape[2:])
    if is_suited(weight, window):
        y = winograd_convolution(tape, x, weight, window)
        return y if bias is None else add(tape, y, per_map(tape, bias, len(y.shape)))
    size = [
        (n + low + high - span) // stride + 1
        for n, low, high, span, stride in zip(
            x.shape[2:], window.low, window.high, window.span, window.stride, strict=True
        )
    ]
    inputs = [x, weight] if bias is None else [x, weight, bias]
    shape = (x.shape[0], weight.shape[0], *size)
    y = tape.call("Conv", inputs, shape, **_attributes(window))

    def back_to_input(g: Variable) -> Variable:
        return _spread(tape, g, weight, window, x.shape)

    def back_to_weight(g: Variable) -> Variable:
        return _kernel_gradient(tape, x, g, window)

    pairs = [(x, back_to_input), (weight, back_to_weight)]
    if bias is not None:
        spatial = (0, *range(2, len(shape)))
        pairs.append((bias, lambda g: total(tape, g, spatial, keeps=False)))
    return tape.record(y, *pairs)


def transposed_convolution(
    tape: Tape,
    x: Variable,
    weight: Variable,
    window: SlidingWindow,
    size: Shape,
    bias: Variable | None = None,
) -> Variable:
    """``(N, C, …)`` to ``(N, F, *size)`` with a kernel ``(C, F, …)``."""
    shape = (x.shape[0], weight.shape[1], *size)
    y = _spread(tape, x, weight, window, shape)

    def back_to_input(g: Variable) -> Variable:
        return tape.call("Conv", [g, weight], x.shape, **_attributes(window))

    def back_to_weight(g: Variable) -> Variable:
        return _kernel_gradient(tape, g, x, window)

    tape.record(y, (x, back_to_input), (weight, back_to_weight))
    return y if bias is None else add(tape, y, per_map(tape, bias, len(y.shape)))


def _spread(
    tape: Tape, g: Variable, weight: Variable, window: SlidingWindow, shape: Shape
) -> Variable:
    """The adjoint of a convolution: maps of the size of its results to those of its input."""
    if all(n == 1 for n in window.stride):
        return _turned_convolution(tape, g, weight, window, shape)
    extra = tuple(
        n + low + high - span - stride * (m - 1)
        for n, m, low, high, span, stride in zip(
            shape[2:], g.shape[2:], window.low, window.high, window.span, window.stride, strict=True
        )
    )
    return tape.call(
        "ConvTranspose", [g, weight], shape, output_padding=extra, **_attributes(window)
    )


def _turned_convolution(
    tape: Tape, g: Variable, weight: Variable, window: SlidingWindow, shape: Shape
) -> Variable:
    """`_spread` without strides: a convolution with the kernel reversed, quicker than its like."""
    axes = len(window.kernel)
    turned = transpose(tape, _reversed(tape, weight), (1, 0, *range(2, 2 + axes)))
    wide = replace(
        window,
        low=tuple(span - 1 - low for span, low in zip(window.span, window.low, strict=True)),
        high=tuple(span - 1 - high for span, high in zip(window.span, window.high, strict=True)),
    )
    if min((*wide.low, *wide.high)) >= 0:
        return tape.call("Conv", [g, turned], shape, **_attributes(wide))
    return tape.call("ConvTranspose", [g, weight], shape, **_attributes(window))


def _reversed(tape: Tape, weight: Variable) -> Variable:
    """``weight`` read backwards along its spatial axes."""
    axes = [axis for axis, n in enumerate(weight.shape) if axis >= 2 and n > 1]
    if not axes:
        return weight
    numbers = [[-1] * len(axes), [-(1 << 62)] * len(axes), axes, [-1] * len(axes)]
    bounds = [tape.constant(values, "int64") for values in numbers]
    return tape.call("Slice", [weight, *bounds], weight.shape)


def _kernel_gradient(tape: Tape, x: Variable, g: Variable, window: SlidingWindow) -> Variable:
    """``(F, C, *kernel)`` from ``x (N, C, …)`` and ``g (N, F, …)``."""
    if x.shape[2:] == g.shape[2:] and prod(window.kernel) == 1:
        return _pointwise_kernel_gradient(tape, x, g)
    swap = (1, 0, *range(2, len(x.shape)))
    exchanged = replace(window, kernel=g.shape[2:], stride=window.dilation, dilation=window.stride)
    taps = [
        (n + low + high - span) // stride + 1
        for n, low, high, span, stride in zip(
            x.shape[2:], window.low, window.high, exchanged.span, exchanged.stride, strict=True
        )
    ]
    y = tape.call(
        "Conv",
        [transpose(tape, x, swap), transpose(tape, g, swap)],
        (x.shape[1], g.shape[1], *taps),
        **_attributes(exchanged),
    )
    return transpose(tape, box(tape, y, (0, 0, *(0,) * len(taps)), _kernel_shape(y, window)), swap)


def _pointwise_kernel_gradient(tape: Tape, x: Variable, g: Variable) -> Variable:
    """`_kernel_gradient` of a kernel of one voxel: a matrix product for every segment."""
    batch, maps, *size = x.shape
    features, voxels = g.shape[1], prod(size)
    columns = reshape(tape, g, (batch, features, voxels))
    rows = transpose(tape, reshape(tape, x, (batch, maps, voxels)), (0, 2, 1))
    products = tape.call("MatMul", [columns, rows], (batch, features, maps))
    weight = total(tape, products, (0,), keeps=False)
    return reshape(tape, weight, (features, maps, *(1 for _ in size)))


def _kernel_shape(y: Variable, window: SlidingWindow) -> Shape:
    """Without the taps that a stride left over at the end of the image."""
    return (*y.shape[:2], *window.kernel)


def _attributes(window: SlidingWindow) -> dict[str, Any]:
    return {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "dilations": window.dilation,
        "pads": (*window.low, *window.high),
    }
