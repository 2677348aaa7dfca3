"""Every operator of imported networks that a step of training is written for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseg.exports.gradients import activation, arithmetic, pooling, resampling
from deepseg.exports.gradients.convolution import convolution, transposed_convolution
from deepseg.exports.gradients.normalisation import (
    Statistics,
    by_fixed_statistics,
    normalised,
    scaled,
)
from deepseg.exports.gradients.tape import Shape, Tape, Variable
from deepseg.exports.train_step.construction import Construction
from deepseg.model.graph.graph import AttributeValue, GraphNode
from deepseg.model.graph.operators.arithmetic import reduced_axes
from deepseg.model.graph.operators.call import Call
from deepseg.model.graph.operators.convolution import output_padding, transposed_window
from deepseg.model.graph.operators.normalisation import EPSILON
from deepseg.model.graph.operators.pooling import average_pooling, max_pooling, pooling_window
from deepseg.model.graph.operators.resizing import axis_matrix, resizing
from deepseg.model.graph.operators.shapes import OPERATORS as OF_SHAPES
from deepseg.model.graph.operators.shapes import border_places
from deepseg.model.graph.operators.window import sliding_window


@dataclass(frozen=True)
class Translated:
    """A node and its inputs, as they are in the graph that is written.

    Attributes:
        work: That is written.
        call: The node with inputs of which only settings have values, for shapes and settings.
        inputs: Tensors of the graph, or values; None where one is left out.
        label: Of the node, for masks.
    """

    work: Construction
    call: Call
    inputs: tuple[Variable | Tensor | None, ...]
    label: str

    @property
    def tape(self) -> Tape:
        """The graph that is written."""
        return self.work.tape

    @property
    def node(self) -> GraphNode:
        """The node that is translated."""
        return self.call.node

    def x(self, place: int = 0) -> Variable:
        """An input as a tensor of the graph."""
        value = self.inputs[place]
        if isinstance(value, Variable):
            return value
        assert value is not None
        return self.tape.constant(value.numpy())

    def optional(self, place: int) -> Variable | None:
        """An input as a tensor of the graph; None if it is left out."""
        absent = place >= len(self.inputs) or self.inputs[place] is None
        return None if absent else self.x(place)


Results: TypeAlias = Variable | tuple[Variable, ...]
Translation: TypeAlias = Callable[[Translated], Results]


def covered_setting(node: GraphNode) -> str | None:
    """A setting of a node for which no gradient is written, in words; None if there is none."""
    if node.operator == "AveragePool" and node.integer("ceil_mode", 0):
        return "ceil_mode"
    if node.operator == "ConvTranspose" and node.attributes.get("output_shape"):
        return "output_shape"
    return None


def _pointwise(function: Callable[[Tape, Variable], Variable]) -> Translation:
    return lambda do: function(do.tape, do.x())


def _binary(function: Callable[[Tape, Variable, Variable], Variable]) -> Translation:
    return lambda do: function(do.tape, do.x(0), do.x(1))


def _sum(do: Translated) -> Variable:
    y = do.x(0)
    for place in range(1, len(do.inputs)):
        y = arithmetic.add(do.tape, y, do.x(place))
    return y


def _power(do: Translated) -> Variable:
    """A fixed power: ``p x^(p - 1)`` is its slope."""
    x, exponent = do.x(0), do.x(1)
    tape = do.tape
    y = tape.call("Pow", [x, exponent], x.shape)
    less = tape.call("Sub", [exponent, tape.constant(1.0)], exponent.shape)

    def back(g: Variable) -> Variable:
        slope = tape.call("Mul", [tape.call("Pow", [x, less], x.shape), exponent], x.shape)
        return tape.call("Mul", [g, slope], x.shape)

    return tape.record(y, (x, back))


def _convolution(do: Translated) -> Variable:
    x, weight, bias = do.x(0), do.x(1), do.optional(2)
    window = sliding_window(do.node, weight.shape[2:], x.shape[2:])
    groups = do.node.integer("group", 1)
    parts = _in_groups(do.tape, x, 1, groups), _in_groups(do.tape, weight, 0, groups)
    biases = [None] * groups if bias is None else _in_groups(do.tape, bias, 0, groups)
    maps = [
        convolution(do.tape, part, kernel, window, shift)
        for part, kernel, shift in zip(*parts, biases, strict=True)
    ]
    return resampling.joined(do.tape, maps, 1)


def _transposed_convolution(do: Translated) -> Variable:
    x, weight, bias = do.x(0), do.x(1), do.optional(2)
    window = transposed_window(do.node, weight.shape[2:], x.shape[2:])
    extra = output_padding(do.node, len(window.kernel))
    size = tuple(
        (n - 1) * stride + more + span - low - high
        for n, stride, more, span, low, high in zip(
            x.shape[2:], window.stride, extra, window.span, window.low, window.high, strict=True
        )
    )
    groups = do.node.integer("group", 1)
    parts = _in_groups(do.tape, x, 1, groups), _in_groups(do.tape, weight, 0, groups)
    maps = [
        transposed_convolution(do.tape, part, kernel, window, size)
        for part, kernel in zip(*parts, strict=True)
    ]
    y = resampling.joined(do.tape, maps, 1)
    if bias is None:
        return y
    return arithmetic.add(do.tape, y, arithmetic.per_map(do.tape, bias, len(y.shape)))


def _in_groups(tape: Tape, x: Variable, axis: int, groups: int) -> list[Variable]:
    n = x.shape[axis] // groups
    shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
    starts = (tuple(g * n if a == axis else 0 for a in range(len(shape))) for g in range(groups))
    return [resampling.box(tape, x, start, shape) for start in starts]


def _batch_normalisation(do: Translated) -> Variable:
    x, axes = do.x(0), len(do.x(0).shape)
    epsilon = do.node.number("epsilon", EPSILON)
    weight, bias = (arithmetic.per_map(do.tape, do.x(place), axes) for place in (1, 2))
    if not do.call.trains:
        mean, variance = (arithmetic.per_map(do.tape, do.x(place), axes) for place in (3, 4))
        return by_fixed_statistics(do.tape, x, Statistics(mean, variance, epsilon), weight, bias)
    over = (0, *range(2, axes))
    result = normalised(do.tape, x, over, epsilon)
    count = prod(x.shape) / x.shape[1]
    unbiased = arithmetic.multiply(
        do.tape, result.variance, do.tape.constant(count / max(count - 1, 1))
    )
    for place, batch in ((3, result.mean), (4, unbiased)):
        _update_running(do, do.x(place), arithmetic.reshape(do.tape, batch, (x.shape[1],)))
    return scaled(do.tape, result.values, weight, bias)


def _update_running(do: Translated, old: Variable, batch: Variable) -> None:
    """``momentum old + (1 - momentum) batch``."""
    share = do.node.number("momentum", 0.9)
    parts = (
        do.tape.call("Mul", [value, do.tape.constant(part)], old.shape)
        for value, part in ((old, share), (batch, 1 - share))
    )
    do.work.statistics[old.name] = do.tape.call("Add", list(parts), old.shape)


def _instance_normalisation(do: Translated) -> Variable:
    x, axes = do.x(0), len(do.x(0).shape)
    result = normalised(do.tape, x, range(2, axes), do.node.number("epsilon", EPSILON))
    weight, bias = (arithmetic.per_map(do.tape, do.x(place), axes) for place in (1, 2))
    return scaled(do.tape, result.values, weight, bias)


def _group_normalisation(do: Translated) -> Variable:
    x, tape = do.x(0), do.tape
    groups = do.node.integer("num_groups", 0)
    within = (x.shape[0], groups, prod(x.shape[1:]) // groups)
    result = normalised(
        tape, arithmetic.reshape(tape, x, within), (2,), do.node.number("epsilon", EPSILON)
    )
    values = arithmetic.reshape(tape, result.values, x.shape)
    weight, bias = do.x(1), do.x(2)
    if do.call.opset < 21:
        owners = [n * groups // x.shape[1] for n in range(x.shape[1])]
        weight, bias = (resampling.chosen(tape, w, 0, owners) for w in (weight, bias))
    axes = len(x.shape)
    return scaled(
        tape, values, arithmetic.per_map(tape, weight, axes), arithmetic.per_map(tape, bias, axes)
    )


def _layer_normalisation(do: Translated) -> Variable:
    x, bias = do.x(0), do.optional(2)
    first = do.node.integer("axis", -1) % len(x.shape)
    over = range(first, len(x.shape))
    result = normalised(do.tape, x, over, do.node.number("epsilon", EPSILON))
    y = arithmetic.multiply(do.tape, result.values, do.x(1))
    return y if bias is None else arithmetic.add(do.tape, y, bias)


def _leaky_relu(do: Translated) -> Variable:
    return activation.leaky_relu(do.tape, do.x(), do.node.number("alpha", 0.01))


def _elu(do: Translated) -> Variable:
    return activation.elu(do.tape, do.x(), do.node.number("alpha", 1.0))


def _selu(do: Translated) -> Variable:
    alpha = do.node.number("alpha", activation.SELU_ALPHA)
    return activation.selu(do.tape, do.x(), alpha, do.node.number("gamma", activation.SELU_SCALE))


def _gelu(do: Translated) -> Variable:
    by_tanh = do.node.text("approximate", "none") == "tanh"
    function = activation.gelu_by_tanh if by_tanh else activation.gelu
    return function(do.tape, do.x())


def _clip(do: Translated) -> Variable:
    low = do.call.number("min", 1, float("-inf"))
    high = do.call.number("max", 2, float("inf"))
    return activation.clipped(do.tape, do.x(), low, high)


def _softmax(do: Translated) -> Variable:
    return activation.softmax(do.tape, do.x(), do.node.integer("axis", -1))


def _dropout(do: Translated) -> Variable:
    if not do.call.trains:
        return do.x()
    share = 1 - do.call.number("ratio", 1, 0.5)
    return activation.dropped(
        do.tape, do.x(), do.work.mask(do.label, do.x().shape, share), 1 / share
    )


def _max_pooling(do: Translated) -> Variable:
    size = tuple(max_pooling(do.call).shape[2:])
    is_ceil = bool(do.node.integer("ceil_mode", 0))
    return pooling.max_pooling(do.tape, do.x(), pooling_window(do.call), size, is_ceil=is_ceil)


def _average_pooling(do: Translated) -> Variable:
    """The mean of a window is one along each axis after the other."""
    y, window = do.x(), pooling_window(do.call)
    counts_border = do.node.integer("count_include_pad", 0)
    for axis, kernel in enumerate(window.kernel):
        attributes: dict[str, AttributeValue] = {
            "kernel_shape": (kernel,),
            "strides": (window.stride[axis],),
            "pads": (window.low[axis], window.high[axis]),
            "count_include_pad": counts_border,
        }
        node = GraphNode("AveragePool", ("x",), ("y",), attributes)
        units = torch.eye(y.shape[axis + 2]).unsqueeze(1)
        matrix = average_pooling(Call(node, (units,), do.call.opset)).squeeze(1).T
        y = resampling.along_axis(do.tape, y, axis + 2, _array(matrix))
    return y


def _resize(do: Translated) -> Variable:
    y, plan = do.x(), resizing(do.call)
    for axis, (n, size) in enumerate(zip(do.x().shape, plan.sizes, strict=True)):
        if n != size:
            matrix = _array(axis_matrix(do.call, axis))
            y = _on_grid(do.tape, y, axis, matrix)
    return y


def _on_grid(tape: Tape, x: Variable, axis: int, matrix: NDArray[Any]) -> Variable:
    """One axis on another grid, by numbers of voxels where each is a copy of one."""
    if np.array_equal(matrix.max(1), matrix.sum(1)) and (matrix.max(1) == 1).all():
        return resampling.chosen(tape, x, axis, [int(n) for n in matrix.argmax(1)])
    return resampling.along_axis(tape, x, axis, matrix)


def _concatenation(do: Translated) -> Variable:
    parts = [do.x(place) for place in range(len(do.inputs))]
    return resampling.joined(do.tape, parts, do.node.integer("axis", 1))


def _split(do: Translated) -> tuple[Variable, ...]:
    x, axis = do.x(), do.node.integer("axis", 0) % len(do.x().shape)
    sizes = do.call.integers("split", 1)
    if sizes is None:
        count = do.node.integer("num_outputs", len(do.node.outputs))
        whole = -(-x.shape[axis] // count)
        sizes = [min(whole, x.shape[axis] - n) for n in range(0, x.shape[axis], whole)]
    begins = np.cumsum([0, *sizes[:-1]])
    return tuple(
        resampling.chosen(do.tape, x, axis, range(int(begin), int(begin) + size))
        for begin, size in zip(begins, sizes, strict=True)
    )


def _slice(do: Translated) -> Variable:
    y = do.x()
    starts, ends = do.call.integers("starts", 1) or [], do.call.integers("ends", 2) or []
    axes = do.call.integers("axes", 3) or list(range(len(starts)))
    steps = do.call.integers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(*slice(start, end, step).indices(y.shape[axis]))
        y = resampling.chosen(do.tape, y, axis, places)
    return y


def _padding(do: Translated) -> Variable:
    y, axes = do.x(), do.call.integers("axes", 3) or list(range(len(do.x().shape)))
    pads = do.call.integers("pads", 1) or []
    low, high = [0] * len(y.shape), [0] * len(y.shape)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        low[axis], high[axis] = before, after
    mode = do.node.text("mode", "constant")
    if mode == "constant":
        return resampling.with_border(do.tape, y, low, high, do.call.number("value", 2, 0.0))
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        if before or after:
            places = border_places(mode, y.shape[axis], before, after).tolist()
            y = resampling.chosen(do.tape, y, axis, places)
    return y


def _gather(do: Translated) -> Variable:
    """Entries of one axis; a single number takes the axis away."""
    x, axis = do.x(), do.node.integer("axis", 0) % len(do.x().shape)
    places = do.call.tensor(1)
    flat = [int(n) % x.shape[axis] for n in places.reshape(-1).tolist()]
    y = resampling.chosen(do.tape, x, axis, flat)
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return arithmetic.reshape(do.tape, y, shape)


def _mean(do: Translated) -> Variable:
    return _reduction(do, arithmetic.mean)


def _total(do: Translated) -> Variable:
    return _reduction(do, arithmetic.total)


def _reduction(do: Translated, function: Callable[..., Variable]) -> Variable:
    axes = reduced_axes(do.call)
    if axes is None:
        return do.x()
    return function(do.tape, do.x(), axes, keeps=bool(do.node.integer("keepdims", 1)))


def _reciprocal(do: Translated) -> Variable:
    return arithmetic.divide(do.tape, do.tape.constant(1.0), do.x())


def _transpose(do: Translated) -> Variable:
    order = do.node.integers("perm")
    axes = range(len(do.x().shape))
    return arithmetic.transpose(do.tape, do.x(), list(reversed(axes)) if order is None else order)


def _moved(do: Translated) -> Variable:
    """The values in the shape that the operator gives them, in the same order."""
    return arithmetic.reshape(do.tape, do.x(), _shape_by(do))


def _expand(do: Translated) -> Variable:
    return arithmetic.expand(do.tape, do.x(), _shape_by(do))


def _shape_by(do: Translated) -> Shape:
    """The shape of the result of an operator that moves values, as torch computes it."""
    result = OF_SHAPES[do.node.operator].compute(do.call)
    assert isinstance(result, Tensor)
    return tuple(result.shape)


def _identity(do: Translated) -> Variable:
    return do.x()


def _array(matrix: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = matrix.numpy()
    return array


OPERATORS: dict[str, Translation] = {
    **{name: _pointwise(function) for name, function in activation.POINTWISE.items()},
    "Add": _binary(arithmetic.add),
    "Sub": _binary(arithmetic.subtract),
    "Mul": _binary(arithmetic.multiply),
    "Div": _binary(arithmetic.divide),
    "MatMul": _binary(arithmetic.matrix_product),
    "Neg": _pointwise(arithmetic.negative),
    "GlobalAveragePool": _pointwise(pooling.global_average),
    "Sum": _sum,
    "Pow": _power,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "BatchNormalization": _batch_normalisation,
    "InstanceNormalization": _instance_normalisation,
    "GroupNormalization": _group_normalisation,
    "LayerNormalization": _layer_normalisation,
    "PRelu": _binary(activation.prelu),
    "LeakyRelu": _leaky_relu,
    "Elu": _elu,
    "Selu": _selu,
    "Gelu": _gelu,
    "Clip": _clip,
    "Softmax": _softmax,
    "Dropout": _dropout,
    "MaxPool": _max_pooling,
    "AveragePool": _average_pooling,
    "Resize": _resize,
    "Upsample": _resize,
    "Concat": _concatenation,
    "Split": _split,
    "Slice": _slice,
    "Pad": _padding,
    "Gather": _gather,
    "ReduceMean": _mean,
    "ReduceSum": _total,
    "Reciprocal": _reciprocal,
    "Transpose": _transpose,
    "Reshape": _moved,
    "Flatten": _moved,
    "Squeeze": _moved,
    "Unsqueeze": _moved,
    "Expand": _expand,
    "Identity": _identity,
    "Cast": _identity,
}
