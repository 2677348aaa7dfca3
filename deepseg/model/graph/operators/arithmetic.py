"""Arithmetic of images and of sizes, matrix products and reductions.

Sizes are whole numbers on the CPU, wherever the images are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from deepseg.model.graph.operators.activation import pointwise
from deepseg.model.graph.operators.call import Call, Operator


def together(*tensors: Tensor) -> list[Tensor]:
    """The tensors on one device: what lies on the CPU follows what does not."""
    device = next((x.device for x in tensors if x.device.type != "cpu"), None)
    return list(tensors) if device is None else [x.to(device) for x in tensors]


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of two tensors of broadcastable shapes."""

    def compute(call: Call) -> Tensor:
        return function(*together(call.tensor(0), call.tensor(1)))

    return Operator(compute)


def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator that joins any number of tensors, two at a time."""

    def compute(call: Call) -> Tensor:
        return reduce(function, together(*(call.tensor(n) for n in range(len(call.inputs)))))

    return Operator(compute)


def divided(x: Tensor, y: Tensor) -> Tensor:
    """The quotient; of whole numbers, without its fraction.

    >>> divided(torch.tensor(-7), torch.tensor(2)).item()
    -3
    """
    if x.is_floating_point() or y.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def remainder(call: Call) -> Tensor:
    """The remainder, with the sign of the divisor, or of the dividend for ``fmod``."""
    x, y = together(call.tensor(0), call.tensor(1))
    return torch.fmod(x, y) if call.node.integer("fmod", 0) else torch.remainder(x, y)


def mean(call: Call) -> Tensor:
    """The mean of several tensors."""
    tensors = together(*(call.tensor(n) for n in range(len(call.inputs))))
    return reduce(torch.add, tensors) / len(tensors)


def choice(call: Call) -> Tensor:
    """One tensor where a condition is true, another elsewhere."""
    condition, x, y = together(call.tensor(0), call.tensor(1), call.tensor(2))
    return torch.where(condition, x, y)


def matrix_product(call: Call) -> Tensor:
    """Over the last two axes."""
    x, y = together(call.tensor(0), call.tensor(1))
    return x @ y


def general_matrix_product(call: Call) -> Tensor:
    """``alpha A B + beta C``, A and B transposed or not."""
    a, b, c = call.tensor(0), call.tensor(1), call.optional(2)
    a = a.T if call.node.integer("transA", 0) else a
    b = b.T if call.node.integer("transB", 0) else b
    y = a @ b
    alpha, beta = call.node.number("alpha", 1.0), call.node.number("beta", 1.0)
    y = y if alpha == 1.0 else alpha * y
    if c is None:
        return y
    return y + (c if beta == 1.0 else beta * c)


def einsum(call: Call) -> Tensor:
    """A sum of products, as Einstein wrote it."""
    tensors = [call.tensor(n) for n in range(len(call.inputs))]
    return torch.einsum(call.node.text("equation", ""), *tensors)


def reduced_axes(call: Call) -> list[int] | None:
    """Axes over which a reduction goes; None for none at all."""
    axes = call.integers("axes", 1)
    if axes:
        return axes
    return (
        None if call.node.integer("noop_with_empty_axes", 0) else list(range(call.tensor(0).ndim))
    )


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """An operator that goes over some axes."""

    def compute(call: Call) -> Tensor:
        axes = reduced_axes(call)
        if axes is None:
            return call.tensor(0)
        return function(call.tensor(0), axes, bool(call.node.integer("keepdims", 1)))

    return Operator(compute, settings=(1,))


def _product(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keeps)
    return x


def _norm(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keeps).sqrt()


OPERATORS = {
    "Add": binary(torch.add),
    "Sub": binary(torch.sub),
    "Mul": binary(torch.mul),
    "Div": binary(divided),
    "Pow": binary(torch.pow),
    "Mod": Operator(remainder),
    "Equal": binary(torch.eq),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "And": binary(torch.logical_and),
    "Or": binary(torch.logical_or),
    "Not": pointwise(torch.logical_not),
    "Sum": variadic(torch.add),
    "Max": variadic(torch.maximum),
    "Min": variadic(torch.minimum),
    "Mean": Operator(mean),
    "Where": Operator(choice),
    "Sqrt": pointwise(torch.sqrt),
    "Exp": pointwise(torch.exp),
    "Log": pointwise(torch.log),
    "Neg": pointwise(torch.neg),
    "Abs": pointwise(torch.abs),
    "Erf": pointwise(torch.erf),
    "Reciprocal": pointwise(torch.reciprocal),
    "Floor": pointwise(torch.floor),
    "Ceil": pointwise(torch.ceil),
    "Round": pointwise(torch.round),
    "MatMul": Operator(matrix_product),
    "Gemm": Operator(general_matrix_product),
    "Einsum": Operator(einsum),
    "ReduceMean": reduction(lambda x, axes, keeps: x.mean(axes, keepdim=keeps)),
    "ReduceSum": reduction(lambda x, axes, keeps: x.sum(axes, keepdim=keeps)),
    "ReduceMax": reduction(lambda x, axes, keeps: x.amax(axes, keepdim=keeps)),
    "ReduceMin": reduction(lambda x, axes, keeps: x.amin(axes, keepdim=keeps)),
    "ReduceProd": reduction(_product),
    "ReduceL2": reduction(_norm),
}
