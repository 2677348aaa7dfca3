"""A graph made ready to be computed: constants worked out, tensors told apart by their role.

Sizes of images are whole numbers that stay on the CPU, and so does all that is computed from them
and from constants only; nodes that do this are called host nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import Tensor

from deepseg.model.graph.graph import Graph, GraphNode, pruned
from deepseg.model.graph.operators.call import Call, Operator, Results
from deepseg.model.graph.operators.table import OPERATORS

Role: TypeAlias = Literal["parameter", "statistics", "constant", "setting"]
Compute: TypeAlias = Callable[[Call], Results]

BATCH_NORM = "BatchNormalization"
_SIZES = ("Shape", "Size")
_RANDOM = ("Dropout",)


@dataclass(frozen=True)
class Step:
    """The computation of one node.

    Attributes:
        fixed: Settings and sizes among its inputs; None for what is looked up.
        is_host: Whether it computes sizes, on the CPU.
        released: Tensors that no later step reads.
    """

    node: GraphNode
    operator: Operator
    fixed: tuple[Tensor | None, ...]
    is_host: bool
    released: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A graph that can be computed.

    Attributes:
        graph: Without nodes that compute constants.
        roles: What each weight and constant is.
        host: Names of the tensors that are computed on the CPU.
    """

    graph: Graph
    steps: tuple[Step, ...]
    roles: Mapping[str, Role]
    host: frozenset[str]


def program(graph: Graph) -> Program:
    """Make a graph ready whose operators are covered and whose nodes are in order."""
    graph = folded(graph)
    roles = tensor_roles(graph)
    host = frozenset(_host_tensors(graph))
    return Program(graph, tuple(_steps(graph, roles, host)), roles, host)


def folded(graph: Graph) -> Graph:
    """The graph with everything computed that depends on constants and sizes of weights only."""
    constants = dict(graph.constants)
    values = constants | {
        name: value for name, value in graph.weights.items() if not value.is_floating_point()
    }
    nodes = []
    for node in graph.nodes:
        reads = [name for name in node.inputs if name]
        if node.operator in _RANDOM or not all(name in values for name in reads):
            nodes.append(node)
            continue
        inputs = tuple(values[name] if name else None for name in node.inputs)
        results = as_tuple(OPERATORS[node.operator].compute(Call(node, inputs, graph.opset)))
        for name, value in zip(node.outputs, results, strict=False):
            values[name] = constants[name] = value.contiguous()
    return pruned(replace(graph, nodes=tuple(nodes), constants=constants))


def as_tuple(results: Results) -> tuple[Tensor, ...]:
    """The results of an operator, also of one that has a single one."""
    return results if isinstance(results, tuple) else (results,)


def tensor_roles(graph: Graph) -> dict[str, Role]:
    """The role of each weight and constant.

    Weights of floats learn, unless they are running statistics or settings. Constants move with the
    network but do not learn. Settings are read by the CPU.
    """
    uses: dict[str, set[str]] = {}
    for node in graph.nodes:
        operator = OPERATORS[node.operator]
        for place, name in enumerate(node.inputs):
            kind = (
                "statistics"
                if place in operator.statistics
                else "setting"
                if place in operator.settings
                else "data"
            )
            uses.setdefault(name, set()).add(kind)
    roles: dict[str, Role] = {}
    for name, value in (*graph.weights.items(), *graph.constants.items()):
        kinds = uses.get(name, {"data"})
        if not value.is_floating_point() or kinds == {"setting"}:
            roles[name] = "setting"
        elif "statistics" in kinds:
            roles[name] = "statistics"
        else:
            roles[name] = "parameter" if name in graph.weights else "constant"
    return roles


def _host_tensors(graph: Graph) -> Iterator[str]:
    """Names of tensors that are computed from sizes, settings and constants only."""
    host = {name for name, value in graph.weights.items() if not value.is_floating_point()}
    host |= set(graph.constants)
    yield from host
    for node in graph.nodes:
        if node.operator in _SIZES or all(name in host for name in node.inputs if name):
            host |= set(node.outputs)
            yield from node.outputs


def _steps(graph: Graph, roles: Mapping[str, Role], host: frozenset[str]) -> Iterator[Step]:
    values = {**graph.constants, **graph.weights}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    images = {entry.name for entry in graph.inputs} | set(graph.producers())
    for i, node in enumerate(graph.nodes):
        operator = OPERATORS[node.operator]
        is_host = all(name in host for name in node.outputs if name)
        fixed = tuple(
            values[name]
            if name in values
            and (is_host or place in operator.settings or roles[name] == "setting")
            else None
            for place, name in enumerate(node.inputs)
        )
        released = {name for name in node.inputs if name in images and last[name] == i}
        unread = {name for name in node.outputs if name not in last}
        yield Step(node, operator, fixed, is_host, tuple((released | unread) - set(graph.outputs)))


def run(
    work: Program,
    images: Mapping[str, Tensor],
    weight: Callable[[str], Tensor],
    *,
    trains: Callable[[GraphNode], bool],
    normalise: Compute | None = None,
) -> dict[str, Tensor]:
    """The graph's outputs by name.

    Args:
        images: The graph's inputs by name.
        weight: A parameter, statistic or constant by its name.
        trains: Whether a node computes as in training.
        normalise: Computes batch normalisation in training, in place of its operator.
    """
    values = dict(images)
    for step in work.steps:
        node = step.node
        inputs = tuple(
            fixed if fixed is not None else _value(name, values, weight)
            for name, fixed in zip(node.inputs, step.fixed, strict=True)
        )
        call = Call(node, inputs, work.graph.opset, trains(node))
        is_replaced = normalise is not None and call.trains and node.operator == BATCH_NORM
        compute = normalise if normalise is not None and is_replaced else step.operator.compute
        results = compute(call)
        del inputs, call
        if isinstance(results, tuple):
            values.update(zip(node.outputs, results, strict=False))
        else:
            values[node.outputs[0]] = results
        del results
        for name in step.released:
            values.pop(name, None)
    return {name: _output(name, values, weight) for name in work.graph.outputs}


def _value(
    name: str, values: Mapping[str, Tensor], weight: Callable[[str], Tensor]
) -> Tensor | None:
    if not name:
        return None
    value = values.get(name)
    return weight(name) if value is None else value


def _output(name: str, values: Mapping[str, Tensor], weight: Callable[[str], Tensor]) -> Tensor:
    value = values.get(name)
    return weight(name) if value is None else value
