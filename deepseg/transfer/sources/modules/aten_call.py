"""One operation of a traced module, and the nodes of a graph that stand for it.

Operations are those of torch's ATen; nodes have the operators of `deepseg.model.graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from deepseg.model.graph.graph import AttributeValue, GraphNode

OPSET = 21  # version of the meanings of the operators
LAST = 2**63 - 1  # the end of a slice that has none


@dataclass(frozen=True)
class Result:
    """The node that computes the result of an operation.

    Attributes:
        operator: Such as ``Conv``.
        inputs: Names of tensors; ``""`` where an optional one is left out.
        attributes: Its settings.
        count: How many tensors it returns.
    """

    operator: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]
    count: int = 1


Translation: TypeAlias = Result | str | None  # a tensor that is there already; None: not covered


class GraphParts:
    """Nodes and constants of a graph that is being put together.

    Args:
        names: Of tensors, not free any more.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.nodes: list[GraphNode] = []
        self.constants: dict[str, Tensor] = {}
        self._names = set(names)

    def free(self, name: str) -> str:
        """``name``, or one like it that no tensor has; it is taken from now on.

        >>> parts = GraphParts(["add"])
        >>> parts.free("add"), parts.free("add")
        ('add_', 'add__')
        """
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def constant(self, value: Tensor) -> str:
        """The name of a constant."""
        name = self.free(f"constant_{len(self.constants)}")
        self.constants[name] = value
        return name


class AtenCall:
    """An operation with its arguments by name, and the nodes in front of the one for its result.

    Args:
        node: Of the traced module.
        names: Names of the tensors that were translated before.
        parts: Get the nodes.
    """

    def __init__(self, node: fx.Node, names: Mapping[fx.Node, str], parts: GraphParts) -> None:
        self.node, self._names, self._parts = node, names, parts
        self.values = _arguments(node)
        stack = list(node.meta.get("nn_module_stack", {}).values())
        self.scope = str(stack[-1][0]) if stack else ""

    @property
    def operation(self) -> str:
        """Such as ``aten.conv3d``."""
        return operation_of(self.node)

    def tensor(self, argument: str) -> str:
        """The name of a tensor; a number becomes a constant, None an input that is left out."""
        value = self.values.get(argument)
        if isinstance(value, fx.Node):
            return self._names[value]
        return "" if value is None else self.constant(torch.tensor(value))

    def number_like(self, argument: str, other: str) -> str:
        """The name of a tensor, or of a constant of the type of another argument."""
        value = self.values.get(argument)
        if isinstance(value, fx.Node):
            return self._names[value]
        return self.constant(torch.tensor(value, dtype=self.meta(other).dtype))

    def tensors(self, argument: str) -> tuple[str, ...]:
        """The names of several tensors."""
        return tuple(self._names[value] for value in self.values[argument])

    def all_tensors(self) -> tuple[str, ...]:
        """The names of all tensors that it reads."""
        return tuple(self._names[node] for node in self.node.all_input_nodes if node in self._names)

    def meta(self, argument: str) -> Tensor:
        """A tensor without values: shape and type of an argument."""
        value: Tensor = self.values[argument].meta["val"]
        return value

    def is_given(self, argument: str) -> bool:
        """The argument is there, and not None."""
        return self.values.get(argument) is not None

    def integers(self, argument: str, count: int = 1) -> tuple[int, ...]:
        """Whole numbers; a single one stands for ``count`` equal ones."""
        value = self.values[argument]
        values = [value] if isinstance(value, int) else list(value)
        return tuple(int(n) for n in (values * count if len(values) == 1 else values))

    def sizes(self, values: Sequence[int | fx.Node]) -> str:
        """The name of a tensor ``(n,)`` of whole numbers, some of which depend on the image."""
        numbers = [value for value in values if not isinstance(value, fx.Node)]
        if len(numbers) == len(values):
            return self.constant(torch.tensor(numbers, dtype=torch.int64))
        pieces = [
            self._names[value] if isinstance(value, fx.Node) else self.sizes([value])
            for value in values
        ]
        return self.step("Concat", *pieces, axis=0)

    def constant(self, value: Tensor) -> str:
        """The name of a constant."""
        return self._parts.constant(value)

    def step(self, operator: str, *inputs: str, **attributes: AttributeValue) -> str:
        """Add a node in front of the one for the result; the name of its output."""
        name = self._parts.free(f"{self.node.name}_{operator.lower()}")
        self._parts.nodes.append(GraphNode(operator, inputs, (name,), attributes, scope=self.scope))
        return name

    def add(self, result: Result) -> str:
        """Add the node for the result; the name of its first output."""
        first = self._parts.free(self.node.name)
        more = [self._parts.free(f"{first}_{n}") for n in range(1, result.count)]
        self._parts.nodes.append(
            GraphNode(
                result.operator,
                result.inputs,
                (first, *more),
                dict(result.attributes),
                scope=self.scope,
            )
        )
        return first


Translate: TypeAlias = Callable[[AtenCall], Translation]


def result(operator: str, *inputs: str, **attributes: AttributeValue) -> Result:
    """The node for a result; inputs that are left out at the end are dropped.

    >>> result("Conv", "x", "kernel", "", group=1).inputs
    ('x', 'kernel')
    """
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return Result(operator, inputs, attributes)


def operation_of(node: fx.Node) -> str:
    """The operation without its overload and without the mark of one that works in place.

    Args:
        node: That calls a function.
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        space, _, name = target._schema.name.partition("::")
        return f"{space}.{name.rstrip('_')}"
    return f"python.{getattr(target, '__name__', str(target))}"


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments by name, with the values of those that are left out."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(n): value for n, value in enumerate(node.args)}
    schema = node.target._schema.arguments
    values = {entry.name: entry.default_value for entry in schema if entry.has_default_value()}
    values |= dict(zip((entry.name for entry in schema), node.args, strict=False))
    return values | dict(node.kwargs)
