"""The layers of a trained network in the form that computes fastest, for inference only.

What differs from ``model/layers.py``: batch normalisation is folded into the convolution before it
where nothing else needs that convolution's result, dropout's scaling into the one behind; low-rank
kernels are one dense kernel; maps lie in memory voxel by voxel (channels last) and are filled up to
numbers that vector units like. Where a layer is computed is a box of its whole map, so that a part
has its real neighbours, and only the ends of the whole map are mirrored or surrounded by zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.geometry.boxes import Box, Int3, per_axis
from deepseg.model.kernels.convolution import convolved
from deepseg.model.kernels.repeated_convolution import add_repeated
from deepseg.model.layers import Layer, LowRankConvolution, Norm, PRelu, crop_offset, padded
from deepseg.model.layout import LayerPlan

LAST = torch.channels_last_3d


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


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift`` per map: a batch normalisation with fixed statistics, or a bias."""

    scale: Tensor
    shift: Tensor

    def of_maps(self, begin: int, end: int) -> Affine:
        """The same for some of the maps."""
        return Affine(self.scale[begin:end], self.shift[begin:end])

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` transformed."""
        fill = x.shape[1] - len(self.scale)
        scale, shift = F.pad(self.scale, (0, fill)), F.pad(self.shift, (0, fill))
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        return F.batch_norm(x, zero, one, scale, shift, eps=0.0)


def affine(layer: Layer) -> Affine:
    """What ``layer`` does to its input before it activates it."""
    if layer.norm is None:
        return Affine(torch.ones_like(layer.input_bias), layer.input_bias.detach())
    norm = layer.norm
    assert isinstance(norm, Norm)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.settings.epsilon)
    return Affine(scale.detach(), (norm.bias - norm.running_mean * scale).detach())


def dense_kernel(layer: Layer) -> Tensor:
    """``(F, C, kx, ky, kz)``: the layer's kernel, scaled by what dropout keeps."""
    if isinstance(layer.conv, LowRankConvolution):
        whole = [_embedded(flat, layer.plan.kernel) for flat in layer.conv.parameters()]
        kernel = torch.cat(whole)
    else:
        (kernel,) = layer.conv.parameters()
    return kernel.detach() * (1 - layer.plan.dropout)


def _embedded(flat: Tensor, kernel: Int3) -> Tensor:
    whole = flat.new_zeros(*flat.shape[:2], *kernel)
    place = whole
    for axis, (k, n) in enumerate(zip(kernel, flat.shape[2:], strict=True), start=2):
        place = place.narrow(axis, (k - 1) // 2 if n == 1 else 0, n)
    place.copy_(flat)
    return whole


def padded_channels(maps: int) -> int:
    """Channels in which ``maps`` are stored: at least 8, a multiple of 16 where that is near."""
    if maps < 8:
        return 8
    sixteens = -(-maps // 16) * 16
    return sixteens if 10 * sixteens <= 11 * maps else maps


class FoldedActivation:
    """The non-linearity of a layer, or of some of its maps."""

    def __init__(self, layer: Layer, maps: slice, dtype: torch.dtype) -> None:
        self._module = layer.activation
        self._slopes: Tensor | None = None
        if isinstance(layer.activation, PRelu):
            slopes = layer.activation.weight.detach()[maps].to(dtype)
            self._slopes = F.pad(slopes, (0, padded_channels(len(slopes)) - len(slopes)))

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` activated, in the same layout."""
        if self._slopes is None:
            activated: Tensor = self._module(x)
            return activated
        # Several voxels as one row: torch then works on long vectors, whatever the channels.
        voxels = x.permute(0, 2, 3, 4, 1)
        together = gcd(voxels.numel() // x.shape[1], 16)
        rows = voxels.reshape(-1, together * x.shape[1])
        activated = F.prelu(rows, self._slopes.repeat(together))
        return activated.view(voxels.shape).permute(0, 4, 1, 2, 3)


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
        self._affine = None if is_normalised else affine(layer)
        self._activation = FoldedActivation(layer, slice(None), dtype)
        kernel, bias = fold_batch_norm(dense_kernel(layer), following)
        outputs, inputs = padded_channels(layer.plan.outputs), padded_channels(layer.plan.inputs)
        self._kernel = (
            F.pad(kernel, (0, 0) * 3 + (0, inputs - kernel.shape[1], 0, outputs - kernel.shape[0]))
            .to(dtype)
            .contiguous(memory_format=LAST)
        )
        self._bias = F.pad(bias, (0, outputs - len(bias))).to(dtype)

    def __call__(self, x: FeatureMapRegion, output: Box) -> FeatureMapRegion:
        """The output voxels of the box ``output``, from the input voxels that they need."""
        values = x.values if self._affine is None else self._affine(x.values)
        values = with_border(self._activation(values), output, self.plan)
        return FeatureMapRegion(
            convolved(values, self._kernel, self._bias), output, self.plan.outputs
        )


def fold_batch_norm(kernel: Tensor, following: Affine | None) -> tuple[Tensor, Tensor]:
    """Kernel and bias that give what ``kernel`` gives, followed by ``following``."""
    if following is None:
        return kernel, kernel.new_zeros(kernel.shape[0])
    return kernel * following.scale.view(-1, 1, 1, 1, 1), following.shift


def with_border(values: Tensor, output: Box, plan: LayerPlan) -> Tensor:
    """``values``, with the border that padding puts around the map where they meet its ends.

    Args:
        values: The input voxels of the box ``output``.
        output: What is computed of them.
        plan: The layer.
    """
    reached = per_axis(lambda n, k: n + k - 1, output.size, plan.kernel)
    if tuple(values.shape[2:]) == reached:
        return values
    wide = padded(values, plan.kernel, plan.padding)
    for axis, (a, n, k) in enumerate(
        zip(output.start, output.size, plan.kernel, strict=True), start=2
    ):
        # The input begins at a - low, or at 0 where that is in front of the map.
        wide = wide.narrow(axis, min(a, (k - 1) // 2), n + k - 1)
    return wide.contiguous(memory_format=LAST)


def add_middle(
    y: FeatureMapRegion,
    size: Int3,
    earlier: Sequence[FeatureMapRegion],
    earlier_size: Int3,
    by: Affine | None,
) -> None:
    """Add the middle of earlier maps to ``y``, in place; surplus maps are cut.

    Args:
        y: Some voxels of a layer's output.
        size: Of the whole output.
        earlier: The parts of the input of the layer before, joined in this order.
        earlier_size: Of that whole input, at full resolution.
        by: Scales what is added.
    """
    offset = per_axis(crop_offset, earlier_size, size)
    wanted = y.box.moved(offset)
    begin = 0
    for part in earlier:
        end = min(begin + part.maps, y.maps)
        if begin >= end:
            return
        own = y.values[:, begin:end]
        values = part.values[:, : end - begin]
        if by is not None:
            values = values * by.scale[begin:end].to(values.dtype).view(-1, 1, 1, 1)
        add_repeated(own, wanted, values, part.box.start, part.factor)
        begin = end


def cut(part: FeatureMapRegion, box: Box) -> Tensor:
    """``(1, C, *box.size)``: some voxels of a part, in its own resolution."""
    values = part.values
    for axis, (a, n, first) in enumerate(
        zip(box.start, box.size, part.box.start, strict=True), start=2
    ):
        values = values.narrow(axis, a - first, n)
    return values
