"""A graph as plain data, as a `.save` holds it: dictionaries, lists, text, numbers and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from deepseg.errors import DeepsegError, Problem
from deepseg.model.graph.graph import AttributeValue, Graph, GraphInput, GraphNode, joined
from deepseg.model.graph.operators.table import check_operators
from deepseg.model.graph.program import tensor_roles

FORMAT = 1


def graph_record(graph: Graph, *, with_weights: bool = True) -> dict[str, Any]:
    """The graph as plain data.

    Args:
        with_weights: Whether the values of parameters and statistics are in it. Without them the
            record holds their shapes, and the values come from a state dict.
    """
    roles = tensor_roles(graph)
    weights: dict[str, Any] = {
        name: value
        if with_weights or roles[name] not in ("parameter", "statistics")
        else list(value.shape)
        for name, value in graph.weights.items()
    }
    return {
        "format": FORMAT,
        "opset": graph.opset,
        "inputs": [
            {"name": entry.name, "shape": None if entry.shape is None else list(entry.shape)}
            for entry in graph.inputs
        ],
        "outputs": list(graph.outputs),
        "nodes": [_node_record(node) for node in graph.nodes],
        "weights": weights,
        "constants": dict(graph.constants),
    }


def graph_from_record(record: Mapping[str, Any]) -> Graph:
    """The graph of a record; weights whose values are not in it are on torch's meta device.

    Raises:
        DeepsegError: ``graph-record``, or what `joined` and `check_operators` refuse.
    """
    try:
        graph = _graph(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeepsegError(
            Problem(
                code="graph-record",
                got=f"a graph that cannot be read ({type(error).__name__}: {error})",
                expected="nodes, weights and constants as deepseg writes them",
                fix="use the deepseg that wrote the file, or an earlier file of the session",
            )
        ) from error
    graph = joined(graph)
    check_operators(graph)
    return graph


def _graph(record: Mapping[str, Any]) -> Graph:
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']}, not {FORMAT}")
    return Graph(
        nodes=tuple(_node(entry) for entry in record["nodes"]),
        inputs=tuple(
            GraphInput(entry["name"], None if entry["shape"] is None else tuple(entry["shape"]))
            for entry in record["inputs"]
        ),
        outputs=tuple(record["outputs"]),
        weights={
            name: torch.empty(value, device="meta") if isinstance(value, list) else value
            for name, value in record["weights"].items()
        },
        constants=dict(record["constants"]),
        opset=int(record["opset"]),
    )


def _node_record(node: GraphNode) -> dict[str, Any]:
    return {
        "operator": node.operator,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in node.attributes.items()
        },
        "name": node.name,
        "scope": node.scope,
    }


def _node(entry: Mapping[str, Any]) -> GraphNode:
    attributes: dict[str, AttributeValue] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in entry["attributes"].items()
    }
    return GraphNode(
        operator=entry["operator"],
        inputs=tuple(entry["inputs"]),
        outputs=tuple(entry["outputs"]),
        attributes=attributes,
        name=entry["name"],
        scope=entry["scope"],
    )
