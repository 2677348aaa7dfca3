"""One computation of one node, and what a function has to be to compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from deepseg.model.graph.graph import GraphNode, node_error

Results: TypeAlias = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """The inputs of one computation of a node.

    Attributes:
        inputs: Tensors in the order of the node's inputs; None for one that is left out.
        opset: Version of the meanings of the operators.
        trains: Whether dropout is active and batch normalisation uses the batch.
    """

    node: GraphNode
    inputs: tuple[Tensor | None, ...]
    opset: int
    trains: bool = False

    def tensor(self, place: int) -> Tensor:
        """The input at ``place``, which the operator needs."""
        x = self.optional(place)
        if x is None:
            raise node_error(self.node, f"no input {place + 1}", "all inputs of the operator")
        return x

    def optional(self, place: int) -> Tensor | None:
        """The input at ``place``; None if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def integers(self, attribute: str, place: int) -> list[int] | None:
        """Whole numbers that are an attribute in older versions and an input in newer ones."""
        values = self.node.integers(attribute)
        tensor = self.optional(place)
        if values is None and tensor is not None:
            values = [int(n) for n in tensor.reshape(-1).tolist()]
        return values

    def number(self, attribute: str, place: int, default: float) -> float:
        """A number that is an attribute in older versions and an input in newer ones."""
        tensor = self.optional(place)
        if tensor is not None and tensor.numel():
            return float(tensor.reshape(-1)[0])
        return self.node.number(attribute, default)


def accepted(_node: GraphNode) -> str | None:
    """None: the operator is computed with all its settings."""
    return None


@dataclass(frozen=True)
class Operator:
    """The function that computes an operator, and the parts that its inputs play.

    Attributes:
        compute: The results of a call.
        refusal: Settings of a node that are not covered, in words; None if all are.
        settings: Places of inputs that are settings rather than weights or images.
        statistics: Places of inputs that are running statistics.
        results: How many outputs are computed; 0 for as many as the node has.
    """

    compute: Callable[[Call], Results]
    refusal: Callable[[GraphNode], str | None] = accepted
    settings: tuple[int, ...] = ()
    statistics: tuple[int, ...] = ()
    results: int = 1
