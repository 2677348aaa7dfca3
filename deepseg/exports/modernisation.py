"""Graphs in older versions of ONNX's operators, written in a newer one.

Over the versions, attributes became inputs. Operators whose meaning has changed are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deepseg.errors import Problem, raise_if_any
from deepseg.model.graph.graph import AttributeValue, Graph, GraphNode

_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")

# Operator: the version from which on, and which attributes, in the places of these inputs.
_AS_INPUTS: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "Slice": (10, {"starts": 1, "ends": 2, "axes": 3}),
    "Pad": (11, {"pads": 1, "value": 2}),
    "Clip": (11, {"min": 1, "max": 2}),
    "Squeeze": (13, {"axes": 1}),
    "Unsqueeze": (13, {"axes": 1}),
    "Split": (13, {"split": 1}),
    "ReduceSum": (13, {"axes": 1}),
    **dict.fromkeys(_REDUCTIONS, (18, {"axes": 1})),
}
_CHANGED = {"Softmax": 13, "LogSoftmax": 13, "GroupNormalization": 21}  # what they compute
_LAST_AXIS = (-1, 4)  # over which a softmax of images has always meant the same
_DROPPED = {"BatchNormalization": ("spatial", "is_test"), "Dropout": ("ratio", "is_test", "seed")}
_OLD_RESIZE = 11  # coordinates were counted in one way only before


def modernised(graph: Graph, opset: int) -> Graph:
    """The graph in the version ``opset`` of the operators.

    Raises:
        DeepsegError: ``export-version`` for operators whose meaning has changed since.
    """
    if graph.opset >= opset:
        return graph
    raise_if_any(_changed_meanings(graph, opset))
    changes = _Changes(graph, opset)
    nodes = tuple(changes.node(node) for node in graph.nodes)
    return replace(
        graph, nodes=nodes, constants={**graph.constants, **changes.constants}, opset=opset
    )


def _changed_meanings(graph: Graph, opset: int) -> Iterator[Problem]:
    for node in graph.nodes:
        since = _CHANGED.get(node.operator, 0)
        if graph.opset < since <= opset and node.attributes.get("axis") not in _LAST_AXIS:
            yield Problem(
                code="export-version",
                got=f"{node} of version {graph.opset}, which means something else since {since}",
                expected="operators of one version in all of the network",
                fix=f"export the imported network again with opset_version={max(opset, 17)}",
            )


@dataclass
class _Changes:
    """Changes of nodes from the version of a graph to a newer one, and the constants they need."""

    graph: Graph
    opset: int
    constants: dict[str, Tensor] = field(default_factory=dict)

    def node(self, node: GraphNode) -> GraphNode:
        """The node in the newer version."""
        if node.operator in ("Upsample", "Resize") and self.graph.opset < _OLD_RESIZE:
            return self._resize(node)
        dropped = _DROPPED.get(node.operator, ())
        attributes = {key: value for key, value in node.attributes.items() if key not in dropped}
        since, places = _AS_INPUTS.get(node.operator, (0, {}))
        inputs = list(node.inputs)
        if self.graph.opset < since <= self.opset:
            for key, place in places.items():
                if key in attributes:
                    inputs += [""] * (place + 1 - len(inputs))
                    inputs[place] = self._constant(node, key, attributes.pop(key))
        if node.operator == "Split" and self.opset >= 18 and len(inputs) < 2:
            attributes.setdefault("num_outputs", len(node.outputs))
        return replace(node, inputs=tuple(inputs), attributes=attributes)

    def _resize(self, node: GraphNode) -> GraphNode:
        scales = node.attributes.get("scales")
        name = node.inputs[1] if scales is None else self._constant(node, "scales", scales)
        return replace(
            node,
            operator="Resize",
            inputs=(node.inputs[0], "", name),
            attributes={
                "mode": node.text("mode", "nearest"),
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            },
        )

    def _constant(self, node: GraphNode, key: str, value: AttributeValue) -> str:
        name = f"{node.outputs[0]}/{key}"
        self.constants[name] = torch.tensor(value)
        return name
