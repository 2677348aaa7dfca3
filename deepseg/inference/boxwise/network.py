"""A trained network in the form that computes fastest; the same function as ``model/network.py``.

A `MapSizes` is one whole segment: a tile, or a whole padded image. Any box of its prediction can be
computed by itself, and the boxes of one field fit together: context lies on one grid, padded layers
see real neighbours, and only the ends of the field are mirrored or surrounded by zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.geometry.boxes import Box, Int3, per_axis
from deepseg.inference.boxwise.layers import (
    LAST,
    Affine,
    BoxLayer,
    FeatureMapRegion,
    FoldedActivation,
    add_middle,
    affine,
    cut,
    dense_kernel,
    fold_batch_norm,
    padded_channels,
    with_border,
)
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.model.kernels.convolution import convolved
from deepseg.model.kernels.repeated_convolution import RepeatedConvolution
from deepseg.model.layers import Layer
from deepseg.model.layout import LayerPlan, PathwayLayout
from deepseg.model.network import Network
from deepseg.model.regions import MapSizes, boxes_needed, input_box, map_sizes, split

Read = Callable[[int, Box], Tensor]  # pathway, box of what it reads of the image → (C, X, Y, Z)


def foldable(layers: Sequence[LayerPlan]) -> list[bool]:
    """For each layer, whether nothing but the next layer's norm reads its output."""
    return [
        i + 1 < len(layers) and not (i + 2 < len(layers) and layers[i + 2].adds_earlier_input)
        for i in range(len(layers))
    ]


def _fast(layers: Sequence[Layer], dtype: torch.dtype) -> list[BoxLayer]:
    folds = foldable([layer.plan for layer in layers])
    return [
        BoxLayer(
            layer,
            following=affine(layers[i + 1]) if folds[i] else None,
            is_normalised=i > 0 and folds[i - 1],
            dtype=dtype,
        )
        for i, layer in enumerate(layers)
    ]


class _Join:
    """The first FC layer, on parts that are repeated to one resolution and joined."""

    def __init__(
        self,
        layer: Layer,
        parts: Sequence[PathwayLayout],
        following: Affine | None,
        dtype: torch.dtype,
    ) -> None:
        self.plan = layer.plan
        self.following = following
        self._dtype = dtype
        kernel, bias = fold_batch_norm(dense_kernel(layer), following)
        outputs = padded_channels(layer.plan.outputs)
        extra = outputs - layer.plan.outputs
        self._bias = F.pad(bias, (0, extra)).to(dtype)
        whole = affine(layer)
        self._affines: list[Affine] = []
        self._activations = []
        self._repeated = []
        self._normal: Tensor
        begin = 0
        for part in parts:
            end = begin + part.outputs
            self._affines.append(whole.of_maps(begin, end))
            self._activations.append(FoldedActivation(layer, slice(begin, end), dtype))
            own = F.pad(
                kernel[:, begin:end],
                (0,) * 7 + (padded_channels(part.outputs) - part.outputs, 0, extra),
            )
            if begin == 0:
                self._normal = own.to(dtype).contiguous(memory_format=LAST)
            else:
                self._repeated.append(
                    RepeatedConvolution(own, part.geometry.factor, layer.plan.padding, dtype=dtype)
                )
            begin = end

    def __call__(
        self, parts: Sequence[FeatureMapRegion], output: Box, size: Int3
    ) -> FeatureMapRegion:
        """The output voxels of ``output`` from the activated ``parts``; ``size`` is the input's."""
        normal, *coarse = parts
        needed = input_box(output, size, self.plan)
        own = FeatureMapRegion(cut(normal, needed), needed, normal.maps)
        y = convolved(with_border(own.values, output, self.plan), self._normal, self._bias)
        for part, convolution in zip(coarse, self._repeated, strict=True):
            convolution.add_to(y, output, part.values, part.box.start, size)
        return FeatureMapRegion(y, output, self.plan.outputs)

    def activated(self, number: int, part: FeatureMapRegion) -> FeatureMapRegion:
        """What the layer's norm and activation make of the output of one pathway."""
        values = self._affines[number](part.values.to(self._dtype))
        return replace(part, values=self._activations[number](values))


class BoxwiseNetwork:
    """The function of a network in evaluation mode.

    Args:
        network: Its weights are copied; what is learnt later is not seen.
        dtype: Of maps and weights. The last layer is always computed in float32.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        self.layout = network.layout
        self.geometry = network.geometry
        self.dtype = dtype
        *parallel, fc = network.pathways()
        self.device = next(network.parameters()).device
        with torch.no_grad():
            self._parallel = [_fast(list(pathway.layers()), dtype) for pathway in parallel]
            layers = list(fc.layers())
            folds = foldable([layer.plan for layer in layers])
            following = affine(layers[1]) if folds[0] else None
            head_dtype = torch.float32
            only_head = len(layers) == 1
            self._join = _Join(
                layers[0], self.layout.pathways, following, head_dtype if only_head else dtype
            )
            self._fc = [
                BoxLayer(
                    layer,
                    following=affine(layers[i + 1]) if folds[i] else None,
                    is_normalised=folds[i - 1],
                    dtype=head_dtype if layer.plan.is_head else dtype,
                )
                for i, layer in enumerate(layers)
                if i > 0
            ]
            self._class_bias = layers[-1].bias.detach().float().view(-1, 1, 1, 1)

    def map_sizes(self, inputs: Sequence[Int3]) -> MapSizes:
        """The sizes of a segment whose pathways read ``inputs`` voxels."""
        return map_sizes(self.layout.pathways, self.layout.fc, inputs)

    def joined_box(self, whole: MapSizes, prediction: Box) -> Box:
        """The voxels of the normal pathway's output that are needed for those predicted."""
        return boxes_needed(self.layout.fc.layers, whole.fc, prediction)[0]

    def pathway(self, number: int, whole: MapSizes, output: Box, read: Read) -> FeatureMapRegion:
        """Some voxels of the last output of a parallel pathway."""
        sizes, layers = whole.parallel[number], self._parallel[number]
        boxes = boxes_needed([layer.plan for layer in layers], sizes, output)
        image = read(number, boxes[0]).to(self.device)
        own = self.layout.pathways[number]
        values = F.pad(image, (0,) * 7 + (padded_channels(len(image)) - len(image),))
        x = FeatureMapRegion(
            values[None].to(self.dtype).contiguous(memory_format=LAST), boxes[0], len(image)
        )
        part = _through(layers, [x], boxes, sizes)
        return replace(part, maps=own.outputs, factor=own.geometry.factor)

    def context(
        self,
        number: int,
        whole: MapSizes,
        output: Box,
        read: Read,
        *,
        piece: int,
        room: SplitOnOutOfMemory,
    ) -> FeatureMapRegion:
        """The same in pieces, to save memory: of ``piece`` voxels, or fewer if there is no room."""
        own = self.layout.pathways[number]
        values = torch.zeros(
            (1, padded_channels(own.outputs), *output.size), dtype=self.dtype, device=self.device
        ).contiguous(memory_format=LAST)

        def fill(box: Box) -> None:
            x, y, z = box.moved(per_axis(lambda a: -a, output.start)).slices
            values[:, :, x, y, z] = self.pathway(number, whole, box, read).values

        for box in split(output, piece):
            room.in_parts(number, box, fill)
        return FeatureMapRegion(values, output, own.outputs, own.geometry.factor)

    def activated(self, number: int, part: FeatureMapRegion) -> FeatureMapRegion:
        """The output of a parallel pathway as the first FC layer convolves it."""
        return self._join.activated(number, part)

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
            activated: The same activated.
        """
        plans = self.layout.fc.layers
        boxes = boxes_needed(plans, whole.fc, prediction)
        y = self._join(activated, boxes[1], whole.fc[0])
        last = _through(self._fc, [y], boxes[1:], whole.fc[1:], before=raw, before_size=whole.fc[0])
        return last.values[0, : plans[-1].outputs].float() + self._class_bias


def _through(
    layers: Sequence[BoxLayer],
    x: Sequence[FeatureMapRegion],
    boxes: Sequence[Box],
    sizes: Sequence[Int3],
    *,
    before: Sequence[FeatureMapRegion] = (),
    before_size: Int3 = (0, 0, 0),
) -> FeatureMapRegion:
    """The last output of a chain of layers; ``before`` is the input of the layer before them."""
    (own,) = x
    for number, layer in enumerate(layers):
        if layer.plan.is_head:
            own = replace(own, values=own.values.float())
        y = layer(own, boxes[number + 1])
        if layer.plan.adds_earlier_input:
            add_middle(y, sizes[number + 1], before, before_size, layer.following)
        before, before_size, own = [own], sizes[number], y
    return own
