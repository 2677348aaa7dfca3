"""Convolutions and transposed convolutions of one, two and three axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.graph import GraphNode, node_error
from deepseg.model.graph.operators.call import Call, Operator
from deepseg.model.graph.operators.window import (
    SlidingWindow,
    border_refusal,
    per_axis,
    sliding_window,
    torch_pads,
)

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: torch.conv1d,
    2: torch.conv2d,
    3: torch.conv3d,
}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}


def convolution(call: Call) -> Tensor:
    """``(N, C, …)`` to ``(N, F, …)`` with a kernel ``(F, C / group, …)``."""
    x, weight = call.tensor(0), call.tensor(1)
    window = sliding_window(call.node, weight.shape[2:], x.shape[2:])
    low = window.low
    if not window.is_symmetric:
        x = F.pad(x, torch_pads(window.low, window.high))
        low = (0,) * len(low)
    return _of_axes(call.node, _CONVOLUTIONS, weight)(
        x,
        weight,
        call.optional(2),
        window.stride,
        low,
        window.dilation,
        call.node.integer("group", 1),
    )


def transposed_convolution(call: Call) -> Tensor:
    """``(N, C, …)`` to ``(N, F, …)`` with a kernel ``(C, F / group, …)``."""
    x, weight = call.tensor(0), call.tensor(1)
    window = transposed_window(call.node, weight.shape[2:], x.shape[2:])
    extra = output_padding(call.node, weight.ndim - 2)
    function = _of_axes(call.node, _TRANSPOSED, weight)
    group = call.node.integer("group", 1)
    is_plain = window.is_symmetric and min(window.low) >= 0
    low = window.low if is_plain else (0,) * len(extra)
    y = function(x, weight, call.optional(2), window.stride, low, extra, group, window.dilation)
    if is_plain:
        return y
    return F.pad(y, torch_pads([-n for n in window.low], [-n for n in window.high]))


def output_padding(node: GraphNode, axes: int) -> list[int]:
    """Voxels added after the last one of a transposed convolution's result."""
    return per_axis(node, "output_padding", axes, 0)


def transposed_window(node: GraphNode, kernel: Sequence[int], size: Sequence[int]) -> SlidingWindow:
    """The window of a transposed convolution, whose borders are taken off its result."""
    axes = len(kernel)
    bare = GraphNode(
        node.operator,
        node.inputs,
        node.outputs,
        {k: v for k, v in node.attributes.items() if k not in ("auto_pad", "pads")},
        node.name,
    )
    window = sliding_window(bare, kernel, size)
    auto = node.text("auto_pad", "NOTSET")
    shape = node.integers("output_shape")
    if shape is None and auto in ("NOTSET", "VALID"):
        pads = [0] * 2 * axes if auto == "VALID" else per_axis(node, "pads", 2 * axes, 0)
        return _with_borders(window, pads[:axes], pads[axes:])
    if shape is None:
        shape = [n * s for n, s in zip(size, window.stride, strict=True)]
    extra = output_padding(node, axes)
    totals = [
        (n - 1) * s + more + span - wished
        for n, s, more, span, wished in zip(
            size, window.stride, extra, window.span, shape[-axes:], strict=True
        )
    ]
    less, more = [n // 2 for n in totals], [n - n // 2 for n in totals]
    low, high = (less, more) if auto == "SAME_UPPER" else (more, less)
    return _with_borders(window, low, high)


def _with_borders(window: SlidingWindow, low: Sequence[int], high: Sequence[int]) -> SlidingWindow:
    return SlidingWindow(window.kernel, window.stride, window.dilation, tuple(low), tuple(high))


def _of_axes(
    node: GraphNode, functions: dict[int, Callable[..., Tensor]], weight: Tensor
) -> Callable[..., Tensor]:
    function = functions.get(weight.ndim - 2)
    if function is None:
        raise node_error(node, f"a kernel of {weight.ndim} axes", "3 to 5")
    return function


OPERATORS = {
    "Conv": Operator(convolution, border_refusal),
    "ConvTranspose": Operator(transposed_convolution, border_refusal),
}
