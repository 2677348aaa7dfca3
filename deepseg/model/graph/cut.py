"""A part of a graph: cut at inner tensors, without chosen nodes, without a closing softmax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.model.graph.graph import Graph, GraphNode, pruned
from deepseg.model.graph.names import nodes_by_name, tensor_by_name

CLOSING = ("Softmax", "LogSoftmax", "Sigmoid")  # turn scores into probabilities


@dataclass(frozen=True)
class CutGraph:
    """A part of a graph, and what a user should know of it.

    Attributes:
        graph: Without anything that the outputs do not need.
        notices: A line for every node that was taken off without being named.
    """

    graph: Graph
    notices: tuple[str, ...] = ()


def cut(
    graph: Graph,
    *,
    outputs: Sequence[str] = (),
    ignore: Sequence[str] = (),
    drops_softmax: bool = True,
) -> CutGraph:
    """Cut a graph.

    Args:
        graph: That is cut; it stays as it is.
        outputs: Where to cut: nodes, tensors or modules. Without any, the graph's outputs, or what
            the ignored nodes at its end read.
        ignore: Nodes, tensors or modules to leave out.
        drops_softmax: Whether a softmax or sigmoid that ends the graph is taken off: losses work on
            scores.

    Raises:
        DeepsegError: ``graph-name-unknown``; ``graph-node-needed`` if a node that is left out is
            needed by another; ``graph-output-undecided`` if several tensors are left open.
    """
    ignored = {node.outputs[0]: node for name in ignore for node in nodes_by_name(graph, name)}
    if outputs:
        ends = [tensor_by_name(graph, name) for name in outputs]
    else:
        ends = _open_ends(graph, ignored)
    notices = []
    if drops_softmax:
        dropped = [_before_softmax(graph, name) for name in ends]
        notices = [
            f"{node} at the end of the network is left out: losses work on scores"
            for _, nodes in dropped
            for node in nodes
        ]
        ends = [name for name, _ in dropped]
    part = pruned(replace(graph, outputs=tuple(dict.fromkeys(ends))))
    raise_if_any(_needed(part, ignored))
    return CutGraph(part, tuple(notices))


def _open_ends(graph: Graph, ignored: dict[str, GraphNode]) -> list[str]:
    """Outputs of the graph or, for ignored nodes, the images that they read."""
    if not ignored:
        return list(graph.outputs)
    ends: list[str] = []
    for output in graph.outputs:
        reads = list(dict.fromkeys(_read_at(graph, output, ignored)))
        if len(reads) != 1:
            raise DeepsegError(
                Problem(
                    code="graph-output-undecided",
                    got=f"{len(reads)} open tensors after leaving nodes out"
                    + (f": {', '.join(map(repr, reads))}" if reads else ""),
                    expected="one",
                    fix="name the output",
                )
            )
        ends += reads
    return ends


def _read_at(graph: Graph, tensor: str, ignored: dict[str, GraphNode]) -> Iterator[str]:
    """The tensors that stay open when what computes ``tensor`` is left out."""
    producers = graph.producers()
    node = producers.get(tensor)
    if node is None:
        return
    if node.outputs[0] not in ignored:
        yield tensor
        return
    for name in node.inputs:
        if name in producers and _reads_image(graph, name):
            yield from _read_at(graph, name, ignored)


def _reads_image(graph: Graph, tensor: str) -> bool:
    """True if values of ``tensor`` depend on an input, and not only on its size."""
    producers = graph.producers()
    inputs = {entry.name for entry in graph.inputs}
    pending, visited = [tensor], set[str]()
    while pending:
        name = pending.pop()
        if name in inputs:
            return True
        node = producers.get(name)
        if name in visited or node is None or node.operator in ("Shape", "Size"):
            continue
        visited.add(name)
        pending += node.inputs
    return False


def _before_softmax(graph: Graph, tensor: str) -> tuple[str, list[GraphNode]]:
    """The tensor in front of a closing softmax, and the nodes that are taken off."""
    producers, readers = graph.producers(), graph.consumers()
    closing: list[GraphNode] = []
    end, last = tensor, tensor
    node = producers.get(tensor)
    while node is not None and node.operator in (*CLOSING, "Identity"):
        if len(readers.get(last, ())) > (last != tensor):
            break  # another node reads it as well: it does not close the network
        last = node.inputs[0]
        if node.operator in CLOSING:
            closing.append(node)
            end = last
        node = producers.get(last)
    return end, closing


def _needed(part: Graph, ignored: dict[str, GraphNode]) -> Iterable[Problem]:
    readers = part.consumers()
    for node in part.nodes:
        if node.outputs[0] not in ignored:
            continue
        consumers = [r for name in node.outputs for r in readers.get(name, ())]
        first = next((r for r in consumers if r.outputs[0] not in ignored), None)
        if first is not None:
            yield Problem(
                code="graph-node-needed",
                got=f"{node} among the nodes to leave out, and {first}, which reads it",
                expected="nodes that no other node needs",
                fix=f"leave {first.label!r} out as well, or name an output in front of both",
            )
        elif set(node.outputs) & set(part.outputs):
            yield Problem(
                code="graph-node-needed",
                got=f"{node} among the nodes to leave out, and its output {node.outputs[0]!r}",
                expected="an output that is not left out",
                fix="name another output",
            )
