"""The window of a convolution or pooling: kernel, stride, dilation and border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseg.model.graph.graph import GraphNode, node_error

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class SlidingWindow:
    """A window on every spatial axis, in voxels.

    Attributes:
        low: Voxels added in front of the first one along each axis.
        high: Voxels added after the last one.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]

    @property
    def span(self) -> tuple[int, ...]:
        """Voxels from the first to the last that the window sees, both included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_symmetric(self) -> bool:
        """True if as much is added in front as after."""
        return self.low == self.high


def sliding_window(node: GraphNode, kernel: Sequence[int], size: Sequence[int]) -> SlidingWindow:
    """The window of ``node`` on an image of ``size`` voxels; borders may depend on the size.

    >>> pool = GraphNode("MaxPool", ("x",), ("y",), {"strides": (2,), "auto_pad": "SAME_UPPER"})
    >>> sliding_window(pool, [3], [8]).high
    (1,)
    """
    auto = node.text("auto_pad", "NOTSET")
    is_fixed = auto in ("NOTSET", "VALID")
    key = (tuple(kernel), () if is_fixed else tuple(size))
    window = node.memory.get(key)
    if not isinstance(window, SlidingWindow):
        window = node.memory[key] = _window(node, kernel, size, auto)
    return window


def _window(
    node: GraphNode, kernel: Sequence[int], size: Sequence[int], auto: str
) -> SlidingWindow:
    axes = len(kernel)
    window = _unpadded(node, kernel)
    if auto in ("NOTSET", "VALID"):
        pads = [0] * 2 * axes if auto == "VALID" else per_axis(node, "pads", 2 * axes, 0)
        return SlidingWindow(*_fields(window), tuple(pads[:axes]), tuple(pads[axes:]))
    totals = [
        max((-(-n // s) - 1) * s + span - n, 0)
        for n, s, span in zip(size, window.stride, window.span, strict=True)
    ]
    less = tuple(n // 2 for n in totals)
    more = tuple(n - n // 2 for n in totals)
    low, high = (less, more) if auto == "SAME_UPPER" else (more, less)
    return SlidingWindow(*_fields(window), low, high)


def per_axis(node: GraphNode, name: str, count: int, default: int) -> list[int]:
    """An attribute with ``count`` entries, or as many times the default."""
    values = node.integers(name)
    if values is None:
        return [default] * count
    if len(values) != count:
        raise node_error(node, f"{len(values)} {name}", f"{count}")
    return values


def _unpadded(node: GraphNode, kernel: Sequence[int]) -> SlidingWindow:
    axes = len(kernel)
    stride = tuple(per_axis(node, "strides", axes, 1))
    dilation = tuple(per_axis(node, "dilations", axes, 1))
    if min((*kernel, *stride, *dilation), default=1) < 1:
        raise node_error(node, "a kernel, stride or dilation below 1", "at least 1")
    none = (0,) * axes
    return SlidingWindow(tuple(kernel), stride, dilation, none, none)


def _fields(
    window: SlidingWindow,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return window.kernel, window.stride, window.dilation


def torch_pads(low: Sequence[int], high: Sequence[int]) -> list[int]:
    """Borders in the order of ``torch.nn.functional.pad``: the last axis first.

    >>> torch_pads([1, 2], [3, 4])
    [2, 4, 1, 3]
    """
    pairs = zip(reversed(low), reversed(high), strict=True)
    return [n for pair in pairs for n in pair]


def border_refusal(node: GraphNode) -> str | None:
    """A way of adding borders that is not covered."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    return None if auto in AUTO_PADS else f"auto_pad {auto}"
