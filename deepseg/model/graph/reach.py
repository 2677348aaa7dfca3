"""From which image voxels on the values of a graph depend, exactly and for every voxel.

A graph is computed with other operators: a value is the last image voxel, counted along one axis,
on which it depends. A convolution then is the largest value of a window, a sum the larger of two
values, and an activation changes nothing. What depends on no image is minus infinity. Two images go
through side by side; in the first one signs are changed, for the first voxel.

Where several ways lead to one value, either all count, or the narrowest, which tells where the
value lies: a U-Net's deepest way sees all around, its first skip connection one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.operators import activation, arithmetic, normalisation, shapes
from deepseg.model.graph.operators.arithmetic import reduced_axes
from deepseg.model.graph.operators.call import Call, Results
from deepseg.model.graph.operators.convolution import output_padding, transposed_window
from deepseg.model.graph.operators.pooling import pooling_window
from deepseg.model.graph.operators.resizing import coordinates, resizing
from deepseg.model.graph.operators.window import SlidingWindow, sliding_window, torch_pads
from deepseg.model.graph.program import Program, Step, as_tuple

NO_VOXEL = -math.inf
_POOLS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class Reach:
    """First and last image voxel along one axis on which the voxels of a tensor depend.

    Attributes:
        first: ``(n,)`` along that axis of the tensor; infinity for one that depends on nothing.
        last: ``(n,)``
    """

    first: Tensor
    last: Tensor


def reach(
    work: Program, image: str, shape: Sequence[int], axis: int, *, is_narrow: bool = False
) -> dict[str, Reach]:
    """The reach of every output of a graph.

    Args:
        image: Name of the only input.
        shape: ``(C, X, Y, Z)`` of the image.
        axis: Along which to look, 0 for X.
        is_narrow: Whether of several ways the narrowest counts, and not all.
    """
    places = torch.arange(shape[axis + 1], dtype=torch.float32)
    form = [1] * (len(shape) + 1)
    form[axis + 2] = -1
    pair = torch.stack([-places, places]).view(2, *form[1:])
    values = {image: pair.expand(2, *shape)}
    algebra = _Algebra(is_narrow)
    for step in work.steps:
        results = as_tuple(algebra.compute(step, values, work))
        values.update(zip(step.node.outputs, results, strict=False))
        for name in step.released:
            values.pop(name, None)
    return {name: _line(algebra, values[name], axis) for name in work.graph.outputs}


def _line(algebra: _Algebra, x: Tensor, axis: int) -> Reach:
    x = algebra.over_maps(x)
    remaining = [n for n in range(2, x.ndim) if n != axis + 2]
    line = x.amax([1, *remaining]) if remaining else x.amax(1)
    return Reach(-line[0], line[1])


@dataclass(frozen=True)
class _Algebra:
    """Sums and windows of reaches."""

    is_narrow: bool

    def compute(self, step: Step, values: Mapping[str, Tensor], work: Program) -> Results:
        """The results of a node."""
        call = Call(step.node, self._inputs(step, values, work), work.graph.opset)
        if step.is_host or step.node.operator in _NATURAL:
            return step.operator.compute(call)
        function = _FUNCTIONS.get(step.node.operator)
        if function is not None:
            return function(self, call)
        if step.node.operator in _SIMPLE:
            return call.tensor(0)
        tensors = [x for x in call.inputs if x is not None and x.is_floating_point()]
        return reduce(self.joined, tensors)

    def _inputs(
        self, step: Step, values: Mapping[str, Tensor], work: Program
    ) -> tuple[Tensor | None, ...]:
        """Images as they are; weights, and sizes that are read as images, as nothing."""
        tensors = {**work.graph.constants, **work.graph.weights}
        inputs = []
        for place, (name, fixed) in enumerate(zip(step.node.inputs, step.fixed, strict=True)):
            is_value = step.is_host or place in step.operator.settings
            x = fixed if fixed is not None else values.get(name, tensors.get(name))
            is_image = name in values and name not in work.host
            if x is not None and x.is_floating_point() and not is_value and not is_image:
                x = torch.full((), NO_VOXEL).expand(x.shape)
            inputs.append(x)
        return tuple(inputs)

    def joined(self, x: Tensor, y: Tensor) -> Tensor:
        """All voxels on which either depends, or those of the narrower."""
        size = np.broadcast_shapes(x.shape, y.shape)
        if len(size) > 1 and _is_slim(x, size) and _is_slim(y, size):
            x, y = _slim(x), _slim(y)
        if not self.is_narrow or size[0] != 2:
            return torch.maximum(x, y).expand(size)
        shown = np.broadcast_shapes(x.shape, y.shape)
        x, y = x.expand(shown), y.expand(shown)
        return torch.where(_width(x) <= _width(y), x, y).expand(size)

    def over(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Voxels on which any value along ``axes`` depends; the axes stay, with size 1."""
        return x.amax(list(axes), keepdim=True)

    def over_maps(self, x: Tensor) -> Tensor:
        """``(2, C, …)`` to ``(2, 1, …)``: all maps together, or the narrowest of each voxel."""
        if _is_slim(x, x.shape):
            return _slim(x)
        if not self.is_narrow or x.shape[0] != 2:
            return self.over(x, [1])
        places = _width(x).argmin(1, keepdim=True)
        return x.gather(1, places.expand(2, *places.shape[1:]))


def _width(x: Tensor) -> Tensor:
    """Voxels between the first and the last; infinity for what depends on nothing."""
    width = x[:1] + x[1:]
    return width.masked_fill(width.isinf(), math.inf)


def _is_slim(x: Tensor, size: Sequence[int]) -> bool:
    """True if all maps of ``x``, seen in the shape ``size``, are one and the same."""
    return x.ndim < len(size) or x.shape[1] == 1 or x.stride(1) == 0


def _slim(x: Tensor) -> Tensor:
    return x.narrow(1, 0, 1) if x.ndim > 1 and x.shape[1] > 1 and x.stride(1) == 0 else x


def _windowed(x: Tensor, window: SlidingWindow, *, is_ceil: bool = False) -> Tensor:
    """``(2, C, …)``: all voxels on which the values in each window depend."""
    x = F.pad(x, torch_pads(window.low, window.high), value=NO_VOXEL)
    pool = _POOLS[len(window.kernel)]
    return pool(x, window.kernel, window.stride, 0, window.dilation, is_ceil)


def _convolution(algebra: _Algebra, call: Call) -> Tensor:
    x, weight = call.tensor(0), call.tensor(1)
    window = sliding_window(call.node, weight.shape[2:], x.shape[2:])
    y = _windowed(algebra.over_maps(x), window)
    return y.expand(-1, weight.shape[0], *y.shape[2:])


def _transposed_convolution(algebra: _Algebra, call: Call) -> Tensor:
    x, weight = algebra.over_maps(call.tensor(0)), call.tensor(1)
    window = transposed_window(call.node, weight.shape[2:], x.shape[2:])
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], window.stride, strict=True)]
    steps = [slice(None, None, s) for s in window.stride]
    apart = x.new_full((*x.shape[:2], *sizes), NO_VOXEL)
    apart[(slice(None), slice(None), *steps)] = x
    extra = output_padding(call.node, len(sizes))
    turned = SlidingWindow(
        kernel=window.kernel,
        stride=(1,) * len(sizes),
        dilation=window.dilation,
        low=tuple(n - 1 - cut for n, cut in zip(window.span, window.low, strict=True)),
        high=tuple(
            n - 1 - cut + more for n, cut, more in zip(window.span, window.high, extra, strict=True)
        ),
    )
    y = _windowed(apart, turned)
    return y.expand(-1, weight.shape[1] * call.node.integer("group", 1), *y.shape[2:])


def _pooling(_algebra: _Algebra, call: Call) -> Tensor:
    x = call.tensor(0)
    is_ceil = bool(call.node.integer("ceil_mode", 0))
    y = _windowed(_slim(x), pooling_window(call), is_ceil=is_ceil)
    return y.expand(-1, x.shape[1], *y.shape[2:])


def _global_pooling(algebra: _Algebra, call: Call) -> Tensor:
    x = call.tensor(0)
    return algebra.over(x, range(2, x.ndim))


def _reduction(algebra: _Algebra, call: Call) -> Tensor:
    x, axes = call.tensor(0), reduced_axes(call)
    if axes is None:
        return x
    axes = [axis % x.ndim for axis in axes]
    y = algebra.over_maps(x) if axes == [1] else algebra.over(x, axes)
    return y if call.node.integer("keepdims", 1) else y.squeeze(tuple(axes))


def _softmax(algebra: _Algebra, call: Call) -> Tensor:
    x = call.tensor(0)
    axis = call.node.integer("axis", -1 if call.opset >= 13 else 1) % x.ndim
    y = algebra.over_maps(x) if axis == 1 else algebra.over(x, [axis])
    return y.expand(x.shape)


def _layer_normalisation(algebra: _Algebra, call: Call) -> Tensor:
    x = call.tensor(0)
    axis = call.node.integer("axis", -1) % x.ndim
    return algebra.over(x, range(axis, x.ndim)).expand(x.shape)


def _concatenation(algebra: _Algebra, call: Call) -> Tensor:
    tensors = [call.tensor(n) for n in range(len(call.inputs))]
    axis = call.node.integer("axis", 1) % tensors[0].ndim
    if axis == 1 and all(_is_slim(x, x.shape) for x in tensors):
        slim = [x.narrow(1, 0, 1) for x in tensors]
        y = reduce(algebra.joined, slim)
        return y.expand(-1, sum(x.shape[1] for x in tensors), *y.shape[2:])
    return torch.cat(tensors, axis)


def _matrix_product(algebra: _Algebra, call: Call) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    return algebra.joined(algebra.over(a, [-1]), algebra.over(b, [-2]))


def _general_matrix_product(algebra: _Algebra, call: Call) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    a = a.T if call.node.integer("transA", 0) else a
    b = b.T if call.node.integer("transB", 0) else b
    return algebra.joined(algebra.over(a, [-1]), algebra.over(b, [-2]))


def _padding(_algebra: _Algebra, call: Call) -> Tensor:
    if call.node.text("mode", "constant") != "constant":
        return shapes.padding(call)
    inputs = (call.tensor(0), call.optional(1), torch.tensor(NO_VOXEL), call.optional(3))
    attributes = {**call.node.attributes, "value": NO_VOXEL}
    return shapes.padding(Call(replace(call.node, attributes=attributes), inputs, call.opset))


def _resize(_algebra: _Algebra, call: Call) -> Tensor:
    x, plan = call.tensor(0), resizing(call)
    size = plan.sizes
    x = _slim(x) if size[1] == x.shape[1] else x
    for axis in range(x.ndim):
        if axis == 1 or size[axis] == x.shape[axis]:
            continue
        places = coordinates(plan, axis, x.shape[axis])
        x = _around(x, axis, places, plan.mode, plan.rounding)
    return x.expand(size)


def _around(x: Tensor, axis: int, places: Tensor, mode: str, rounding: str) -> Tensor:
    """The larger of the voxels around each place; the nearest one for ``nearest``."""
    last = x.shape[axis] - 1
    if mode == "nearest":
        nearest = {
            "round_prefer_floor": (places - 0.5).ceil(),
            "round_prefer_ceil": (places + 0.5).floor(),
            "floor": places.floor(),
            "ceil": places.ceil(),
        }[rounding]
        return x.index_select(axis, nearest.clamp(0, last).long())
    taps = [places.floor(), places.ceil()]
    if mode == "cubic":
        taps += [places.floor() - 1, places.ceil() + 1]
    return reduce(torch.maximum, (x.index_select(axis, tap.clamp(0, last).long()) for tap in taps))


_NATURAL = (
    "Identity",
    "Split",
    "Slice",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Tile",
    "Gather",
    "Shape",
    "Size",
    "Cast",
    "CastLike",
)
_SIMPLE = {*activation.OPERATORS, *normalisation.OPERATORS} | {
    "Sqrt",
    "Exp",
    "Log",
    "Neg",
    "Abs",
    "Erf",
    "Reciprocal",
    "Floor",
    "Ceil",
    "Round",
    "Not",
}
_FUNCTIONS: dict[str, Callable[[_Algebra, Call], Results]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "GlobalAveragePool": _global_pooling,
    "GlobalMaxPool": _global_pooling,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LayerNormalization": _layer_normalisation,
    "Concat": _concatenation,
    "MatMul": _matrix_product,
    "Gemm": _general_matrix_product,
    "Pad": _padding,
    "Resize": _resize,
    "Upsample": _resize,
    **{name: _reduction for name in arithmetic.OPERATORS if name.startswith("Reduce")},
}
