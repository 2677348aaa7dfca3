"""Pooling of one, two and three axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.graph import GraphNode, node_error
from deepseg.model.graph.operators.call import Call, Operator
from deepseg.model.graph.operators.window import (
    SlidingWindow,
    border_refusal,
    sliding_window,
    torch_pads,
)

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def pooling_window(call: Call) -> SlidingWindow:
    """The window of a pooling node on its image."""
    x = call.tensor(0)
    kernel = call.node.integers("kernel_shape")
    if kernel is None or len(kernel) != x.ndim - 2 or len(kernel) not in _MAX:
        raise node_error(call.node, f"a kernel {kernel}", f"{x.ndim - 2} sizes, at most 3")
    return sliding_window(call.node, kernel, x.shape[2:])


def max_pooling(call: Call) -> Tensor:
    """Largest value of each window; borders count as the smallest."""
    x, window = call.tensor(0), pooling_window(call)
    low = window.low
    if not window.is_symmetric or _is_wide(window):
        x = F.pad(x, torch_pads(window.low, window.high), value=-math.inf)
        low = (0,) * len(low)
    is_ceil = bool(call.node.integer("ceil_mode", 0))
    return _MAX[len(low)](x, window.kernel, window.stride, low, window.dilation, is_ceil)


def average_pooling(call: Call) -> Tensor:
    """Mean of each window, with or without the zeros of the border."""
    x, window = call.tensor(0), pooling_window(call)
    is_ceil = bool(call.node.integer("ceil_mode", 0))
    counts_border = bool(call.node.integer("count_include_pad", 0))
    function = _AVERAGE[len(window.kernel)]
    if window.is_symmetric and not _is_wide(window):
        return function(x, window.kernel, window.stride, window.low, is_ceil, counts_border)
    pads = torch_pads(window.low, window.high)
    shares = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    shares = F.pad(shares, pads, value=1.0 if counts_border else 0.0)
    y = function(F.pad(x, pads), window.kernel, window.stride, 0, is_ceil)
    return y / function(shares, window.kernel, window.stride, 0, is_ceil)


def _is_wide(window: SlidingWindow) -> bool:
    """True if the border is wider than torch's own pooling takes."""
    return any(n > k // 2 for n, k in zip(window.low, window.kernel, strict=True))


def global_average(call: Call) -> Tensor:
    """``(N, C, …)`` to ``(N, C, 1, …)``."""
    x = call.tensor(0)
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_maximum(call: Call) -> Tensor:
    """``(N, C, …)`` to ``(N, C, 1, …)``."""
    x = call.tensor(0)
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _average_refusal(node: GraphNode) -> str | None:
    if any(n != 1 for n in node.integers("dilations") or ()):
        return "a dilated window"
    return border_refusal(node)


OPERATORS = {
    "MaxPool": Operator(max_pooling, border_refusal),
    "AveragePool": Operator(average_pooling, _average_refusal),
    "GlobalAveragePool": Operator(global_average),
    "GlobalMaxPool": Operator(global_maximum),
}
