"""The names by which a user may call a part of a graph.

A node's name, the name of any of its outputs, and the dotted prefix of weights or of a module are
all accepted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from deepseg.errors import DeepsegError, Problem
from deepseg.model.graph.graph import Graph, GraphNode


def nodes_by_name(graph: Graph, name: str) -> tuple[GraphNode, ...]:
    """The nodes called ``name``: one by its name or output, or all of a module.

    Raises:
        DeepsegError: ``graph-name-unknown``, with the nearest names.
    """
    for node in graph.nodes:
        if name and (name == node.name or name in node.outputs):
            return (node,)
    nodes = tuple(node for node in graph.nodes if any(_is_in(p, name) for p in _paths(graph, node)))
    if not nodes:
        raise _unknown(graph, name)
    return nodes


def tensor_by_name(graph: Graph, name: str) -> str:
    """The tensor called ``name``: itself, the first output of a node, or what a module returns.

    A module returns the first output of the last of its nodes that another one reads.

    Raises:
        DeepsegError: ``graph-name-unknown``, with the nearest names.
    """
    if name in graph.producers():
        return name
    nodes = nodes_by_name(graph, name)
    if len(nodes) == 1:
        return nodes[0].outputs[0]
    inside = {output for node in nodes for output in node.outputs}
    readers = graph.consumers()
    for node in reversed(nodes):
        outside = [r for r in readers.get(node.outputs[0], []) if r.outputs[0] not in inside]
        if outside or node.outputs[0] in graph.outputs:
            return node.outputs[0]
    return nodes[-1].outputs[0]


def all_names(graph: Graph) -> list[str]:
    """Names of nodes, of tensors they compute, and of modules, each once."""
    names: dict[str, None] = {}
    for node in graph.nodes:
        for name in (node.name, *node.outputs, *_prefixes(graph, node)):
            if name:
                names.setdefault(name)
    return list(names)


def _paths(graph: Graph, node: GraphNode) -> Iterator[str]:
    """Dotted paths of the modules that a node is a part of."""
    if node.scope:
        yield node.scope
    for name in node.inputs:
        if name in graph.weights and "." in name:
            yield name.rpartition(".")[0]


def _prefixes(graph: Graph, node: GraphNode) -> Iterator[str]:
    for path in _paths(graph, node):
        parts = path.split(".")
        for n in range(1, len(parts) + 1):
            yield ".".join(parts[:n])


def _is_in(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}.")


def _unknown(graph: Graph, name: str) -> DeepsegError:
    nearest = difflib.get_close_matches(name, all_names(graph), n=3, cutoff=0.4)
    hint = f"; the nearest are {', '.join(map(repr, nearest))}" if nearest else ""
    return DeepsegError(
        Problem(
            code="graph-name-unknown",
            got=f"the name {name!r}",
            expected="a node, a tensor that one computes, or a module of the network",
            fix=f"correct the name; -show lists them all{hint}",
        )
    )
