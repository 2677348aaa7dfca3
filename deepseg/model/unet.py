"""A U-Net as a graph: operators and names of weights, level by level from the bottom.

The plain preset is nnU-Net's PlainConvUNet, the residual one its ResidualEncoderUNet, as in
https://github.com/MIC-DKFZ/dynamic-network-architectures; every level above the lowest has a head,
as there, for deep supervision. Weights are called ``level2.encoder.1.conv.weight``,
``level2.up.weight``, ``level2.decoder.1.norm.weight``, ``level2.head.bias``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from deepseg.config.blocks.unet import UnetLevel, UnetPathway
from deepseg.config.settings import cube
from deepseg.geometry.boxes import Int3, add, floor_div, mul, sub
from deepseg.geometry.size_rule import SizeRule
from deepseg.model.graph.geometry import AttachGeometry, GraphGeometry, graph_geometry
from deepseg.model.graph.graph import AttributeValue, Graph, GraphInput, GraphNode
from deepseg.model.graph.program import program

IMAGE = "image"
OPSET = 21
EPSILON = 1e-5
SLOPE = 0.01  # of the leaky ReLU, as torch and nnU-Net have it
NORMS = {
    "instance": "InstanceNormalization",
    "batch": "BatchNormalization",
    "group": "GroupNormalization",
}
UNSTRIDED: Int3 = (1, 1, 1)


def unet_graph(block: UnetPathway, channels: int, classes: int, *, has_head: bool) -> Graph:
    """The graph of a U-Net; its weights are on torch's meta device.

    Its outputs are the scores of the finest level, or the feature maps that they would be computed
    of, then the scores of the levels below it, the finer ones first.

    Args:
        block: Levels and settings.
        channels: Of the image.
        classes: Maps of each head.
        has_head: Whether the finest level has a head; it has none where the FC pathway is one.
    """
    parts = _Parts(block)
    skips = []
    x, maps = IMAGE, channels
    for level in range(len(block.levels) - 1, -1, -1):
        x = _encoder(parts, level, x, maps)
        maps = block.levels[level].feature_maps
        skips.append(x)
    heads = []
    *finer, x = skips
    for level in range(1, len(block.levels)):
        x = _decoder(parts, level, x, finer.pop())
        is_top = level == len(block.levels) - 1
        if has_head or not is_top:
            heads.append(_head(parts, level, x, classes))
    scores = heads[::-1]
    outputs = scores if has_head else [x, *scores]
    return Graph(
        nodes=tuple(parts.nodes),
        inputs=(GraphInput(IMAGE, (None, channels, None, None, None)),),
        outputs=tuple(outputs),
        weights=parts.weights,
        constants=parts.constants,
        opset=OPSET,
    )


def unet_geometry(
    block: UnetPathway, channels: int, classes: int, *, has_head: bool
) -> GraphGeometry:
    """Sizes of images, and where the outputs lie; arguments as for `unet_graph`.

    Neither depends on feature maps, and an axis knows nothing of the others: U-Nets that are as
    thin as a line are looked at, one for every kind of axis.
    """
    lines = [_line_geometry(_along(block, axis), has_head) for axis in range(3)]
    maps = block.levels[-1].feature_maps
    first = classes if has_head else maps
    return GraphGeometry(
        channels=channels,
        sizes=SizeRule(
            _axes([line.sizes.smallest for line in lines]),
            _axes([line.sizes.step for line in lines]),
        ),
        outputs=tuple(
            _joined(outputs, maps=classes if number else first)
            for number, outputs in enumerate(zip(*(line.outputs for line in lines), strict=True))
        ),
    )


def _along(block: UnetPathway, axis: int) -> UnetPathway:
    """A U-Net along the X axis that is like ``block`` along ``axis``, with single feature maps."""
    levels = [
        {
            "feature_maps": 1,
            "kernel": (cube(level.kernel)[axis], 1, 1),
            "encoder": level.encoder,
            **({"stride": (cube(level.stride)[axis], 1, 1), "decoder": level.decoder} if n else {}),
        }
        for n, level in enumerate(block.levels)
    ]
    return UnetPathway(
        levels=tuple(UnetLevel.model_validate(level) for level in levels),
        preset=block.preset,
        norm=block.norm,
        groups=1,
        padding=block.padding,
    )


@cache
def _line_geometry(block: UnetPathway, has_head: bool) -> GraphGeometry:
    return graph_geometry(program(unet_graph(block, 1, 1, has_head=has_head)))


def _joined(lines: tuple[AttachGeometry, ...], *, maps: int) -> AttachGeometry:
    """The geometry of an output in space, from those along each axis."""
    fields = [line.receptive_field for line in lines]
    reaches = [line.reach for line in lines]
    bounded = [reach for reach in reaches if reach is not None]
    return replace(
        lines[0],
        maps=maps,
        stride=_axes([line.stride for line in lines]),
        offset=(lines[0].offset[0], lines[1].offset[0], lines[2].offset[0]),
        loss=_axes([line.loss for line in lines]),
        receptive_field=_axes([f for f in fields if f is not None]) if None not in fields else None,
        reach=(
            (_axes([low for low, _ in bounded]), _axes([high for _, high in bounded]))
            if len(bounded) == len(lines)
            else None
        ),
    )


def _axes(lines: list[Int3]) -> Int3:
    """The X entries of the geometry along each axis."""
    (x, *_), (y, *_), (z, *_) = lines
    return x, y, z


@dataclass
class _Parts:
    """The parts of a graph as they are made."""

    block: UnetPathway
    nodes: list[GraphNode] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def node(self, operator: str, name: str, *inputs: str, **attributes: AttributeValue) -> str:
        """Add a node, which gives its name to its result."""
        scope = name.rpartition(".")[0]
        self.nodes.append(GraphNode(operator, inputs, (name,), attributes, name, scope))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Add a weight."""
        self.weights[name] = torch.empty(shape, device="meta")
        return name

    def convolution(
        self, name: str, x: str, maps: tuple[int, int], kernel: Int3, stride: Int3 = UNSTRIDED
    ) -> str:
        """Add a convolution with a bias; ``maps`` are its inputs and outputs."""
        low = floor_div(add(kernel, -1), 2) if self.block.padding == "same" else (0, 0, 0)
        return self.node(
            "Conv",
            name,
            x,
            self.weight(f"{name}.weight", maps[1], maps[0], *kernel),
            self.weight(f"{name}.bias", maps[1]),
            strides=stride,
            pads=(*low, *low),
        )

    def norm(self, name: str, x: str, maps: int) -> str:
        """Add a normalisation; without one ``x`` itself."""
        kind = self.block.norm
        if kind == "none":
            return x
        names = ["weight", "bias", *(["running_mean", "running_var"] if kind == "batch" else [])]
        inputs = [self.weight(f"{name}.{role}", maps) for role in names]
        settings = {"num_groups": self.block.groups} if kind == "group" else {}
        return self.node(NORMS[kind], name, x, *inputs, epsilon=EPSILON, **settings)

    def activation(self, name: str, x: str, maps: int) -> str:
        """Add a non-linearity."""
        match self.block.activation:
            case "relu":
                return self.node("Relu", name, x)
            case "leaky_relu":
                return self.node("LeakyRelu", name, x, alpha=SLOPE)
            case "gelu":
                return self.node("Gelu", name, x)
            case "prelu":
                return self.node("PRelu", name, x, self.weight(f"{name}.weight", maps, 1, 1, 1))

    def crop(self, name: str, x: str, loss: Int3, low: Int3) -> str:
        """Add a crop by ``loss`` voxels in all, ``low`` of them at the beginning."""
        if loss == (0, 0, 0):
            return x
        ends = [-n if n else 1 << 62 for n in sub(loss, low)]
        values = {"starts": list(low), "ends": ends, "axes": [2, 3, 4]}
        for role, value in values.items():
            self.constants[f"{name}.{role}"] = torch.tensor(value)
        return self.node("Slice", name, x, *(f"{name}.{role}" for role in values))


def _encoder(parts: _Parts, level: int, x: str, maps: int) -> str:
    """The blocks of a level on the way down; the first one brings the stride from above."""
    block, name = parts.block, f"level{level}"
    outputs, kernel = block.levels[level].feature_maps, cube(block.levels[level].kernel)
    stride = block.stride_to(level)
    if block.preset == "residual" and level == len(block.levels) - 1:
        x = _convolved(parts, f"{name}.stem", x, (maps, outputs), kernel)
        maps = outputs
    for number in range(1, block.encoder_blocks(level) + 1):
        place = f"{name}.encoder.{number}"
        if block.preset == "residual":
            x = _residual(parts, place, x, (maps, outputs), kernel, stride)
        else:
            x = _convolved(parts, place, x, (maps, outputs), kernel, stride)
        maps, stride = outputs, UNSTRIDED
    return x


def _convolved(
    parts: _Parts, name: str, x: str, maps: tuple[int, int], kernel: Int3, stride: Int3 = UNSTRIDED
) -> str:
    """Convolution, normalisation, activation."""
    x = parts.convolution(f"{name}.conv", x, maps, kernel, stride)
    x = parts.norm(f"{name}.norm", x, maps[1])
    return parts.activation(f"{name}.activation", x, maps[1])


def _residual(
    parts: _Parts, name: str, x: str, maps: tuple[int, int], kernel: Int3, stride: Int3
) -> str:
    """Two convolutions and what goes past them; doi:10.1109/CVPR.2019.00065 for the stride."""
    outputs = maps[1]
    y = parts.convolution(f"{name}.conv1", x, maps, kernel, stride)
    y = parts.norm(f"{name}.norm1", y, outputs)
    y = parts.activation(f"{name}.activation1", y, outputs)
    y = parts.convolution(f"{name}.conv2", y, (outputs, outputs), kernel)
    y = parts.norm(f"{name}.norm2", y, outputs)
    if stride != UNSTRIDED:
        x = parts.node("AveragePool", f"{name}.pool", x, kernel_shape=stride, strides=stride)
    if parts.block.padding == "valid":
        x = parts.crop(f"{name}.crop", x, *_past_loss(kernel, stride))
    if maps[0] != outputs:
        kernel_name = parts.weight(f"{name}.skip.weight", outputs, maps[0], 1, 1, 1)
        x = parts.node("Conv", f"{name}.skip", x, kernel_name)
        x = parts.norm(f"{name}.skip_norm", x, outputs)
    y = parts.node("Add", f"{name}.sum", y, x)
    return parts.activation(f"{name}.activation2", y, outputs)


def _past_loss(kernel: Int3, stride: Int3) -> tuple[Int3, Int3]:
    """Voxels that what goes past two unpadded convolutions loses: in all, and at the beginning.

    >>> _past_loss((3, 3, 5), (1, 2, 2))
    ((4, 2, 5), (2, 1, 3))
    """
    x, y, z = (
        (k // s - 1 + k - 1, (k + s * (k - 1)) // (2 * s))
        for k, s in zip(kernel, stride, strict=True)
    )
    return (x[0], y[0], z[0]), (x[1], y[1], z[1])


def _decoder(parts: _Parts, level: int, x: str, skip: str) -> str:
    """A level on the way up: from the level below, joined with what was on the way down."""
    block, name = parts.block, f"level{level}"
    maps, stride = block.levels[level].feature_maps, block.stride_to(level - 1)
    below = block.levels[level - 1].feature_maps
    up = parts.node(
        "ConvTranspose",
        f"{name}.up",
        x,
        parts.weight(f"{name}.up.weight", below, maps, *stride),
        parts.weight(f"{name}.up.bias", maps),
        strides=stride,
    )
    if block.padding == "valid":
        loss = skip_loss(block, level)
        skip = parts.crop(f"{name}.crop", skip, loss, floor_div(loss, 2))
    x = parts.node("Concat", f"{name}.join", up, skip, axis=1)
    inputs = 2 * maps
    for number in range(1, block.decoder_blocks(level) + 1):
        place = f"{name}.decoder.{number}"
        x = _convolved(parts, place, x, (inputs, maps), cube(block.levels[level].kernel))
        inputs = maps
    return x


def _head(parts: _Parts, level: int, x: str, classes: int) -> str:
    maps = parts.block.levels[level].feature_maps
    name = f"level{level}.head"
    return parts.node(
        "Conv",
        name,
        x,
        parts.weight(f"{name}.weight", classes, maps, 1, 1, 1),
        parts.weight(f"{name}.bias", classes),
    )


def skip_loss(block: UnetPathway, level: int) -> Int3:
    """Voxels by which the way up is smaller than the way down at a level, without padding.

    >>> levels = ({"feature_maps": 8}, {"feature_maps": 4})
    >>> skip_loss(UnetPathway(levels=levels, padding="valid"), 1)
    (5, 5, 5)
    """
    stride = block.stride_to(level - 1)
    lower = cube(block.levels[level - 1].kernel)
    convolutions = block.encoder_blocks(level - 1) * (2 if block.preset == "residual" else 1)
    after_first = mul(add(lower, -1), convolutions - 1)
    lost = add(after_first, decoder_loss(block, level - 1))
    return add(sub(lower, stride), mul(stride, lost))


def decoder_loss(block: UnetPathway, level: int) -> Int3:
    """Voxels by which the result of a level is smaller than its way down, without padding."""
    if level == 0:
        return (0, 0, 0)
    kernel = cube(block.levels[level].kernel)
    return add(skip_loss(block, level), mul(add(kernel, -1), block.decoder_blocks(level)))
