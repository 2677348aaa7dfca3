"""Builder of a graph, layer by layer: nodes, and weights in the order of axes that torch has.

Images of Keras have their channels last, those of a graph first; the axes of weights are turned
when they are read, so that nothing is turned when the network computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from deepseg.counts import counted
from deepseg.model.graph.graph import AttributeValue, GraphNode
from deepseg.transfer.sources.keras.model_file import Arrays, as_float
from deepseg.transfer.sources.keras.problems import damaged, unfitting_weights

AXES = 5  # of a batch of images


class UnsupportedLayerError(Exception):
    """A class, or a setting of it, that no operators compute; the text stands after its name."""


@dataclass(frozen=True)
class Layer:
    """A layer as a file describes it.

    Attributes:
        name: With the names of the networks that it is in: ``inner.conv3d``.
        kind: Its class, such as ``Conv3D``.
        settings: Its config.
        arrays: Its weights in the order of Keras; None where there are none to read.
        is_legacy: Written by Keras 2, some of whose functions differ.
        channels_first: Whether its images have their channels in front.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    arrays: Arrays | None
    is_legacy: bool = False
    channels_first: bool = False

    def integer(self, key: str, default: int) -> int:
        """A whole number among the settings."""
        value = self.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise damaged(f"{key} {value!r} of layer {self.name!r}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number among the settings."""
        value = self.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnsupportedLayerError(f"{key} {value!r}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """A setting that is on or off."""
        return bool(self.settings.get(key, default))

    def word(self, key: str, default: str) -> str:
        """A word among the settings."""
        value = self.settings.get(key, default)
        return value if isinstance(value, str) else str(value)

    def triple(self, key: str, default: Sequence[int] = (1, 1, 1)) -> tuple[int, int, int]:
        """Whole numbers along X, Y and Z; one stands for all.

        >>> Layer("pool", "MaxPooling3D", {"pool_size": [2, 2, 1]}, None).triple("pool_size")
        (2, 2, 1)
        """
        value = self.settings.get(key)
        if value is None:
            value = default
        values = [value] * 3 if isinstance(value, int) else list(value)
        if len(values) != 3 or not all(isinstance(n, int) and n > 0 for n in values):
            raise damaged(f"{key} {value!r} of layer {self.name!r}")
        return values[0], values[1], values[2]

    def pairs(self, key: str) -> list[tuple[int, int]]:
        """Whole numbers before and after, along X, Y and Z."""
        value = self.settings.get(key, 1)
        values = [value] * 3 if isinstance(value, int) else list(value)
        pairs = [(n, n) if isinstance(n, int) else tuple(n) for n in values]
        if len(pairs) != 3 or any(len(p) != 2 or min(p) < 0 for p in pairs):
            raise damaged(f"{key} {value!r} of layer {self.name!r}")
        return [(low, high) for low, high in pairs]

    def axis(self, key: str, default: int = -1) -> int:
        """An axis of the settings, as the graph counts: batch, channels, X, Y, Z.

        >>> Layer("join", "Concatenate", {"axis": -1}, None).axis("axis")
        1
        >>> Layer("join", "Concatenate", {"axis": 1}, None).axis("axis")
        2
        """
        value = self.settings.get(key, default)
        if isinstance(value, (list, tuple)) and len(value) == 1:
            (value,) = value
        if not isinstance(value, int) or not -AXES <= value < AXES:
            raise UnsupportedLayerError(f"{key} {value!r}")
        place = value % AXES
        return place if self.channels_first else (0, 2, 3, 4, 1)[place]


@dataclass(frozen=True)
class Facts:
    """Size of a tensor, as far as it is known.

    Attributes:
        maps: Feature maps, or None.
        is_image: It has an axis of channels and three of space.
    """

    maps: int | None
    is_image: bool = True


@dataclass
class Parts:
    """The parts of a graph as they are made.

    Attributes:
        facts: By tensor.
    """

    nodes: list[GraphNode] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)


class LayerCall:
    """One use of a layer: the nodes that compute it are added one after the other.

    Attributes:
        layer: Whose use it is.
        inputs: Tensors that it reads.
        facts: Of its first input.
        all_facts: Of all inputs.
    """

    def __init__(self, layer: Layer, label: str, inputs: Sequence[str], parts: Parts) -> None:
        self.layer = layer
        self.inputs = tuple(inputs)
        self.all_facts = tuple(parts.facts[name] for name in inputs)
        self.facts = self.all_facts[0]
        self._label = label
        self._parts = parts
        self._nodes: list[GraphNode] = []

    def node(self, operator: str, *inputs: str, **attributes: AttributeValue) -> str:
        """Add a node; the name of its result is returned."""
        names_so_far = {node.outputs[0] for node in self._nodes}
        names = (f"{self._label}.{operator}{n or ''}" for n in range(len(names_so_far) + 1))
        name = next(name for name in names if name not in names_so_far)
        self._nodes.append(
            GraphNode(operator, inputs, (name,), attributes, name=name, scope=self._label)
        )
        return name

    def constant(self, role: str, value: Tensor) -> str:
        """Add a value that does not learn."""
        name = f"{self._label}.{role}"
        self._parts.constants[name] = value
        return name

    def weight(
        self, role: str, shape: Sequence[int], order: Sequence[int] = (), *, voxels: int = 0
    ) -> str:
        """Add the next weight of the layer; its name is returned.

        Args:
            role: Its name in the layer.
            shape: In Keras.
            order: Of its axes in the graph; none if they stay.
            voxels: Size of a kernel along each axis, for a matrix that becomes one.

        Raises:
            DeepsegError: ``keras-weights``, if the file has another one.
        """
        name = f"{self.layer.name}.{role}"
        array = self._next_array(name, tuple(shape))
        tensor = torch.zeros(tuple(shape)) if array is None else torch.from_numpy(as_float(array))
        if order:
            tensor = tensor.permute(*order).contiguous()
        if voxels:
            tensor = tensor.reshape(*tensor.shape, voxels, voxels, voxels)
        self._parts.weights[name] = tensor
        self._read += 1
        return name

    _read = 0

    def _next_array(self, name: str, shape: tuple[int, ...]) -> Any:
        arrays = self.layer.arrays
        if arrays is None:
            return None
        if self._read >= len(arrays):
            raise unfitting_weights(
                f"{counted(len(arrays), 'weight')} of {self.layer.kind} {self.layer.name!r}, "
                f"none for {name}",
                "a weight of every layer",
                "give the weights that belong to this description",
            )
        array = arrays[self._read]
        if array.shape != shape:
            raise unfitting_weights(
                f"{name} of shape {array.shape}",
                f"{shape}, as {self.layer.kind} {self.layer.name!r} describes it",
                "give the weights that belong to this description",
            )
        return array

    @property
    def maps(self) -> int:
        """Feature maps of the first input, which a layer with weights has to know."""
        if self.facts.maps is None:
            raise UnsupportedLayerError("an input whose channels are not known")
        return self.facts.maps

    def give_back(self, result: str, facts: Facts) -> str:
        """Close the layer: its nodes go to the graph, a single one under the layer's own name.

        Args:
            result: What the layer returns.
            facts: Of it.
        """
        if self.layer.arrays is not None and self._read != len(self.layer.arrays):
            raise unfitting_weights(
                f"{counted(len(self.layer.arrays), 'weight')} of {self.layer.kind} "
                f"{self.layer.name!r}",
                f"{self._read}",
                "give the weights that belong to this description",
            )
        nodes = list(self._nodes)
        if len(nodes) == 1 and result == nodes[0].outputs[0]:
            result = self._label
            nodes = [replace(nodes[0], name=result, outputs=(result,))]
        self._parts.nodes += nodes
        self._parts.facts[result] = facts
        return result

    def refused(self, reason: str) -> str:
        """Close a layer that is not computed: one node, which may be cut off but not computed."""
        names = list(self._raw_weights())
        self._nodes = []
        self._read = len(self.layer.arrays or ())
        words = f"Keras.{self.layer.kind}" + (f" with {reason}" if reason else "")
        return self.give_back(self.node(words, *self.inputs, *names), Facts(None))

    def _raw_weights(self) -> Iterator[str]:
        for number, array in enumerate(self.layer.arrays or ()):
            name = f"{self.layer.name}.{number}"
            self._parts.weights[name] = torch.from_numpy(as_float(array))
            yield name
