"""All operators that are covered, and the refusal of a graph with others."""

from __future__ import annotations

from collections.abc import Container, Iterator

from deepseg.errors import Problem, raise_if_any
from deepseg.model.graph.graph import Graph, GraphNode
from deepseg.model.graph.operators import (
    activation,
    arithmetic,
    convolution,
    normalisation,
    pooling,
    resizing,
    shapes,
)
from deepseg.model.graph.operators.call import Operator

OPERATORS: dict[str, Operator] = {
    **convolution.OPERATORS,
    **normalisation.OPERATORS,
    **activation.OPERATORS,
    **pooling.OPERATORS,
    **resizing.OPERATORS,
    **arithmetic.OPERATORS,
    **shapes.OPERATORS,
}
OLDEST, NEWEST = 7, 23  # versions whose meanings are the same, or are told apart


def check_operators(graph: Graph) -> None:
    """Refuse a graph with operators, or settings of them, that are not covered.

    Raises:
        DeepsegError: ``graph-operator``, with one problem for every kind, or ``graph-version``.
    """
    raise_if_any((*_version(graph), *_refusals(graph)))


def _version(graph: Graph) -> Iterator[Problem]:
    if not OLDEST <= graph.opset <= NEWEST:
        yield Problem(
            code="graph-version",
            got=f"operators of version {graph.opset}",
            expected=f"{OLDEST} to {NEWEST}",
            fix=f"export the network again with opset_version={min(max(graph.opset, 17), 20)}",
        )


def _refusals(graph: Graph) -> Iterator[Problem]:
    kinds: dict[tuple[str, str], list[GraphNode]] = {}
    readers = {*graph.consumers(), *graph.outputs}
    for node in graph.nodes:
        reason = _refusal(node, readers)
        if reason is not None:
            kinds.setdefault((node.operator, reason), []).append(node)
    for (operator, reason), nodes in kinds.items():
        more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        yield Problem(
            code="graph-operator",
            got=f"{operator}{reason} at {nodes[0].label!r}{more}",
            expected="operators that deepseg can train",
            fix="cut the network in front of it, or export it without",
        )


def _refusal(node: GraphNode, readers: Container[str]) -> str | None:
    """The part of a node that is not covered, as it stands after its name; None if all is."""
    operator = OPERATORS.get(node.operator)
    if operator is None:
        return ""
    if operator.results and any(name in readers for name in node.outputs[operator.results :]):
        return f" with output {operator.results + 1}"
    reason = operator.refusal(node)
    return None if reason is None else f" with {reason}"
