"""A graph with less to compute: normalisation, biases and scales become parts of convolutions.

The result is the same function and cannot be trained again: folded weights have names of their own,
so that nobody takes them for those of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deepseg.model.graph.graph import Graph, GraphNode, pruned
from deepseg.transfer.source import FOLDED


def folded_for_inference(graph: Graph) -> Graph:
    """The graph without what can be computed beforehand from its weights."""
    work = _with_plain_weights(graph)
    for fold in (_normalisation_into, _bias_into, _scale_into):
        for node in work.nodes:
            work = fold(work, node)
    return pruned(work)


def _with_plain_weights(graph: Graph) -> Graph:
    """Weights in the shape in which they are used, instead of nodes that give it to them."""
    weights, nodes = dict(graph.weights), []
    for node in graph.nodes:
        values = [weights.get(name, graph.constants.get(name)) for name in node.inputs]
        first = values[0]
        if node.operator != "Unsqueeze" or first is None or len(values) < 2 or values[1] is None:
            nodes.append(node)
            continue
        for axis in sorted(int(axis) for axis in values[1]):
            first = first.unsqueeze(axis)
        weights[node.outputs[0]] = first
    return replace(graph, nodes=tuple(nodes), weights=weights)


@dataclass(frozen=True)
class _Convolution:
    """A convolution whose result is read by one node only, or whose input is.

    Attributes:
        weight: ``(F, C, …)``.
        bias: ``(F,)``.
    """

    node: GraphNode
    weight: Tensor
    bias: Tensor

    @property
    def name(self) -> str:
        """Of the weight, as the model calls it."""
        return self.node.inputs[1].removesuffix(FOLDED)

    def replaced(self, graph: Graph, removed: GraphNode, *, source: str, result: str) -> Graph:
        """The graph with this convolution in place of the node that it was and of another."""
        weight, bias = f"{self.name}{FOLDED}", f"{self.name}.bias{FOLDED}"
        node = replace(self.node, inputs=(source, weight, bias), outputs=(result,))
        nodes = [node if other is self.node else other for other in graph.nodes]
        weights = {**graph.weights, weight: self.weight.float(), bias: self.bias.float()}
        return replace(
            graph, nodes=tuple(other for other in nodes if other is not removed), weights=weights
        )


def _convolution(graph: Graph, node: GraphNode | None) -> _Convolution | None:
    """A node as a convolution that can be changed; in double precision."""
    if node is None or node.operator != "Conv":
        return None
    weight = graph.weights.get(node.inputs[1])
    if weight is None or len(graph.consumers().get(node.inputs[1], ())) > 1:
        return None
    bias = graph.weights.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None and len(node.inputs) > 2:
        return None
    zeros = torch.zeros(len(weight), dtype=torch.float64)
    return _Convolution(node, weight.double(), zeros if bias is None else bias.double())


def _normalisation_into(graph: Graph, node: GraphNode) -> Graph:
    """Batch normalisation after a convolution, of which nothing else reads the result."""
    if node.operator != "BatchNormalization":
        return graph
    conv = _convolution(graph, graph.producers().get(node.inputs[0]))
    weights = [graph.weights[name].double() for name in node.inputs[1:5] if name in graph.weights]
    if conv is None or len(graph.consumers()[node.inputs[0]]) > 1 or len(weights) < 4:
        return graph
    if node.inputs[0] in graph.outputs:
        return graph
    weight, bias, mean, variance = weights
    scale = weight / torch.sqrt(variance + node.number("epsilon", 1e-5))
    changed = replace(
        conv,
        weight=conv.weight * scale.reshape(-1, *(1,) * (conv.weight.ndim - 1)),
        bias=(conv.bias - mean) * scale + bias,
    )
    return changed.replaced(graph, node, source=conv.node.inputs[0], result=node.outputs[0])


def _bias_into(graph: Graph, node: GraphNode) -> Graph:
    """A bias of the channels in front of a convolution without border."""
    values = _per_map(graph, node, "Add")
    conv = _reader(graph, node)
    if values is None or conv is None or any(conv.node.integers("pads") or ()):
        return graph
    if conv.node.integer("group", 1) != 1 or len(values) != conv.weight.shape[1]:
        return graph
    taps = conv.weight.flatten(2).sum(2)
    changed = replace(conv, bias=conv.bias + taps @ values)
    return changed.replaced(graph, node, source=node.inputs[0], result=conv.node.outputs[0])


def _scale_into(graph: Graph, node: GraphNode) -> Graph:
    """A factor of all values in front of a convolution."""
    factor = graph.constants.get(node.inputs[1]) if node.operator == "Mul" else None
    conv = _reader(graph, node)
    if factor is None or factor.numel() != 1 or conv is None:
        return graph
    changed = replace(conv, weight=conv.weight * factor.double().reshape(()))
    return changed.replaced(graph, node, source=node.inputs[0], result=conv.node.outputs[0])


def _per_map(graph: Graph, node: GraphNode, operator: str) -> Tensor | None:
    """``(F,)``: the values for each map that a node adds."""
    if node.operator != operator:
        return None
    value = graph.weights.get(node.inputs[1])
    if value is None or value.ndim != 4 or value.numel() != len(value):
        return None
    return value.flatten().double()


def _reader(graph: Graph, node: GraphNode) -> _Convolution | None:
    """The convolution that is the only reader of a node."""
    readers = graph.consumers().get(node.outputs[0], [])
    if len(readers) != 1 or node.outputs[0] in graph.outputs:
        return None
    conv = _convolution(graph, readers[0])
    return conv if conv is not None and conv.node.inputs[0] == node.outputs[0] else None
