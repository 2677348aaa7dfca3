"""A network that is turned into a graph: its weights, statistics and masks as tensors of a tape.

What learns, and what uses the statistics of the batch or drops voxels in training, is decided by
the network as it stands: frozen layers are written into the graph as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.gradients.tape import Shape, Tape, Variable
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.network import Network

WINDOW = ("window_mean", "window_var", "steps")
RUNNING = ("running_mean", "running_var")


@dataclass(frozen=True)
class DropoutMask:
    """A mask that is drawn for every step: 1 with the probability ``share``, else 0."""

    variable: Variable
    share: float


@dataclass
class Construction:
    """A network on the way to a graph.

    Attributes:
        tape: That is written.
        values: Parameters and statistics of the network by name.
        changing: Names of those that steps of training change; the others are written into the
            graph.
        learnt: Names of the parameters among these.
        trains: Whether the graph is that of a step of training, or of inference.
        statistics: New statistics by name.
        masks: Masks of dropout by name.
    """

    tape: Tape
    values: Mapping[str, NDArray[Any]]
    changing: frozenset[str]
    learnt: frozenset[str]
    trains: bool
    statistics: dict[str, Variable] = field(default_factory=dict)
    masks: dict[str, DropoutMask] = field(default_factory=dict)
    _variables: dict[str, Variable] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Variable:
        """A parameter or a statistic by its name; of those that learn, gradients are wanted."""
        if name not in self._variables:
            value = self.values[name]
            if name in self.changing:
                variable = self.tape.input(name, value.shape, str(value.dtype))
                if self.trains and name in self.learnt:
                    self.tape.watch(variable)
            else:
                variable = self.tape.weight(name, value)
            self._variables[name] = variable
        return self._variables[name]

    def mask(self, place: str, shape: Shape, share: float) -> Variable:
        """The mask of dropout at a layer or node."""
        name = f"mask.{place}"
        self.masks[name] = DropoutMask(self.tape.input(name, shape), share)
        return self.masks[name].variable


def learnt_names(network: Network) -> tuple[str, ...]:
    """Names of the parameters that learn."""
    return tuple(name for name, weight in network.named_parameters() if weight.requires_grad)


def changing_statistics(network: Network) -> Iterator[str]:
    """Names of the statistics that steps of training change."""
    for layer in network.layers():
        if layer.norm is not None and not layer.norm.is_frozen:
            for name, _ in layer.norm.named_buffers():
                yield f"{layer.plan.address}.norm.{name}"
    for pathway in network.layout.pathways:
        if pathway.network is not None:
            yield from _changing_in(network.imported(pathway.name), pathway.name)


def _changing_in(module: GraphNetwork, pathway: str) -> Iterator[str]:
    for node in module.graph.nodes:
        if node.operator == "BatchNormalization" and module.trains(node):
            for name in node.inputs[3:5]:
                yield f"{pathway}.{module.keys[name]}"


def values_of(network: Network) -> dict[str, NDArray[Any]]:
    """Copies of the parameters and statistics of a network, by name."""
    state = network.state_dict()
    return {name: np.array(value.cpu().numpy(), order="C") for name, value in state.items()}
