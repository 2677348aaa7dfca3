"""A graph that grows node by node; operators have the names and meanings of ONNX, version 13 on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepseg.model.graph.graph import AttributeValue, Graph, GraphInput, GraphNode

NO_ATTRIBUTES: Mapping[str, AttributeValue] = {}
END = (1 << 63) - 1  # of an axis, however long it is
SPACE = (2, 3, 4)  # the axes X, Y and Z


class GraphBuilder:
    """Collects nodes, weights and constants; every method returns the name of a tensor.

    >>> builder = GraphBuilder()
    >>> x = builder.node("Relu", ["image"], "normal.1/activation")
    >>> builder.graph([GraphInput("image")], [x], opset=17).nodes[0].name
    '/normal/1/activation/Relu'
    """

    def __init__(self) -> None:
        self._nodes: list[GraphNode] = []
        self._weights: dict[str, Tensor] = {}
        self._constants: dict[str, Tensor] = {}

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> str:
        """A node with one result, which is named after it."""
        name = f"/{output.replace('.', '/')}/{operator}"
        self._nodes.append(GraphNode(operator, tuple(inputs), (output,), attributes, name))
        return output

    def add(self, node: GraphNode) -> None:
        """A node as it is."""
        self._nodes.append(node)

    def weight(self, name: str, value: Tensor) -> str:
        """A parameter or statistic."""
        self._weights[name] = value.detach().cpu().contiguous()
        return name

    def constant(self, name: str, value: Tensor) -> str:
        """Values that are no weights."""
        self._constants[name] = value
        return name

    def integers(self, name: str, values: Sequence[int] | int) -> str:
        """Whole numbers: a list of them, or a single one."""
        return self.constant(name, torch.tensor(values, dtype=torch.int64))

    def per_map(self, name: str, value: Tensor) -> str:
        """A weight with a value for each feature map, ``(F,)``, as ``(F, 1, 1, 1)``."""
        axes = self.integers(f"{name}/axes", (1, 2, 3))
        return self.node("Unsqueeze", [self.weight(name, value), axes], f"{name}/per_map")

    def box(
        self,
        x: str,
        starts: Sequence[int],
        ends: Sequence[int] | str,
        output: str,
        *,
        axes: Sequence[int] = SPACE,
    ) -> str:
        """The voxels from ``starts`` up to ``ends``, which may be a tensor."""
        stop = ends if isinstance(ends, str) else self.integers(f"{output}/ends", ends)
        inputs = [x, self.integers(f"{output}/starts", starts), stop]
        return self.node("Slice", [*inputs, self.integers(f"{output}/axes", axes)], output)

    def sizes(self, x: str, output: str) -> str:
        """Voxels of ``x`` along X, Y, Z."""
        shape = self.node("Shape", [x], f"{output}/shape")
        return self.box(shape, (2,), (5,), output, axes=(0,))

    def graph(self, inputs: Sequence[GraphInput], outputs: Sequence[str], *, opset: int) -> Graph:
        """All that was collected."""
        return Graph(
            tuple(self._nodes), tuple(inputs), tuple(outputs), self._weights, self._constants, opset
        )
