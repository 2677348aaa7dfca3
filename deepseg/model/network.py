"""A network: parallel pathways → full resolution → joined → final classification pathway.

Inputs are one float tensor ``(N, C, X, Y, Z)`` per parallel pathway, each at its own resolution;
the output is logits ``(N, K, X', Y', Z')`` at full resolution. Where the inputs come from is the
business of ``data/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor, nn

from deepseg.config.model import ModelConfig
from deepseg.geometry.boxes import Box, add, per_axis, sub
from deepseg.geometry.context import Alignment, NetworkGeometry, margin
from deepseg.model import kernels
from deepseg.model.feature_maps import crop_offset, cropped, map_size, repeated
from deepseg.model.graph.initialisation import initialised
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.imported import AuxiliaryScores, graph_network, graph_of, imported_maps
from deepseg.model.kernels import MultiScaleMaps
from deepseg.model.layers import (
    Convolution,
    Layer,
    initialise,
    update_running_together,
)
from deepseg.model.layout import Layout, PathwayLayout, layout


class Network(nn.Module):
    """A multi-pathway network; doi:10.1016/j.media.2016.10.004."""

    def __init__(self, config: ModelConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.layout: Layout = layout(config)
        for pathway in (*self.layout.pathways, self.layout.fc):
            if not pathway.addresses:
                continue  # no FC pathway: an imported network has its own classifier
            self.add_module(
                pathway.name,
                Pathway(pathway, config)
                if pathway.network is None
                else graph_network(pathway.network),
            )
        for layer in self.layers():
            initialise(layer, config, rng=rng)
            if layer.norm is not None:
                layer.norm.is_updated_later = True
        self._initialise_imported(rng)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits ``(N, K, X', Y', Z')`` from a tensor ``(N, C, X, Y, Z)`` per parallel pathway."""
        return self.with_auxiliary(inputs)[0]

    def with_auxiliary(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[AuxiliaryScores]]:
        """Logits as of `forward`, and the scores of the coarser levels of a U-Net, finer first."""
        outputs, auxiliary = [], list[AuxiliaryScores]()
        fc_low, _ = margin(self.layout.fc.geometry.shrink)
        for pathway, x in zip(self.layout.pathways, inputs, strict=True):
            if pathway.network is None:
                outputs.append(self._chain(pathway.name)(kernels.arranged(x)))
                continue
            maps, scores = imported_maps(self.imported(pathway.name), pathway, x)
            outputs.append(maps)
            auxiliary += [replace(level, start=add(level.start, fc_low)) for level in scores]
        logits = self._logits(outputs)
        if self.training:
            norms = (layer.norm for layer in self.layers())
            update_running_together([norm for norm in norms if norm is not None])
        return logits, auxiliary

    def _logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """Logits from the maps of every parallel pathway."""
        if not self.layout.fc.layers:
            (scores,) = outputs
            return scores.to(torch.promote_types(scores.dtype, torch.float32))
        fc = self._chain(self.layout.fc.name)
        *_, head = fc.layers()
        y = fc(self._joined(outputs))
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        logits: Tensor = y + head.bias.view(-1, 1, 1, 1)
        return logits

    def _joined(self, outputs: Sequence[Tensor]) -> Tensor | MultiScaleMaps:
        """Outputs of the parallel pathways, repeated to full resolution and joined."""
        factors = [pathway.geometry.factor for pathway in self.layout.pathways]
        size = map_size(outputs[0])
        outputs = [
            y if pathway.network is None else y[:, :, : size[0], : size[1], : size[2]]
            for y, pathway in zip(outputs, self.layout.pathways, strict=True)
        ]
        fc = self._chain(self.layout.fc.name)
        if self.training and next(fc.layers()).can_join_coarsely:
            return MultiScaleMaps(outputs, factors)
        return torch.cat([repeated(y, f, size) for y, f in zip(outputs, factors, strict=True)], 1)

    @property
    def geometry(self) -> NetworkGeometry:
        """Where in the image the network reads and predicts."""
        return self.layout.geometry(self.config.context_alignment)

    def pathways(self) -> Iterator[Pathway]:
        """The parallel pathways of our own, then the FC pathway."""
        for module in self.children():
            if isinstance(module, Pathway):
                yield module

    def imported(self, name: str) -> GraphNetwork:
        """The network of an imported pathway."""
        module = self.get_submodule(name)
        assert isinstance(module, GraphNetwork)
        return module

    def _chain(self, name: str) -> Pathway:
        module = self.get_submodule(name)
        assert isinstance(module, Pathway)
        return module

    @torch.no_grad()
    def _initialise_imported(self, rng: torch.Generator) -> None:
        for pathway in self.layout.pathways:
            if pathway.network is not None:
                module = self.imported(pathway.name)
                drawn = initialised(graph_of(pathway.network), rng=rng)
                state = {key: drawn.weights[name] for name, key in module.keys.items()}
                module.load_state_dict(state)

    def layers(self) -> Iterator[Layer]:
        """All layers of our own in the order of the layout."""
        for pathway in self.pathways():
            yield from pathway.layers()

    def convolution_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Address of the layer and weight of every convolution."""
        for layer in self.layers():
            for module in layer.conv.modules():
                if isinstance(module, Convolution):
                    yield layer.plan.address, module.weight


class Pathway(nn.Module):
    """A chain of layers, numbered from 1; some add the input of the layer before."""

    def __init__(self, plan: PathwayLayout, config: ModelConfig) -> None:
        super().__init__()
        self.plan = plan
        self.alignment = config.context_alignment
        for number, layer in enumerate(plan.layers, start=1):
            self.add_module(str(number), Layer(layer, config))

    def layers(self) -> Iterator[Layer]:
        """The layers in their order."""
        for module in self.children():
            assert isinstance(module, Layer)
            yield module

    def forward(self, x: Tensor | MultiScaleMaps) -> Tensor:
        """``(N, C, X, Y, Z)`` to the last layer's ``(N, F, X', Y', Z')``."""
        before, layers = x, list(self.layers())
        for layer, following in zip_longest(layers, layers[1:]):
            shortcut = x
            if following is not None and following.plan.adds_earlier_input:
                x, shortcut = self._with_shortcut(x, layer, following)
            y: Tensor = layer(x)
            if layer.plan.adds_earlier_input:
                y = with_residual(y, before, self.alignment)
            before, x = shortcut, y
        return y

    def _with_shortcut(
        self, x: Tensor | MultiScaleMaps, layer: Layer, following: Layer
    ) -> tuple[Tensor | MultiScaleMaps, Tensor | MultiScaleMaps]:
        """The input of ``layer``, and what ``following`` adds of it."""
        if isinstance(x, MultiScaleMaps) or not torch.is_grad_enabled():
            return x, x
        if kernels.are_used(x) or kernels.is_plain(x):  # on processors, bits stay as they were
            return x, x
        size = map_size(x)
        for plan in (layer.plan, following.plan):
            size = sub(size, add(plan.kernel, -1)) if plan.padding == "none" else size
        rule = partial(crop_offset, alignment=self.alignment)
        box = Box(per_axis(rule, map_size(x), size), size)
        return kernels.with_shortcut(x, following.plan.outputs, box)


def with_residual(y: Tensor, earlier: Tensor | MultiScaleMaps, alignment: Alignment) -> Tensor:
    """``y`` plus the middle of ``earlier``; missing feature maps count as 0, surplus is cut."""
    if isinstance(earlier, MultiScaleMaps):
        return earlier.added_to(y, alignment)
    if torch.is_grad_enabled() and not kernels.is_plain(y):
        rule = partial(crop_offset, alignment=alignment)
        offset = per_axis(rule, map_size(earlier), map_size(y))
        return kernels.add_repeated_middle(y, earlier, 0, (1, 1, 1), offset)
    maps = min(y.shape[1], earlier.shape[1])
    middle = cropped(earlier[:, :maps], map_size(y), alignment)
    if maps == y.shape[1]:
        return y + middle
    return torch.cat([y[:, :maps] + middle, y[:, maps:]], 1)
