"""The layers of a trained network in the form that computes fastest, for inference only.

Unlike in ``model/layers.py``, batch normalisation is folded into the convolution before it where
nothing else needs that convolution's result, and dropout's scaling into the one after it; low-rank
kernels are one dense kernel; maps lie in memory voxel by voxel (channels last) and are filled up to
counts that vector units like. A layer is computed for a box of its whole map, so that the box has
its real neighbours, and only the ends of the whole map are mirrored or surrounded by zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.geometry.boxes import Box, Int3, add, minimum, per_axis
from deepseg.geometry.context import Alignment
from deepseg.model import kernels
from deepseg.model.feature_maps import AXES, border_before, crop_offset, map_size, padded
from deepseg.model.layers import Layer, LowRankConvolution, PRelu
from deepseg.model.layout import LayerPlan


@dataclass(frozen=True)
class FeatureMapRegion:
    """Some voxels of feature maps.

    Attributes:
        values: ``(1, C, X, Y, Z)``; C may be larger than ``maps``, by maps that are 0.
        box: Which voxels, counted in the whole map.
        maps: Feature maps.
        factor: How often each voxel is repeated before it is joined with others.
    """

    values: Tensor
    box: Box
    maps: int
    factor: Int3 = (1, 1, 1)

    def cut(self, box: Box) -> FeatureMapRegion:
        """Voxels of the region that lie in ``box``, which it contains."""
        x, y, z = box.relative_to(self.box.start).slices
        return FeatureMapRegion(self.values[:, :, x, y, z], box, self.maps, self.factor)


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift`` per map: a batch normalisation with fixed statistics, or a bias."""

    scale: Tensor
    shift: Tensor

    def of_maps(self, maps: slice) -> Affine:
        """Transformation of some of the maps."""
        return Affine(self.scale[maps], self.shift[maps])

    def of_channels(self, channels: int) -> Callable[[Tensor], Tensor]:
        """Transformation of maps that are stored in so many channels."""
        fill = channels - len(self.scale)
        scale, shift = F.pad(self.scale, (0, fill)), F.pad(self.shift, (0, fill))
        mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
        return lambda x: F.batch_norm(x, mean, variance, scale, shift, eps=0.0)


def affine(layer: Layer) -> Affine:
    """Transformation by which ``layer`` changes its input before it activates it."""
    norm = layer.norm
    if norm is None:
        return Affine(torch.ones_like(layer.input_bias), layer.input_bias.detach())
    scale = norm.weight / torch.sqrt(norm.running_var + norm.settings.epsilon)
    return Affine(scale.detach(), (norm.bias - norm.running_mean * scale).detach())


def dense_kernel(layer: Layer) -> Tensor:
    """``(F, C, kx, ky, kz)``: the layer's kernel, scaled by the share that dropout keeps."""
    if isinstance(layer.conv, LowRankConvolution):
        planes = [_embedded(flat, layer.plan.kernel) for flat in layer.conv.parameters()]
        kernel = torch.cat(planes)
    else:
        (kernel,) = layer.conv.parameters()
    return kernel.detach() * (1 - layer.plan.dropout)


def _embedded(flat: Tensor, kernel: Int3) -> Tensor:
    """A flat kernel in the middle of zeros."""
    whole = flat.new_zeros(*flat.shape[:2], *kernel)
    middle = whole
    for axis, k, n in zip(AXES, kernel, flat.shape[2:], strict=True):
        middle = middle.narrow(axis, (k - 1) // 2 if n == 1 else 0, n)
    middle.copy_(flat)
    return whole


def padded_channels(maps: int) -> int:
    """Channels in which ``maps`` are stored: at least 8, a multiple of 16 where that is near.

    >>> [padded_channels(maps) for maps in (2, 30, 40, 150)]
    [8, 32, 40, 160]
    """
    if maps < 8:
        return 8
    sixteens = -(-maps // 16) * 16
    return sixteens if 10 * sixteens <= 11 * maps else maps


def with_channels(x: Tensor, channels: int, *, axis: int = 1) -> Tensor:
    """``x`` with zeros up to ``channels`` entries along an axis."""
    after = [0, 0] * (x.ndim - 1 - axis)
    return F.pad(x, (*after, 0, channels - x.shape[axis]))


class FoldedActivation:
    """The non-linearity of a layer, or of some of its maps."""

    def __init__(self, layer: Layer, maps: slice, dtype: torch.dtype) -> None:
        self._module = layer.activation
        self._slopes: Tensor | None = None
        if isinstance(layer.activation, PRelu):
            slopes = layer.activation.weight.detach()[maps].to(dtype)
            self._slopes = with_channels(slopes, padded_channels(len(slopes)), axis=0)

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` activated, in the same layout."""
        if self._slopes is None:
            activated: Tensor = self._module(x)
            return activated
        return kernels.prelu(x, self._slopes)


class BoxLayer:
    """norm → activation → padding → convolution → norm of the next layer.

    Args:
        layer: The layer.
        following: The next layer's norm, if it is computed here, on the output.
        is_normalised: The input is normalised already.
    """

    def __init__(
        self,
        layer: Layer,
        *,
        following: Affine | None,
        is_normalised: bool,
        dtype: torch.dtype,
    ) -> None:
        self.plan: LayerPlan = layer.plan
        self.following = following
        channels = padded_channels(layer.plan.inputs)
        self._affine = None if is_normalised else affine(layer).of_channels(channels)
        self._activation = FoldedActivation(layer, slice(None), dtype)
        kernel, bias = fold_batch_norm(dense_kernel(layer), following)
        kernel = with_channels(kernel, channels)
        self._kernel = _stored(kernel, dtype)
        self._bias = _stored_bias(bias, dtype)

    def __call__(self, x: FeatureMapRegion, output: Box) -> FeatureMapRegion:
        """The output voxels of the box ``output``, from the input voxels that they need."""
        values = x.values if self._affine is None else self._affine(x.values)
        values = with_border(self._activation(values), output, self.plan)
        y = kernels.convolved(values, self._kernel, self._bias)
        return FeatureMapRegion(y, output, self.plan.outputs)


class JoinLayer:
    """The first FC layer, on maps of several resolutions.

    On the processor, coarse maps are not repeated: each has many small kernels. A GPU is quicker
    with one dense convolution of repeated maps.

    Args:
        layer: The layer.
        outputs: Feature maps of each parallel pathway, the normal one first.
        factors: Of each parallel pathway.
        following: The next layer's norm, if it is computed here, on the output.
    """

    def __init__(
        self,
        layer: Layer,
        outputs: Sequence[int],
        factors: Sequence[Int3],
        *,
        following: Affine | None,
        dtype: torch.dtype,
    ) -> None:
        self.plan = layer.plan
        self.following = following
        self._dtype = dtype
        kernel, bias = fold_batch_norm(dense_kernel(layer), following)
        self._bias = _stored_bias(bias, dtype)
        self._preactivations: list[tuple[Callable[[Tensor], Tensor], FoldedActivation]] = []
        pieces = []
        begin = 0
        for count in outputs:
            maps = slice(begin, begin + count)
            begin += count
            normalised = affine(layer).of_maps(maps).of_channels(padded_channels(count))
            self._preactivations.append((normalised, FoldedActivation(layer, maps, dtype)))
            pieces.append(with_channels(kernel[:, maps], padded_channels(count)))
        self._is_dense = kernel.device.type != "cpu"
        if self._is_dense:
            self._kernel = _stored(torch.cat(pieces, 1), dtype)
            return
        normal, *coarse = pieces
        self._kernel = _stored(normal, dtype)
        self._coarse = [
            kernels.RepeatedConvolution(
                with_channels(piece, padded_channels(len(piece)), axis=0),
                factor,
                layer.plan.padding,
                dtype=dtype,
            )
            for piece, factor in zip(coarse, factors[1:], strict=True)
        ]

    def activated(self, pathway: int, x: FeatureMapRegion) -> FeatureMapRegion:
        """The output of a parallel pathway, normalised and activated as this layer does."""
        normalised, activation = self._preactivations[pathway]
        values = activation(normalised(x.values.to(self._dtype)))
        return FeatureMapRegion(values, x.box, x.maps, x.factor)

    def __call__(
        self, activated: Sequence[FeatureMapRegion], read: Box, output: Box, size: Int3
    ) -> FeatureMapRegion:
        """The output voxels of the box ``output``.

        Args:
            activated: Of every parallel pathway, the voxels needed at least.
            read: The box of the joined maps that the layer reads.
            output: The box that it computes.
            size: Of the whole joined maps.
        """
        if self._is_dense:
            joined = [
                kernels.repeated_box(x.values, read, x.box.start, x.factor) for x in activated
            ]
            values = torch.cat(joined, 1).contiguous(memory_format=kernels.LAST)
            values = with_border(values, output, self.plan)
            y = kernels.convolved(values, self._kernel, self._bias)
            return FeatureMapRegion(y, output, self.plan.outputs)
        normal, *coarse = activated
        values = with_border(normal.cut(read).values, output, self.plan)
        y = kernels.convolved(values, self._kernel, self._bias)
        for x, convolution in zip(coarse, self._coarse, strict=True):
            convolution.add_to(y, output, x.values, x.box.start, size)
        return FeatureMapRegion(y, output, self.plan.outputs)


def fold_batch_norm(kernel: Tensor, following: Affine | None) -> tuple[Tensor, Tensor]:
    """Kernel and bias of one convolution that does what ``kernel`` and then ``following`` do."""
    if following is None:
        return kernel, kernel.new_zeros(kernel.shape[0])
    return kernel * following.scale.view(-1, 1, 1, 1, 1), following.shift


def _stored(kernel: Tensor, dtype: torch.dtype) -> Tensor:
    kernel = with_channels(kernel, padded_channels(len(kernel)), axis=0)
    return kernel.to(dtype).contiguous(memory_format=kernels.LAST)


def _stored_bias(bias: Tensor, dtype: torch.dtype) -> Tensor:
    return with_channels(bias, padded_channels(len(bias)), axis=0).to(dtype)


def with_border(values: Tensor, output: Box, plan: LayerPlan) -> Tensor:
    """``values``, with the border that padding puts around the map where they meet its ends.

    Args:
        values: The input voxels of the box ``output``.
        output: What is computed of them.
        plan: The layer.
    """
    reach = add(output.size, plan.kernel, -1)
    if map_size(values) == reach:
        return values
    wide = padded(values, plan.kernel, plan.padding)
    # The input begins at a - low, or at 0 where that is in front of the map.
    x, y, z = Box(minimum(output.start, border_before(plan.kernel)), reach).slices
    return wide[:, :, x, y, z].contiguous(memory_format=kernels.LAST)


def add_middle(
    y: FeatureMapRegion,
    size: Int3,
    earlier: Sequence[FeatureMapRegion],
    earlier_size: Int3,
    *,
    alignment: Alignment,
    norm: Affine | None,
) -> None:
    """Add the middle of earlier maps to ``y``, in place; surplus maps are cut.

    Args:
        y: Some voxels of a layer's output.
        size: Of the whole output.
        earlier: The pieces of the input of the layer before, joined in this order.
        earlier_size: Of that whole input, at full resolution.
        alignment: Of the network, which decides what the middle is.
        norm: Folded into ``y``; scales what is added.
    """
    rule = partial(crop_offset, alignment=alignment)
    middle = y.box.moved(per_axis(rule, earlier_size, size))
    begin = 0
    for piece in earlier:
        end = min(begin + piece.maps, y.maps)
        if begin >= end:
            return
        values = piece.values[:, : end - begin]
        if norm is not None:
            values = values * norm.scale[begin:end].to(values.dtype).view(-1, 1, 1, 1)
        kernels.add_repeated(y.values[:, begin:end], middle, values, piece.box.start, piece.factor)
        begin = end
