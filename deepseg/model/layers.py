"""The parts of a pre-activation layer: norm or bias, activation, dropout, padding, convolution.

Feature maps are float tensors ``(N, C, X, Y, Z)``. Modules are named so that their weights read as
addresses: ``norm.weight``, ``activation.weight``, ``conv.weight``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepseg.config.blocks.pathways import Padding
from deepseg.config.model import Activation, BatchNorm, FanIn, ModelConfig
from deepseg.geometry.boxes import Int3, volume
from deepseg.model.kernels.convolution import LAST, Convolution, arranged, convolved
from deepseg.model.kernels.fused_activation import (
    Statistics,
    batch_statistics,
    dropout_mask,
    fused_activation,
)
from deepseg.model.layout import LayerPlan

PRELU_START = 0.01  # DeepMedic's; torch starts at 0.25


class Norm(nn.Module):
    """Batch normalisation over ``(N, X, Y, Z)``; doi:10.48550/arXiv.1502.03167.

    In training it uses the batch's mean and biased variance, and gathers both for inference: as an
    exponential average, or as the plain mean over the last ``length`` steps (DeepMedic), which
    starts as if ``length`` steps of mean 0 and variance 1 had been seen.

    Attributes:
        is_frozen: Whether the statistics gathered before are used in training too.
        sync_statistics: Makes statistics of a part of the batch those of the whole; None where
            maps are all there is.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    window_mean: Tensor
    window_var: Tensor
    steps: Tensor

    def __init__(self, maps: int, settings: BatchNorm) -> None:
        super().__init__()
        self.settings = settings
        self.is_frozen = False
        self.sync_statistics: Callable[[Statistics], Statistics] | None = None
        self.weight = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))
        self.register_buffer("running_mean", torch.zeros(maps))
        self.register_buffer("running_var", torch.ones(maps))
        if settings.statistics == "window":
            self.register_buffer("window_mean", torch.zeros(settings.length, maps))
            self.register_buffer("window_var", torch.ones(settings.length, maps))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x``, of the same shape."""
        epsilon = self.settings.epsilon
        if not self.uses_batch:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=epsilon
            )
        if x.device.type == "cpu" or self.sync_statistics is not None:
            found = self.statistics(x)
            self.gather(found)
            return fused_activation(x, found, self.weight, self.bias, torch.ones_like(self.bias))
        # With momentum 1, torch leaves the batch's own mean and unbiased variance here.
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        y = F.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=epsilon
        )
        count = x.numel() // x.shape[1]
        self.gather(Statistics(mean, variance * ((count - 1) / count), epsilon))
        return y

    @property
    def uses_batch(self) -> bool:
        """Whether it normalises with the statistics of the batch."""
        return self.training and not self.is_frozen

    def statistics(self, x: Tensor) -> Statistics:
        """With which ``x`` is normalised now; those of a batch are not gathered here."""
        if not self.uses_batch:
            return self.gathered(slice(None))
        found = batch_statistics(x.detach(), self.settings.epsilon)
        return found if self.sync_statistics is None else self.sync_statistics(found)

    def gathered(self, maps: slice) -> Statistics:
        """What was gathered for inference, of some of the maps."""
        return Statistics(self.running_mean[maps], self.running_var[maps], self.settings.epsilon)

    @torch.no_grad()
    def gather(self, found: Statistics) -> None:
        """Take in the statistics of a batch."""
        if self.settings.statistics == "exponential":
            self.running_mean.lerp_(found.mean, self.settings.momentum)
            self.running_var.lerp_(found.variance, self.settings.momentum)
            return
        row = self.steps % self.settings.length
        self.window_mean[row] = found.mean
        self.window_var[row] = found.variance
        self.steps += 1
        self.running_mean.copy_(self.window_mean.mean(0))
        self.running_var.copy_(self.window_var.mean(0))


class PRelu(nn.Module):
    """``max(0, x) + slope * min(0, x)`` with a slope per feature map; doi:10.1109/ICCV.2015.123."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((maps,), PRELU_START))

    def forward(self, x: Tensor) -> Tensor:
        """Activated ``x``, of the same shape."""
        return F.prelu(x, self.weight.to(x.dtype))


def activation(kind: Activation, maps: int) -> nn.Module:
    """The module that computes a non-linearity on ``maps`` feature maps."""
    match kind:
        case "linear":
            return nn.Identity()
        case "relu":
            return nn.ReLU()
        case "prelu":
            return PRelu(maps)
        case "elu":
            return nn.ELU()
        case "selu":
            return nn.SELU()


def padded(x: Tensor, kernel: Int3, padding: Padding) -> Tensor:
    """``x`` with the border that a convolution needs to keep its size.

    Of the k - 1 voxels, the odd one goes behind. ``mirror`` repeats the edge voxel, as numpy's
    ``symmetric`` does; reflections repeat where the border is wider than the image.
    """
    if padding == "none":
        return x
    low = [(k - 1) // 2 for k in kernel]
    high = [k - 1 - n for k, n in zip(kernel, low, strict=True)]
    if padding == "zero":
        return F.pad(x, [low[2], high[2], low[1], high[1], low[0], high[0]])
    for axis, before, behind in zip((2, 3, 4), low, high, strict=True):
        if before or behind:
            x = _mirrored(x, axis, before, behind)
    return x


def _mirrored(x: Tensor, axis: int, before: int, behind: int) -> Tensor:
    size = x.shape[axis]
    position = torch.arange(-before, size + behind, device=x.device) % (2 * size)
    return x.index_select(axis, torch.minimum(position, 2 * size - 1 - position))


def crop_offset(larger: int, smaller: int) -> int:
    """First voxel of the centre crop of a residual connection, in DeepMedic's rounding."""
    return (larger - 1) // 2 - (smaller - 1) // 2


def cropped(x: Tensor, size: Int3) -> Tensor:
    """The central ``size`` voxels of ``x``."""
    for axis, n in zip((2, 3, 4), size, strict=True):
        x = x.narrow(axis, crop_offset(x.shape[axis], n), n)
    return x


class LowRankConvolution(nn.Module):
    """Three flat convolutions in the planes xy, yz and xz, cropped to one size and joined."""

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.kernel = plan.kernel
        for plane, (outputs, kernel) in plan.convolutions.items():
            self.add_module(plane, Convolution(plan.inputs, outputs, kernel, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X-kx+1, Y-ky+1, Z-kz+1)``."""
        parts = []
        for convolution in self.children():
            y: Tensor = convolution(x)
            for axis, k in zip((2, 3, 4), self.kernel, strict=True):
                if y.shape[axis] == x.shape[axis]:
                    y = y.narrow(axis, (k - 1) // 2, x.shape[axis] - k + 1)
            parts.append(y)
        return torch.cat(parts, 1)


class Layer(nn.Module):
    """norm (or bias) → activation → dropout → padding → convolution."""

    def __init__(self, plan: LayerPlan, config: ModelConfig) -> None:
        super().__init__()
        self.plan = plan
        self.drops = True
        if plan.normalises and isinstance(config.batch_norm, BatchNorm):
            self.norm: nn.Module | None = Norm(plan.inputs, config.batch_norm)
        else:
            self.norm = None
            self.input_bias = nn.Parameter(torch.zeros(plan.inputs))
        self.activation = activation(plan.activation, plan.inputs)
        self.conv: nn.Module = (
            LowRankConvolution(plan)
            if plan.is_low_rank
            else Convolution(plan.inputs, plan.outputs, plan.kernel, bias=False)
        )
        if plan.is_head:
            self.bias = nn.Parameter(torch.zeros(plan.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``; the class bias is added by the pathway."""
        if self.training and self._only_convolves and isinstance(self.conv, Convolution):
            # A bias in front of a convolution is one behind it: there, no gradient of x is needed.
            weight = self.conv.weight
            bias = weight.sum((2, 3, 4)) @ self.input_bias
            return convolved(arranged(x), weight.to(x.dtype), bias.to(x.dtype))
        x = self.activated(x)
        y: Tensor = self.conv(padded(x, self.plan.kernel, self.plan.padding))
        return y

    @property
    def _only_convolves(self) -> bool:
        plan = self.plan
        return plan.reads_image and plan.padding == "none" and plan.dropout == 0

    @property
    def drops_now(self) -> bool:
        """Whether dropout switches activations off."""
        return self.plan.dropout > 0 and self.training and self.drops

    def activated(self, x: Tensor) -> Tensor:
        """Normalised, activated and dropped ``x``, of the same shape."""
        if self.activates_quickly(x):
            return self._quickly_activated(x)
        x = x + self.input_bias.to(x.dtype).view(-1, 1, 1, 1) if self.norm is None else self.norm(x)
        x = self.activation(x)
        if self.drops_now:
            x = F.dropout(x, self.plan.dropout) * (1 - self.plan.dropout)
        return self._scaled(x)

    def _quickly_activated(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=LAST)
        kept = dropout_mask(x, self.plan.dropout) if self.drops_now else None
        if isinstance(self.norm, Norm):
            found = self.norm.statistics(x)
            weight: Tensor = self.norm.weight
            bias: Tensor = self.norm.bias
            if self.norm.uses_batch:
                self.norm.gather(found)
        else:
            bias = self.input_bias
            weight = torch.ones_like(bias)
            found = Statistics(torch.zeros_like(bias), weight, 0.0)
        return self._scaled(fused_activation(x, found, weight, bias, self.slopes, kept))

    def activates_quickly(self, x: Tensor) -> bool:
        """Whether norm, activation and dropout of ``x`` are one step."""
        return isinstance(self.activation, PRelu) and x.device.type == "cpu"

    @property
    def slopes(self) -> Tensor:
        """``(C,)``, of a PReLU."""
        assert isinstance(self.activation, PRelu)
        return self.activation.weight

    def activation_of(self, x: Tensor, maps: slice) -> Tensor:
        """Activated ``x``, which are some of the maps."""
        if isinstance(self.activation, PRelu):
            return F.prelu(x, self.activation.weight[maps])
        y: Tensor = self.activation(x)
        return y

    def _scaled(self, x: Tensor) -> Tensor:
        """Dropout in its first form: masked in training, scaled by the kept share otherwise.

        torch scales in training instead. The same functions can be learnt, but with another step
        size, and DeepMedic's weights and learning rates belong to this form; JMLR 15:1929-1958.
        """
        return x if self.plan.dropout == 0 or self.drops_now else x * (1 - self.plan.dropout)


def initialise(layer: Layer, config: ModelConfig, *, rng: torch.Generator) -> None:
    """Draw the kernels of ``layer``; low-rank ones as if they were whole."""
    deviation = (
        math.sqrt(config.initialisation.scale / (layer.plan.inputs * volume(layer.plan.kernel)))
        if isinstance(config.initialisation, FanIn)
        else config.initialisation.deviation
    )
    for module in layer.conv.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, 0.0, deviation, generator=rng)
