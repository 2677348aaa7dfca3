"""A graph of ONNX operators under construction, and its derivative by reverse-mode differentiation.

Every function that adds nodes to a `Tape` also notes how a gradient comes back through them: one
`Pullback` for each input, itself a few nodes. `Tape.gradients` walks through these notes from the
last to the first. All shapes are known, and nothing is computed here.

Source: A. Griewank, A. Walther, "Evaluating Derivatives", SIAM, 2008, doi:10.1137/1.9780898717761.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepseg.model.graph.graph import GraphNode

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Variable:
    """A tensor of the graph.

    Attributes:
        dtype: As numpy calls it.
    """

    name: str
    shape: Shape
    dtype: str = "float32"


Pullback: TypeAlias = Callable[[Variable], Variable]
"""The gradient of an input, from the gradient of a result."""


@dataclass(frozen=True)
class _Record:
    result: str
    inputs: tuple[tuple[Variable, Pullback], ...]


@dataclass
class Tape:
    """Nodes in the order in which they are computed, and how gradients come back through them.

    A node that is there already is not computed twice.

    Attributes:
        inputs: Tensors that are fed.
        nodes: With the operators, attributes and meanings of ONNX.
        constants: Values that are written into the graph, by name.
    """

    inputs: list[Variable] = field(default_factory=list)
    nodes: list[GraphNode] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    _records: list[_Record] = field(default_factory=list)
    _active: set[str] = field(default_factory=set)
    _results: dict[Any, tuple[Variable, ...]] = field(default_factory=dict)

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> Variable:
        """A tensor that is fed."""
        variable = Variable(name, shape, dtype)
        self.inputs.append(variable)
        return variable

    def weight(self, name: str, value: NDArray[Any]) -> Variable:
        """A named tensor that is written into the graph."""
        self.constants[name] = value
        return Variable(name, value.shape, str(value.dtype))

    def constant(self, value: ArrayLike, dtype: str = "float32") -> Variable:
        """A nameless tensor that is written into the graph; equal ones are there once."""
        array = np.asarray(value, dtype)
        key = ("constant", array.shape, dtype, array.tobytes())
        if key not in self._results:
            self._results[key] = (self.weight(f"constant_{len(self.constants)}", array),)
        return self._results[key][0]

    def call(
        self,
        operator: str,
        inputs: Sequence[Variable],
        shape: Shape,
        *,
        dtype: str = "float32",
        **attributes: Any,
    ) -> Variable:
        """The result of a node, which has one.

        >>> tape = Tape()
        >>> x = tape.input("x", (2, 3))
        >>> tape.call("Exp", [x], x.shape) == tape.call("Exp", [x], x.shape)
        True
        """
        return self.call_several(operator, inputs, ((shape, dtype),), **attributes)[0]

    def call_several(
        self,
        operator: str,
        inputs: Sequence[Variable],
        results: Sequence[tuple[Shape, str]],
        **attributes: Any,
    ) -> tuple[Variable, ...]:
        """The results of a node, of given shapes and types."""
        names = tuple(x.name for x in inputs)
        key = (operator, names, len(results), tuple(sorted(attributes.items())))
        if key not in self._results:
            label = f"{operator}_{len(self.nodes)}"
            outputs = [label if i == 0 else f"{label}_{i}" for i in range(len(results))]
            self.nodes.append(GraphNode(operator, names, tuple(outputs), attributes))
            self._results[key] = tuple(
                Variable(name, shape, dtype)
                for name, (shape, dtype) in zip(outputs, results, strict=True)
            )
        return self._results[key]

    def rename(self, variable: Variable, name: str) -> Variable:
        """``variable`` under another name, as an output of the graph."""
        node = GraphNode("Identity", (variable.name,), (name,))
        self.nodes.append(node)
        return Variable(name, variable.shape, variable.dtype)

    def watch(self, variable: Variable) -> Variable:
        """``variable``, from now on one for which gradients are wanted."""
        self._active.add(variable.name)
        return variable

    def record(self, result: Variable, *inputs: tuple[Variable, Pullback]) -> Variable:
        """``result``, with the way in which its gradient comes back to the inputs it is made of."""
        active = tuple(pair for pair in inputs if pair[0].name in self._active)
        if active and result.name not in self._active:
            self._active.add(result.name)
            self._records.append(_Record(result.name, active))
        return result

    def gradients(self, result: Variable, variables: Sequence[Variable]) -> list[Variable | None]:
        """The derivative of ``result``, one number, by each variable; None where there is no way.

        >>> tape = Tape()
        >>> x = tape.watch(tape.input("x", ()))
        >>> y = tape.record(tape.call("Neg", [x], ()), (x, lambda g: tape.call("Neg", [g], ())))
        >>> (gradient,) = tape.gradients(y, [x])
        >>> [node.operator for node in tape.nodes], gradient
        (['Neg', 'Neg'], Variable(name='Neg_1', shape=(), dtype='float32'))
        """
        arrived = {result.name: self.constant(np.ones(result.shape))}
        for record in reversed(self._records):
            gradient = arrived.get(record.result)
            if gradient is None:
                continue
            for variable, pullback in record.inputs:
                part = pullback(gradient)
                assert part.shape == variable.shape, (record.result, part.shape, variable.shape)
                before = arrived.get(variable.name)
                arrived[variable.name] = (
                    part if before is None else self.call("Add", [before, part], part.shape)
                )
        return [arrived.get(x.name) for x in variables]
