"""A foreign graph as a torch module, of which everything learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from deepseg.model import kernels
from deepseg.model.graph.cut import cut
from deepseg.model.graph.graph import Graph, GraphNode, joined
from deepseg.model.graph.names import nodes_by_name
from deepseg.model.graph.operators.call import Call
from deepseg.model.graph.operators.normalisation import EPSILON, MOMENTUM
from deepseg.model.graph.operators.table import check_operators
from deepseg.model.graph.program import Program, program, run
from deepseg.model.kernels import StatisticsSync


@dataclass(frozen=True)
class GraphLayer:
    """A node with weights.

    Attributes:
        name: Dotted path that its weights share, or the node's label.
        operator: Such as ``Conv``.
        node: First output of the node.
        weights: Keys of its parameters and statistics in the state dict.
    """

    name: str
    operator: str
    node: str
    weights: tuple[str, ...]


class GraphNetwork(nn.Module):
    """A graph, whole or cut, that is computed by torch and trained like any other module.

    Weights of floats are parameters under their names in the graph, dots making modules of them.
    Running statistics of batch normalisation are buffers. In training mode, batch normalisation
    uses the batch, unless `freeze_statistics` says otherwise, and dropout is active.

    Attributes:
        notices: A line for each node that was taken off without being named.
        sync_statistics: Makes statistics of a part of the batch those of the whole; None where the
            maps are the whole batch.
        dropout_enabled: False if nothing is dropped in training either.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        outputs: Sequence[str] = (),
        ignore: Sequence[str] = (),
        drops_softmax: bool = True,
    ) -> None:
        """Build the network.

        Args:
            graph: Weights without values (on torch's meta device) become zeros, to be loaded.
            outputs: Where to cut: nodes, tensors or modules; without any, the graph's outputs.
            ignore: Nodes, tensors or modules to leave out.
            drops_softmax: Whether a softmax or sigmoid that ends the graph is taken off.

        Raises:
            DeepsegError: See `cut`, `joined` and `check_operators`.
        """
        super().__init__()
        part = cut(joined(graph), outputs=outputs, ignore=ignore, drops_softmax=drops_softmax)
        check_operators(part.graph)
        self.notices = part.notices
        self.sync_statistics: StatisticsSync | None = None
        self.dropout_enabled = True
        self._program = program(part.graph)
        self._outputs = self._program.graph.outputs
        self._inner: dict[str, Tensor] | None = None
        self.dropout_enabled = True
        self._frozen: frozenset[str] = frozenset()
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._keys: dict[str, str] = {}
        for name, role in self._program.roles.items():
            if role != "setting":
                self._register(name, role)

    @property
    def graph(self) -> Graph:
        """The graph that is computed; its weights are those with which the network was built."""
        return self._program.graph

    @property
    def program(self) -> Program:
        """The graph, ready to be computed."""
        return self._program

    @property
    def keys(self) -> Mapping[str, str]:
        """Key in the state dict of every parameter and statistic, by its name in the graph."""
        return {
            name: key
            for name, key in self._keys.items()
            if self._program.roles[name] in ("parameter", "statistics")
        }

    @property
    def layers(self) -> tuple[GraphLayer, ...]:
        """Nodes with weights, in the order in which they are computed."""
        return tuple(self._layers())

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """``(N, C, …)``, one per input of the graph, to one tensor per output."""
        names = [entry.name for entry in self.graph.inputs]
        results = run(
            self._program,
            dict(zip(names, images, strict=True)),
            self._weight,
            trains=self.trains,
            normalise=None if self.sync_statistics is None else self._normalised,
        )
        if self._inner is not None:
            self._inner.update(results)
        return tuple(results[name] for name in self._outputs)

    @contextmanager
    def keeping(self, tensors: Iterable[str]) -> Iterator[dict[str, Tensor]]:
        """Dictionary in which every pass leaves these inner tensors by name, while open."""
        plain = self._program
        outputs = tuple(dict.fromkeys((*self._outputs, *tensors)))
        self._program = program(replace(plain.graph, outputs=outputs))
        inner: dict[str, Tensor] = {}
        self._inner = inner
        try:
            yield inner
        finally:
            self._program, self._inner = plain, None

    def freeze_statistics(self, names: Iterable[str] | None = None) -> None:
        """Let nodes compute in training as they do afterwards: with stored statistics, no dropout.

        Args:
            names: Nodes, tensors or modules; None for all, nothing for none. Replaces what was
                frozen before.

        Raises:
            DeepsegError: ``graph-name-unknown``.
        """
        graph = self.graph
        chosen = (
            graph.nodes
            if names is None
            else [node for name in names for node in nodes_by_name(graph, name)]
        )
        self._frozen = frozenset(node.outputs[0] for node in chosen)

    def _normalised(self, call: Call) -> Tensor:
        """Batch normalisation of maps that are a part of the batch; as torch's, and in float32."""
        assert self.sync_statistics is not None
        x = call.tensor(0)
        if x.device.type != "cpu":
            return self._normalised_on_device(call)
        volume = x.reshape(*x.shape[:2], -1, 1, 1) if x.ndim != 5 else x
        part = kernels.batch_statistics(volume.detach(), call.node.number("epsilon", EPSILON))
        whole = self.sync_statistics(part)
        with torch.no_grad():
            share = 1 - call.node.number("momentum", MOMENTUM)
            unbiased = whole.variance * (whole.voxels / max(whole.voxels - 1, 1))
            call.tensor(3).lerp_(whole.mean, share)
            call.tensor(4).lerp_(unbiased, share)
        weight, bias = call.tensor(1), call.tensor(2)
        y = kernels.fused_preactivation(volume, whole, weight, bias, torch.ones_like(bias))
        return y.view(x.shape) if x.ndim != 5 else y

    def _normalised_on_device(self, call: Call) -> Tensor:
        assert self.sync_statistics is not None
        epsilon = call.node.number("epsilon", EPSILON)
        y, mean, scale, counts = kernels.normalised_together(
            call.tensor(0), call.tensor(1), call.tensor(2), epsilon, self.sync_statistics
        )
        with torch.no_grad():
            share = 1 - call.node.number("momentum", MOMENTUM)
            count = counts.sum()
            unbiased = (scale**-2 - epsilon) * (count / (count - 1).clamp(min=1))
            call.tensor(3).lerp_(mean, share)
            call.tensor(4).lerp_(unbiased, share)
        return y

    def trains(self, node: GraphNode) -> bool:
        """True if a node computes as in training: by the statistics of the batch, with dropout."""
        return self.training and node.outputs[0] not in self._frozen

    def _weight(self, name: str) -> Tensor:
        module, leaf = self._places[name]
        value = getattr(module, leaf)
        assert isinstance(value, Tensor)
        return value

    def _register(self, name: str, role: str) -> None:
        graph = self.graph
        value = graph.weights[name] if name in graph.weights else graph.constants[name]
        value = torch.zeros(value.shape) if value.is_meta else value.detach().clone()
        if role == "constant":
            module: nn.Module = self
            leaf = _free(self, f"constant_{len(self._keys)}")
            self.register_buffer(leaf, value, persistent=False)
            path = leaf
        else:
            module, leaf, path = self._place(name)
            if role == "parameter":
                module.register_parameter(leaf, nn.Parameter(value))
            else:
                module.register_buffer(leaf, value)
        self._places[name] = (module, leaf)
        self._keys[name] = path

    def _place(self, name: str) -> tuple[nn.Module, str, str]:
        """The module for a tensor, its name there, and its key in the state dict."""
        *scopes, leaf = [part or "_" for part in name.split(".")]
        module: nn.Module = self
        path = []
        for part in scopes:
            scope = part
            while hasattr(module, scope) and not isinstance(getattr(module, scope), _Scope):
                scope += "_"
            if not hasattr(module, scope):
                module.add_module(scope, _Scope())
            module = module.get_submodule(scope)
            path.append(scope)
        leaf = _free(module, leaf)
        return module, leaf, ".".join([*path, leaf])

    def _layers(self) -> Iterator[GraphLayer]:
        keys = self.keys
        for node in self.graph.nodes:
            weights = tuple(keys[name] for name in node.inputs if name in keys)
            if weights:
                path = weights[0].rpartition(".")[0]
                yield GraphLayer(path or node.label, node.operator, node.outputs[0], weights)


class _Scope(nn.Module):
    """A part of the names of a graph's weights."""


def _free(module: nn.Module, name: str) -> str:
    """``name``, longer by underscores if the module has something of that name already."""
    while hasattr(module, name):
        name += "_"
    return name
