"""Activations, softmax and dropout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.operators.call import Call, Operator


def pointwise(function: Callable[[Tensor], Tensor]) -> Operator:
    """An operator without settings that changes every value by itself."""

    def compute(call: Call) -> Tensor:
        return function(call.tensor(0))

    return Operator(compute)


def parametric_relu(call: Call) -> Tensor:
    """Slopes for negative values, one or one for every map."""
    x, slope = call.tensor(0), call.tensor(1)
    is_per_map = slope.numel() == 1 or (
        x.ndim > 1 and slope.ndim == x.ndim - 1 and slope.numel() == slope.shape[0] == x.shape[1]
    )
    if is_per_map:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, x * slope)


def leaky_relu(call: Call) -> Tensor:
    """A fixed slope for negative values."""
    return F.leaky_relu(call.tensor(0), call.node.number("alpha", 0.01))


def elu(call: Call) -> Tensor:
    """``alpha (exp(x) - 1)`` for negative values."""
    return F.elu(call.tensor(0), call.node.number("alpha", 1.0))


def celu(call: Call) -> Tensor:
    """``alpha (exp(x / alpha) - 1)`` for negative values."""
    return F.celu(call.tensor(0), call.node.number("alpha", 1.0))


def selu(call: Call) -> Tensor:
    """A scaled ELU."""
    alpha = call.node.number("alpha", 1.67326319217681884765625)
    return call.node.number("gamma", 1.05070102214813232421875) * F.elu(call.tensor(0), alpha)


def hard_sigmoid(call: Call) -> Tensor:
    """``alpha x + beta``, between 0 and 1."""
    alpha, beta = call.node.number("alpha", 0.2), call.node.number("beta", 0.5)
    return (call.tensor(0) * alpha + beta).clamp(0, 1)


def gelu(call: Call) -> Tensor:
    """``x`` times the normal distribution, or its approximation by tanh."""
    return F.gelu(call.tensor(0), approximate=call.node.text("approximate", "none"))


def clip(call: Call) -> Tensor:
    """Values between a minimum and a maximum, either of which may be left out."""
    x = call.tensor(0)
    low = call.number("min", 1, float("-inf"))
    high = call.number("max", 2, float("inf"))
    if not x.is_floating_point():
        limits = torch.iinfo(x.dtype)
        return x.clamp(int(max(low, limits.min)), int(min(high, limits.max)))
    return x.clamp(low, high)


def softmax(call: Call) -> Tensor:
    """Over one axis; before version 13, over all axes from one on."""
    return _over_axis(call, F.softmax)


def log_softmax(call: Call) -> Tensor:
    """The logarithm of `softmax`."""
    return _over_axis(call, F.log_softmax)


def _over_axis(call: Call, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    x = call.tensor(0)
    if call.opset >= 13:
        return function(x, call.node.integer("axis", -1))
    axis = call.node.integer("axis", 1) % x.ndim
    return function(x.flatten(axis), axis).reshape(x.shape)


def dropout(call: Call) -> Tensor:
    """Switches values, or whole maps, off in training only; the mask is not returned."""
    function = F.dropout3d if call.node.integer("whole_maps", 0) else F.dropout
    return function(call.tensor(0), call.number("ratio", 1, 0.5), call.trains)


OPERATORS = {
    "Relu": pointwise(F.relu),
    "Sigmoid": pointwise(torch.sigmoid),
    "Tanh": pointwise(torch.tanh),
    "Softplus": pointwise(F.softplus),
    "Softsign": pointwise(F.softsign),
    "Mish": pointwise(F.mish),
    "HardSwish": pointwise(F.hardswish),
    "PRelu": Operator(parametric_relu),
    "LeakyRelu": Operator(leaky_relu),
    "Elu": Operator(elu),
    "Celu": Operator(celu),
    "Selu": Operator(selu),
    "HardSigmoid": Operator(hard_sigmoid),
    "Gelu": Operator(gelu),
    "Clip": Operator(clip, settings=(1, 2)),
    "Softmax": Operator(softmax),
    "LogSoftmax": Operator(log_softmax),
    "Dropout": Operator(dropout, settings=(1, 2)),
}
