"""A foreign network as plain data: nodes, weights and constants, joined by the names of tensors.

Operators have the names, inputs, attributes and meanings of ONNX. Nothing is computed here, and no
file format is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from torch import Tensor

from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem, raise_if_any

AttributeValue: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class GraphNode:
    """One operator of a graph.

    Attributes:
        operator: Name of the operator, such as ``Conv``.
        inputs: Names of the tensors it reads; ``""`` where an optional one is left out.
        outputs: Names of the tensors it computes, at least one.
        attributes: Its settings by name.
        name: May be empty; then the first output stands for the node.
        scope: Dotted path of the module that the node is a part of, where known.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    name: str = ""
    scope: str = ""

    @cached_property
    def memory(self) -> dict[object, object]:
        """Results that operators keep for the next time; those of the attributes alone."""
        return {}

    @property
    def label(self) -> str:
        """The node's name, or its first output where it has none."""
        return self.name or self.outputs[0]

    def __str__(self) -> str:
        return f"{self.operator} {self.label!r}"

    def integer(self, name: str, default: int) -> int:
        """A whole number among the attributes.

        >>> GraphNode("Concat", ("a", "b"), ("c",), {"axis": 1}).integer("axis", 0)
        1
        """
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise node_error(self, f"{name} = {value!r}", "a whole number")
        return value

    def number(self, name: str, default: float) -> float:
        """A number among the attributes."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise node_error(self, f"{name} = {value!r}", "a number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A word among the attributes."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise node_error(self, f"{name} = {value!r}", "a word")
        return value

    def integers(self, name: str) -> list[int] | None:
        """Whole numbers among the attributes; None if there is no such attribute."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, tuple) or not all(isinstance(n, int) for n in value):
            raise node_error(self, f"{name} = {value!r}", "whole numbers")
        return [int(n) for n in value]

    def numbers(self, name: str) -> list[float] | None:
        """Numbers among the attributes; None if there is no such attribute."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, tuple):
            raise node_error(self, f"{name} = {value!r}", "numbers")
        return [float(n) for n in value]


@dataclass(frozen=True)
class GraphInput:
    """A tensor that the graph reads from outside.

    Attributes:
        shape: Voxels along every axis; None for a free axis. None if nothing is stated.
    """

    name: str
    shape: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Graph:
    """A network: nodes in the order in which they can be computed.

    Attributes:
        inputs: Images that it reads.
        outputs: Names of the tensors that it returns.
        weights: Tensors that belong to the network, by name: those of floats learn, but for the
            statistics of batch normalisation and what is a setting of an operator.
        constants: Values that were written into the computation; they never learn.
        opset: Version of the meanings of the operators.
    """

    nodes: tuple[GraphNode, ...]
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    opset: int

    def producers(self) -> dict[str, GraphNode]:
        """The node that computes each tensor, by the tensor's name."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> dict[str, list[GraphNode]]:
        """The nodes that read each tensor, by the tensor's name."""
        readers: dict[str, list[GraphNode]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return readers


def node_error(node: GraphNode, got: str, expected: str) -> DeepsegError:
    """``graph-node``: a node that cannot be computed as the file states it."""
    return DeepsegError(
        Problem(
            code="graph-node",
            got=f"{got} at {node}",
            expected=expected,
            fix="export the network again, or cut it in front of this node",
        )
    )


def joined(graph: Graph) -> Graph:
    """The graph with its nodes in an order in which they can be computed.

    Raises:
        DeepsegError: ``graph-incomplete`` for tensors that nothing computes, or two nodes do;
            ``graph-cycle`` for nodes that wait for each other.
    """
    available = {entry.name for entry in graph.inputs} | {*graph.weights, *graph.constants, ""}
    raise_if_any(_gaps(graph, available))
    return replace(graph, nodes=_sorted(graph.nodes, available))


def _gaps(graph: Graph, available: set[str]) -> Iterable[Problem]:
    outputs = [name for node in graph.nodes for name in node.outputs if name]
    produced = set(outputs)
    twice = (
        {name for name in outputs if outputs.count(name) > 1}
        if len(produced) < len(outputs)
        else set()
    )
    for name in sorted(twice | (produced & available)):
        yield _incomplete(f"tensor {name!r} computed twice", "one node for every tensor")
    for node in graph.nodes:
        for name in node.inputs:
            if name not in produced and name not in available:
                yield _incomplete(f"{node} that reads {name!r}", "a node that computes it")
    for name in graph.outputs:
        if name not in produced and name not in available:
            yield _incomplete(f"an output {name!r}", "a node that computes it")


def _incomplete(got: str, expected: str) -> Problem:
    return Problem("graph-incomplete", got, expected, "export the network again")


def _sorted(nodes: Sequence[GraphNode], available: set[str]) -> tuple[GraphNode, ...]:
    """The nodes in their order, but for those that have to wait for a later one."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
    needs = [{producer[name] for name in node.inputs if name not in available} for node in nodes]
    waiting: dict[int, list[int]] = {}
    for i, before in enumerate(needs):
        for j in before:
            waiting.setdefault(j, []).append(i)
    ready = [i for i, before in enumerate(needs) if not before]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for later in waiting.get(i, ()):
            needs[later].discard(i)
            if not needs[later]:
                heapq.heappush(ready, later)
    if len(order) < len(nodes):
        stuck = [str(nodes[i]) for i, before in enumerate(needs) if before]
        raise DeepsegError(
            Problem(
                code="graph-cycle",
                got=counted(
                    len(stuck), "node that waits for itself", "nodes that wait for each other"
                )
                + f", among them {stuck[0]}",
                expected="a graph without cycles",
                fix="export the network again",
            )
        )
    return tuple(nodes[i] for i in order)


def pruned(graph: Graph) -> Graph:
    """The graph without nodes, inputs and tensors that no output needs."""
    needed = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            nodes.append(node)
            needed |= set(node.inputs)
    return replace(
        graph,
        nodes=tuple(reversed(nodes)),
        inputs=tuple(entry for entry in graph.inputs if entry.name in needed),
        weights={name: value for name, value in graph.weights.items() if name in needed},
        constants={name: value for name, value in graph.constants.items() if name in needed},
    )
