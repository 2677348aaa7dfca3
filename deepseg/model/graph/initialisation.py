"""New weights for a graph, of which the topology alone is wanted."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from deepseg.model.graph.graph import Graph, GraphNode
from deepseg.model.graph.operators.table import OPERATORS
from deepseg.model.graph.program import tensor_roles

_NORMALISATIONS = (
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LayerNormalization",
)
SLOPE = 0.25  # of a PReLU, as torch begins with


def initialised(graph: Graph, *, rng: torch.Generator) -> Graph:
    """The graph with new parameters and statistics; no other tensor changes.

    Kernels and matrices are drawn from a normal distribution of variance 2 / fan-in (He et al.,
    doi:10.1109/ICCV.2015.123). Scales are 1, shifts and biases 0, slopes 0.25.
    """
    roles = tensor_roles(graph)
    weights = dict(graph.weights)
    for node in graph.nodes:
        for place, name in enumerate(node.inputs):
            if name in weights and roles[name] in ("parameter", "statistics"):
                weights[name] = _new(node, place, weights[name], rng)
    return replace(graph, weights=weights)


def _new(node: GraphNode, place: int, old: Tensor, rng: torch.Generator) -> Tensor:
    if node.operator in _NORMALISATIONS:
        is_spread = place == 1 or (place == 4 and place in OPERATORS[node.operator].statistics)
        return torch.ones(old.shape) if is_spread else torch.zeros(old.shape)
    if node.operator == "PRelu":
        return torch.full(old.shape, SLOPE)
    fan_in = _fan_in(node, old)
    if fan_in is not None:
        return torch.empty(old.shape).normal_(0, math.sqrt(2 / fan_in), generator=rng)
    return torch.ones(old.shape) if node.operator in ("Mul", "Div") else torch.zeros(old.shape)


def _fan_in(node: GraphNode, kernel: Tensor) -> int | None:
    """Values that one result of a kernel or matrix sums up; None for any other tensor."""
    match node.operator:
        case "Conv" if kernel.ndim > 2:
            return math.prod(kernel.shape[1:])
        case "ConvTranspose" if kernel.ndim > 2:
            strides = math.prod(node.integers("strides") or [1])
            maps = kernel.shape[0] // node.integer("group", 1)
            return max(maps * math.prod(kernel.shape[2:]) // strides, 1)
        case "Gemm" if kernel.ndim == 2:
            return kernel.shape[1 if node.integer("transB", 0) else 0]
        case "MatMul" if kernel.ndim > 1:
            return kernel.shape[-2]
    return None
