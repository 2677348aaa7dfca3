"""A network: parallel pathways → full resolution → joined → final classification pathway.

Inputs are one float tensor ``(N, C, X, Y, Z)`` per parallel pathway, each at its own resolution;
the output are logits ``(N, K, X', Y', Z')`` at full resolution. Where the inputs come from is the
business of ``data/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from deepseg.config.model import ModelConfig
from deepseg.geometry.boxes import Int3
from deepseg.geometry.context import NetworkGeometry
from deepseg.model.kernels.coarse_join import MultiScaleInput, can_join, size_of, with_middle
from deepseg.model.kernels.convolution import arranged
from deepseg.model.layers import Layer, cropped, initialise
from deepseg.model.layout import Layout, PathwayLayout, layout


class Pathway(nn.Module):
    """A chain of layers, numbered from 1; some add the input of the layer before."""

    def __init__(self, plan: PathwayLayout, config: ModelConfig) -> None:
        super().__init__()
        self.plan = plan
        for number, layer in enumerate(plan.layers, start=1):
            self.add_module(str(number), Layer(layer, config))

    def layers(self) -> Iterator[Layer]:
        """The layers in their order."""
        for module in self.children():
            assert isinstance(module, Layer)
            yield module

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to the last layer's ``(N, F, X', Y', Z')``."""
        return through(self.layers(), x, x)


def through(layers: Iterable[Layer], before: Tensor | MultiScaleInput, x: Tensor) -> Tensor:
    """What a chain of layers makes of ``x``; ``before`` is the input of the layer before them."""
    for layer in layers:
        y = layer(x)
        if layer.plan.adds_earlier_input:
            y = (
                before.added_to(y)
                if isinstance(before, MultiScaleInput)
                else with_residual(y, before)
            )
        before, x = x, y
    return x


def with_residual(y: Tensor, earlier: Tensor) -> Tensor:
    """``y`` plus the middle of ``earlier``; missing feature maps count as 0, surplus is cut."""
    if torch.is_grad_enabled() and y.device.type == "cpu":
        return with_middle(y, earlier, 0, (1, 1, 1), size_of(earlier))
    maps = min(y.shape[1], earlier.shape[1])
    earlier = cropped(earlier[:, :maps], (y.shape[2], y.shape[3], y.shape[4]))
    if maps == y.shape[1]:
        return y + earlier
    return torch.cat([y[:, :maps] + earlier, y[:, maps:]], 1)


def repeated(x: Tensor, factor: Int3, size: Int3) -> Tensor:
    """Every voxel of ``x`` repeated ``factor`` times along each axis, the first ``size`` kept."""
    for axis, f, n in zip((2, 3, 4), factor, size, strict=True):
        if f > 1:
            x = x.repeat_interleave(f, axis)
        x = x.narrow(axis, 0, n)
    return x


class Network(nn.Module):
    """A multi-pathway network; doi:10.1016/j.media.2016.10.004."""

    def __init__(self, config: ModelConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.layout: Layout = layout(config)
        for pathway in (*self.layout.pathways, self.layout.fc):
            self.add_module(pathway.name, Pathway(pathway, config))
        for layer in self.layers():
            initialise(layer, config, rng=rng)

    @property
    def geometry(self) -> NetworkGeometry:
        """How the network looks at the image."""
        return self.layout.geometry(self.config.context_alignment)

    def pathways(self) -> Iterator[Pathway]:
        """The parallel pathways, then the FC pathway."""
        for module in self.children():
            assert isinstance(module, Pathway)
            yield module

    def layers(self) -> Iterator[Layer]:
        """All layers in the order of the layout."""
        for pathway in self.pathways():
            yield from pathway.layers()

    def kernels(self) -> Iterator[tuple[str, Tensor]]:
        """Address of the layer and weight of every convolution."""
        for layer in self.layers():
            for module in layer.conv.modules():
                if isinstance(module, nn.Conv3d):
                    yield layer.plan.address, module.weight

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits ``(N, K, X', Y', Z')`` from a tensor ``(N, C, X, Y, Z)`` per parallel pathway."""
        *parallel, fc = self.pathways()
        outputs = [pathway(arranged(x)) for pathway, x in zip(parallel, inputs, strict=True)]
        layers = list(fc.layers())
        if self.training and can_join(layers[0]):
            maps = self._joined_coarsely(outputs, fc)
        else:
            maps = self._joined(outputs, fc)
        logits: Tensor = maps.to(torch.promote_types(maps.dtype, torch.float32)) + layers[
            -1
        ].bias.view(-1, 1, 1, 1)
        return logits

    def _joined_coarsely(self, outputs: Sequence[Tensor], fc: Pathway) -> Tensor:
        first, *others = fc.layers()
        before = MultiScaleInput(
            outputs, [pathway.geometry.factor for pathway in self.layout.pathways]
        )
        x = before.convolved(first)
        return through(others, before, x)

    def _joined(self, outputs: Sequence[Tensor], fc: Pathway) -> Tensor:
        size = (outputs[0].shape[2], outputs[0].shape[3], outputs[0].shape[4])
        joined = torch.cat(
            [
                repeated(y, pathway.geometry.factor, size)
                for pathway, y in zip(self.layout.pathways, outputs, strict=True)
            ],
            1,
        )
        maps: Tensor = fc(joined)
        return maps
