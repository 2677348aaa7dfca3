"""The parts of a pre-activation layer: norm or bias, activation, dropout, padding, convolution.

Feature maps are float tensors ``(N, C, X, Y, Z)``. Modules are named so that their weights read as
addresses: ``norm.weight``, ``activation.weight``, ``conv.weight``. What is computed is written here
in plain torch; where `kernels` have a quicker way to the same result, they are asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepseg.config.model import Activation, BatchNorm, FanIn, ModelConfig
from deepseg.geometry.boxes import Int3, volume
from deepseg.model import kernels
from deepseg.model.feature_maps import AXES, padded
from deepseg.model.kernels import MultiScaleMaps, Preactivation, Statistics
from deepseg.model.layout import LayerPlan

PRELU_START = 0.01  # DeepMedic's; torch starts at 0.25


class Layer(nn.Module):
    """norm (or bias) → activation → dropout → padding → convolution.

    Attributes:
        dropout_enabled: False for layers that drop nothing in training either.
    """

    norm: Norm | None
    conv: Convolution | LowRankConvolution

    def __init__(self, plan: LayerPlan, config: ModelConfig) -> None:
        super().__init__()
        self.plan = plan
        self.dropout_enabled = True
        if plan.normalises and isinstance(config.batch_norm, BatchNorm):
            self.norm = Norm(plan.inputs, config.batch_norm)
        else:
            self.norm = None
            self.input_bias = nn.Parameter(torch.zeros(plan.inputs))
        self.activation = activation(plan.activation, plan.inputs)
        self.conv = (
            LowRankConvolution(plan)
            if plan.is_low_rank
            else Convolution(plan.inputs, plan.outputs, plan.kernel)
        )
        if plan.is_head:
            self.bias = nn.Parameter(torch.zeros(plan.outputs))

    def forward(self, x: Tensor | MultiScaleMaps) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``; the network adds the class bias."""
        if isinstance(x, MultiScaleMaps):
            return self._convolved_coarsely(x)
        if self._only_convolves and self.training and isinstance(self.conv, Convolution):
            return kernels.convolved_with_input_bias(x, self.conv.weight, self.input_bias)
        y: Tensor = self.conv(padded(self.activated(x), self.plan.kernel, self.plan.padding))
        return y

    def activated(self, x: Tensor) -> Tensor:
        """Normalised, activated and dropped ``x``, of the same shape."""
        if self.preactivation.is_fused(x):
            return self._fused(x)
        x = x + self.input_bias.to(x.dtype).view(-1, 1, 1, 1) if self.norm is None else self.norm(x)
        x = self.activation(x)
        if self.dropout_active:
            x = F.dropout(x, self.plan.dropout) * self._share
        return self._scaled(x)

    @property
    def dropout_active(self) -> bool:
        """True if dropout switches activations off."""
        return self.plan.dropout > 0 and self.training and self.dropout_enabled

    @property
    def can_join_coarsely(self) -> bool:
        """True if it can read maps of several resolutions, and is known to gain time by it.

        Dropout treats copies of a voxel differently. Where other processes have parts of the
        batch, voxels count once. Many small convolutions have not been measured on a GPU.
        """
        return (
            isinstance(self.conv, Convolution)
            and kernels.are_used(self.conv.weight)
            and not self.dropout_active
            and not (self.norm is not None and self.norm.sync_statistics is not None)
        )

    @property
    def preactivation(self) -> Preactivation:
        """Norm (or bias) and activation, as values of each feature map."""
        slopes = self.activation.weight if isinstance(self.activation, PRelu) else None
        if self.norm is None:
            weight = torch.ones_like(self.input_bias)
            return Preactivation(weight, self.input_bias, slopes, self.activation)
        return Preactivation(self.norm.weight, self.norm.bias, slopes, self.activation)

    @property
    def _only_convolves(self) -> bool:
        plan = self.plan
        return plan.reads_image and plan.padding == "none" and plan.dropout == 0

    @property
    def _share(self) -> float:
        """Share of activations that dropout keeps."""
        return 1 - self.plan.dropout

    def _scaled(self, x: Tensor) -> Tensor:
        """Dropout in its first form: masked in training, scaled by the kept share otherwise.

        torch scales in training instead. The same functions can be learnt, but with another step
        size, and DeepMedic's weights and learning rates belong to this form; JMLR 15:1929-1958.
        """
        return x if self.plan.dropout == 0 or self.dropout_active else x * self._share

    def _fused(self, x: Tensor) -> Tensor:
        """Normalised, activated and dropped ``x``, in one step."""
        do = self.preactivation
        assert do.slopes is not None
        x = x.contiguous(memory_format=kernels.LAST)
        mask = kernels.dropout_mask(x, self.plan.dropout) if self.dropout_active else None
        if self.norm is None:
            statistics = kernels.neutral_statistics(self.input_bias)
        else:
            statistics = self.norm.statistics(x)
            if self.norm.uses_batch_statistics:
                self.norm.update_running(statistics)
        y = kernels.fused_preactivation(x, statistics, do.weight, do.bias, do.slopes, mask)
        return self._scaled(y)

    def _convolved_coarsely(self, maps: MultiScaleMaps) -> Tensor:
        """As of the joined maps, from each of their pieces at its own resolution."""
        assert isinstance(self.conv, Convolution)
        values = [
            self._scaled(self.preactivation.of_maps(span)(piece, statistics))
            for piece, span, statistics in zip(
                maps.pieces, maps.slices, self._statistics_of_pieces(maps), strict=True
            )
        ]
        return maps.convolved(values, self.conv.weight, self.plan.padding)

    def _statistics_of_pieces(self, maps: MultiScaleMaps) -> list[Statistics]:
        if self.norm is None:
            return [kernels.neutral_statistics(self.input_bias[span]) for span in maps.slices]
        if not self.norm.uses_batch_statistics:
            return [self.norm.running_statistics(span) for span in maps.slices]
        statistics = maps.statistics(self.norm.settings.epsilon, self.preactivation)
        self.norm.update_running(kernels.joined_statistics(statistics))
        return statistics


class Norm(nn.Module):
    """Batch normalisation over ``(N, X, Y, Z)``; doi:10.48550/arXiv.1502.03167.

    In training it uses the batch's mean and biased variance, and keeps running statistics for
    inference: an exponential average, or the plain mean over the last ``length`` steps (DeepMedic),
    which starts as after ``length`` steps of mean 0 and variance 1.

    Attributes:
        is_frozen: True if the running statistics are used in training too.
        sync_statistics: Makes statistics of a part of the batch those of the whole; None where the
            maps are the whole batch.
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
        if not self.uses_batch_statistics:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=epsilon
            )
        if kernels.are_used(x) or self.sync_statistics is not None:
            statistics = self.statistics(x)
            self.update_running(statistics)
            slopes = torch.ones_like(self.bias)
            return kernels.fused_preactivation(x, statistics, self.weight, self.bias, slopes)
        # With momentum 1, torch leaves the batch's own mean and unbiased variance here.
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        y = F.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=epsilon
        )
        count = x.numel() // x.shape[1]
        self.update_running(Statistics(mean, variance * ((count - 1) / count), epsilon))
        return y

    @property
    def uses_batch_statistics(self) -> bool:
        """True if it normalises with the statistics of the batch."""
        return self.training and not self.is_frozen

    def statistics(self, x: Tensor) -> Statistics:
        """Mean and variance with which ``x`` is normalised now; nothing is updated."""
        if not self.uses_batch_statistics:
            return self.running_statistics(slice(None))
        statistics = kernels.batch_statistics(x.detach(), self.settings.epsilon)
        return statistics if self.sync_statistics is None else self.sync_statistics(statistics)

    def running_statistics(self, maps: slice) -> Statistics:
        """Mean and variance for inference, of some of the maps."""
        return Statistics(self.running_mean[maps], self.running_var[maps], self.settings.epsilon)

    @torch.no_grad()
    def update_running(self, batch: Statistics) -> None:
        """Take the statistics of a batch into the running ones."""
        if self.settings.statistics == "exponential":
            self.running_mean.lerp_(batch.mean, self.settings.momentum)
            self.running_var.lerp_(batch.variance, self.settings.momentum)
            return
        row = self.steps % self.settings.length
        self.window_mean[row] = batch.mean
        self.window_var[row] = batch.variance
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
    """Module that computes a non-linearity on ``maps`` feature maps."""
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


class Convolution(nn.Conv3d):
    """A convolution without bias that computes in the type of its input."""

    def __init__(self, inputs: int, outputs: int, kernel: Int3) -> None:
        super().__init__(inputs, outputs, kernel, bias=False)

    def reset_parameters(self) -> None:
        """Zeros: the network draws the weights, and torch's own generator stays as it was."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``."""
        return kernels.convolved(kernels.arranged(x), self.weight.to(x.dtype))


class LowRankConvolution(nn.Module):
    """Three flat convolutions in the planes xy, yz and xz, cropped to one size and joined."""

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.kernel = plan.kernel
        for plane, (outputs, kernel) in plan.convolutions.items():
            self.add_module(plane, Convolution(plan.inputs, outputs, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X-kx+1, Y-ky+1, Z-kz+1)``."""
        planes = []
        for convolution in self.children():
            y: Tensor = convolution(x)
            for axis, k in zip(AXES, self.kernel, strict=True):
                if y.shape[axis] == x.shape[axis]:
                    y = y.narrow(axis, (k - 1) // 2, x.shape[axis] - k + 1)
            planes.append(y)
        return torch.cat(planes, 1)


def initialise(layer: Layer, config: ModelConfig, *, rng: torch.Generator) -> None:
    """Draw the kernels of ``layer``; low-rank ones as if they were whole."""
    deviation = (
        math.sqrt(config.initialisation.scale / (layer.plan.inputs * volume(layer.plan.kernel)))
        if isinstance(config.initialisation, FanIn)
        else config.initialisation.deviation
    )
    for module in layer.conv.modules():
        if isinstance(module, Convolution):
            nn.init.normal_(module.weight, 0.0, deviation, generator=rng)
