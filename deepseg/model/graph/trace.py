"""Shapes of all tensors of a graph for images of a size, without computing or allocating any."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from deepseg.errors import DeepsegError
from deepseg.model.graph.graph import GraphNode, node_error
from deepseg.model.graph.operators.call import Call
from deepseg.model.graph.operators.convolution import output_padding, transposed_window
from deepseg.model.graph.operators.pooling import pooling_window
from deepseg.model.graph.operators.resizing import resizing
from deepseg.model.graph.operators.window import SlidingWindow, sliding_window
from deepseg.model.graph.program import Program, Step, as_tuple

Shape = tuple[int, ...]

_POINTWISE = (
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Gelu",
    "Softplus",
    "Softsign",
    "Mish",
    "Clip",
    "Softmax",
    "LogSoftmax",
    "Dropout",
    "Sqrt",
    "Exp",
    "Log",
    "Neg",
    "Abs",
    "Erf",
    "Reciprocal",
)
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu")


class Tracer:
    """Walks through a graph with tensors that have a shape and no values."""

    def __init__(self, work: Program) -> None:
        """Keep the shapes of the weights of ``work``."""
        self._program = work
        tensors = {**work.graph.constants, **work.graph.weights}
        self._weights = {name: value.to("meta") for name, value in tensors.items()}

    def shapes(self, images: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shape of every tensor, by name.

        Raises:
            DeepsegError: ``graph-node``, where shapes do not fit.
        """
        shapes: dict[str, Shape] = dict(images)
        self.walk(images, shapes.update)
        return shapes

    def walk(
        self, images: Mapping[str, Shape], observe: Callable[[dict[str, Shape]], None]
    ) -> None:
        """Compute all shapes; ``observe`` is given those of each node after it.

        Raises:
            DeepsegError: ``graph-node``, where shapes do not fit.
        """
        values = {name: torch.empty(shape, device="meta") for name, shape in images.items()}
        with _same_environment():
            for step in self._program.steps:
                results = self._results(step, values)
                values.update(zip(step.node.outputs, results, strict=False))
                observe({name: tuple(values[name].shape) for name in step.node.outputs if name})
                for name in step.released:
                    values.pop(name, None)

    def _results(self, step: Step, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = tuple(
            fixed if fixed is not None else self._value(name, values)
            for name, fixed in zip(step.node.inputs, step.fixed, strict=True)
        )
        call = Call(step.node, inputs, self._program.graph.opset)
        try:
            quick = None if step.is_host else _shape_of(call)
            return as_tuple(step.operator.compute(call) if quick is None else quick)
        except DeepsegError:
            raise
        except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise _misfit(step.node, inputs, error) from error

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        return values[name] if name in values else self._weights[name]


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Take away the variable that torch sets when it first computes a shape."""
    before = os.environ.get(_CACHE_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_CACHE_VARIABLE, None)


def _shape_of(call: Call) -> Tensor | None:
    """The result of a common operator without torch, which takes long to say how large it is."""
    operator = call.node.operator
    if operator in _POINTWISE:
        return call.tensor(0)
    if operator in _BINARY:
        x, y = call.tensor(0), call.tensor(1)
        return torch.empty(np.broadcast_shapes(x.shape, y.shape), device="meta")
    if operator in ("Resize", "Upsample"):
        return torch.empty(resizing(call).sizes, device="meta")
    if operator in ("BatchNormalization", "InstanceNormalization"):
        x, weight = call.tensor(0), call.tensor(1)
        if tuple(weight.shape) != tuple(x.shape[1:2]):
            raise ValueError(f"{x.shape[1]} maps, but {weight.numel()} scales")
        if operator == "InstanceNormalization" and math.prod(x.shape[2:]) == 1:
            raise ValueError("a normalisation of one voxel")
        return x
    size = _windowed_size(call)
    return None if size is None else torch.empty(size, device="meta")


def _windowed_size(call: Call) -> Shape | None:
    """Size of a convolution, pooling, group norm or concatenation whose inputs fit; else None."""
    x = call.tensor(0)
    match call.node.operator:
        case "Conv":
            kernel = call.tensor(1)
            if kernel.ndim != x.ndim or x.shape[1] != kernel.shape[1] * call.node.integer(
                "group", 1
            ):
                return None
            window = sliding_window(call.node, kernel.shape[2:], x.shape[2:])
            return _fitting((x.shape[0], kernel.shape[0]), _slid(window, x.shape[2:]))
        case "ConvTranspose" if call.node.integer("group", 1) == 1:
            kernel = call.tensor(1)
            if kernel.ndim != x.ndim or x.shape[1] != kernel.shape[0]:
                return None
            window = transposed_window(call.node, kernel.shape[2:], x.shape[2:])
            extra = output_padding(call.node, x.ndim - 2)
            spread = [
                (n - 1) * s + span + more - low - high
                for n, s, span, more, low, high in zip(
                    *(x.shape[2:], window.stride, window.span, extra, window.low, window.high),
                    strict=True,
                )
            ]
            return _fitting((x.shape[0], kernel.shape[1]), spread)
        case "MaxPool" | "AveragePool" if not call.node.integer("ceil_mode", 0):
            window = pooling_window(call)
            return _fitting(x.shape[:2], _slid(window, x.shape[2:]))
        case "GroupNormalization" if x.shape[1] % max(call.node.integer("num_groups", 1), 1) == 0:
            return tuple(x.shape)
        case "Concat":
            tensors = [call.tensor(place) for place in range(len(call.inputs))]
            axis = call.node.integer("axis", 0) % x.ndim
            if not all(t.is_meta and t.ndim == x.ndim for t in tensors):
                return None
            if len({(*t.shape[:axis], *t.shape[axis + 1 :]) for t in tensors}) > 1:
                raise ValueError(f"Sizes of tensors must match except in dimension {axis}")
            total = sum(t.shape[axis] for t in tensors)
            return (*x.shape[:axis], total, *x.shape[axis + 1 :])
    return None


def _slid(window: SlidingWindow, size: Sequence[int]) -> list[int]:
    """Places of a window on a bordered image."""
    return [
        (n + low + high - span) // s + 1
        for n, low, high, span, s in zip(
            size, window.low, window.high, window.span, window.stride, strict=True
        )
    ]


def _fitting(front: Sequence[int], size: Sequence[int]) -> Shape | None:
    """A shape, or None where an axis has no voxel left."""
    return (*front, *size) if min(size, default=0) > 0 else None


def _misfit(node: GraphNode, inputs: Sequence[Tensor | None], error: Exception) -> DeepsegError:
    shapes = ", ".join(_text(x) for x in inputs if x is not None)
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return node_error(node, f"shapes that do not fit, {shapes} ({reason})", "shapes that fit")


def _text(x: Tensor) -> str:
    return " x ".join(str(n) for n in x.shape) or "a number"
