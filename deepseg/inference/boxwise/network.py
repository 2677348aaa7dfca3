"""A trained network in the form that computes fastest; the same function as ``model/network.py``.

A `MapSizes` is one whole segment: a tile, or a whole padded image. Any box of its prediction can be
computed by itself, and the boxes of one segment fit together: context lies on one grid, padded
layers see real neighbours, and only the ends of the segment are mirrored or surrounded by zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deepseg.geometry.boxes import Box, Int3
from deepseg.inference.boxwise.layers import (
    BoxLayer,
    FeatureMapRegion,
    JoinLayer,
    add_middle,
    affine,
    padded_channels,
    with_channels,
)
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.model import kernels
from deepseg.model.host_copy import uploaded
from deepseg.model.layers import Layer
from deepseg.model.layout import LayerPlan
from deepseg.model.network import Network
from deepseg.model.regions import MapSizes, boxes_needed, map_sizes, split

Read = Callable[[int, Box], Tensor]  # pathway, box of what it reads of the image → (C, X, Y, Z)


def foldable(layers: Sequence[LayerPlan]) -> list[bool]:
    """For each layer, True if nothing but the next layer's norm reads its output."""
    return [
        i + 1 < len(layers) and not (i + 2 < len(layers) and layers[i + 2].adds_earlier_input)
        for i in range(len(layers))
    ]


class BoxwiseNetwork:
    """The function of a network in evaluation mode.

    Args:
        network: Its weights are copied; later training does not change them here.
        dtype: Of maps and weights. The last layer is always computed in float32.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        self.layout = network.layout
        self.geometry = network.geometry
        self.dtype = dtype
        self.device = next(network.parameters()).device
        *parallel, fc = (list(pathway.layers()) for pathway in network.pathways())
        with torch.no_grad():
            self._parallel = [_box_layers(layers, dtype) for layers in parallel]
            self._join = JoinLayer(
                fc[0],
                [pathway.outputs for pathway in self.layout.pathways],
                [pathway.geometry.factor for pathway in self.layout.pathways],
                following=affine(fc[1]) if foldable([layer.plan for layer in fc])[0] else None,
                dtype=_dtype(fc[0], dtype),
            )
            self._fc = _box_layers(fc, dtype, first=1)
            self._class_bias = fc[-1].bias.detach().float().view(-1, 1, 1, 1)

    def map_sizes(self, inputs: Sequence[Int3]) -> MapSizes:
        """Sizes of a segment whose pathways read ``inputs`` voxels."""
        return map_sizes(self.layout.pathways, self.layout.fc, inputs)

    def joined_box(self, whole: MapSizes, prediction: Box) -> Box:
        """Voxels of the normal pathway's output that are needed for those predicted."""
        return boxes_needed(self.layout.fc.layers, whole.fc, prediction)[0]

    def pathway(self, number: int, whole: MapSizes, output: Box, read: Read) -> FeatureMapRegion:
        """Some voxels of the last output of a parallel pathway."""
        sizes, layers = whole.parallel[number], self._parallel[number]
        boxes = boxes_needed([layer.plan for layer in layers], sizes, output)
        image = uploaded(read(number, boxes[0]), self.device)[None]
        values = with_channels(image, padded_channels(image.shape[1])).to(self.dtype)
        x = FeatureMapRegion(
            values.contiguous(memory_format=kernels.LAST), boxes[0], image.shape[1]
        )
        y = self._through(layers, x, boxes, sizes)
        return replace(y, factor=self.layout.pathways[number].geometry.factor)

    def context(
        self,
        number: int,
        whole: MapSizes,
        output: Box,
        read: Read,
        *,
        piece: int,
        splitter: SplitOnOutOfMemory,
    ) -> FeatureMapRegion:
        """Some voxels of the last output of a parallel pathway, in pieces, to save memory.

        Args:
            number: Of the pathway.
            whole: Sizes.
            output: Which voxels.
            read: Reads the image.
            piece: Voxels along an axis that are computed at once.
            splitter: Makes pieces smaller where memory runs out.
        """
        plan = self.layout.pathways[number]
        values = torch.zeros(
            (1, padded_channels(plan.outputs), *output.size), dtype=self.dtype, device=self.device
        ).contiguous(memory_format=kernels.LAST)

        def fill(box: Box) -> None:
            x, y, z = box.relative_to(output.start).slices
            values[:, :, x, y, z] = self.pathway(number, whole, box, read).values

        for box in split(output, piece):
            splitter.in_parts(number, box, fill)
        return FeatureMapRegion(values, output, plan.outputs, plan.geometry.factor)

    def activated(self, number: int, output: FeatureMapRegion) -> FeatureMapRegion:
        """The output of a parallel pathway as the first FC layer convolves it."""
        return self._join.activated(number, output)

    def logits(
        self,
        whole: MapSizes,
        prediction: Box,
        raw: Sequence[FeatureMapRegion],
        activated: Sequence[FeatureMapRegion],
    ) -> Tensor:
        """``(K, *prediction.size)`` float32, from the outputs of the parallel pathways.

        Args:
            whole: Sizes.
            prediction: Which voxels.
            raw: Outputs of all parallel pathways, of the voxels needed at least.
            activated: These outputs as the first FC layer convolves them.
        """
        plans = self.layout.fc.layers
        boxes = boxes_needed(plans, whole.fc, prediction)
        y = self._join(activated, boxes[0], boxes[1], whole.fc[0])
        y = self._through(self._fc, y, boxes[1:], whole.fc[1:], before=raw, before_size=whole.fc[0])
        return y.values[0, : plans[-1].outputs].float() + self._class_bias

    def _through(
        self,
        layers: Sequence[BoxLayer],
        x: FeatureMapRegion,
        boxes: Sequence[Box],
        sizes: Sequence[Int3],
        *,
        before: Sequence[FeatureMapRegion] = (),
        before_size: Int3 = (0, 0, 0),
    ) -> FeatureMapRegion:
        """The last output of a chain of layers; ``before`` is what the layer before them read."""
        for number, layer in enumerate(layers):
            if layer.plan.is_head:
                x = replace(x, values=x.values.float())
            y = layer(x, boxes[number + 1])
            if layer.plan.adds_earlier_input:
                add_middle(
                    y,
                    sizes[number + 1],
                    before,
                    before_size,
                    alignment=self.geometry.alignment,
                    norm=layer.following,
                )
            before, before_size, x = [x], sizes[number], y
        return x


def _dtype(layer: Layer, dtype: torch.dtype) -> torch.dtype:
    """Type in which a layer computes: the head in float32."""
    return torch.float32 if layer.plan.is_head else dtype


def _box_layers(layers: Sequence[Layer], dtype: torch.dtype, *, first: int = 0) -> list[BoxLayer]:
    folds = foldable([layer.plan for layer in layers])
    return [
        BoxLayer(
            layer,
            following=affine(layers[i + 1]) if folds[i] else None,
            is_normalised=i > 0 and folds[i - 1],
            dtype=_dtype(layer, dtype),
        )
        for i, layer in enumerate(layers)
        if i >= first
    ]
