"""The parts of a pre-activation layer: norm or bias, activation, dropout, padding, convolution.

Feature maps are float tensors ``(N, C, X, Y, Z)``. Modules are named so that their weights read as
addresses: ``norm.weight``, ``activation.weight``, ``conv.weight``. What is computed is written here
in plain torch; where `kernels` have a quicker way to the same result, they are asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepseg.config.model import Activation, BatchNorm, FanIn, ModelConfig
from deepseg.geometry.boxes import Int3, volume
from deepseg.model import kernels
from deepseg.model.feature_maps import AXES, padded
from deepseg.model.kernels import MultiScaleMaps, Preactivation, Statistics, StatisticsSync
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
        if self._only_convolves and self.training and self._adds_bias_later(x):
            assert isinstance(self.conv, Convolution)
            return kernels.convolved_with_input_bias(x, self.conv.weight, self.input_bias)
        y: Tensor = self.conv(padded(self.activated(x), self.plan.kernel, self.plan.padding))
        return y

    def activated(self, x: Tensor) -> Tensor:
        """Normalised, activated and dropped ``x``, of the same shape."""
        if isinstance(self.activation, PRelu) and kernels.are_used(x):
            return self._fused(x)
        x = x + self.input_bias.to(x.dtype).view(-1, 1, 1, 1) if self.norm is None else self.norm(x)
        x = self.activation(x)
        if self.dropout_active:
            x = self._dropped(x)
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

    def _adds_bias_later(self, x: Tensor) -> bool:
        """True on the processor, where adding to the smaller side of a convolution is quicker."""
        return isinstance(self.conv, Convolution) and kernels.are_used(x)

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

    def _dropped(self, x: Tensor) -> Tensor:
        """``x`` with a share of its values switched off."""
        if x.device.type == "cpu":
            return F.dropout(x, self.plan.dropout) * self._share
        mask = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(self._share)
        return x * mask

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
        is_updated_later: True if `update_running_together` will follow every batch on a GPU.
        of_batch: Mean, and one over the deviation, that the last batch has left for it.
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
        self.sync_statistics: StatisticsSync | None = None
        self.is_updated_later = False
        self.of_batch: tuple[Tensor, Tensor] | None = None
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
        if kernels.are_used(x) or (self.sync_statistics is not None and x.device.type == "cpu"):
            statistics = self.statistics(x)
            self.update_running(statistics)
            slopes = torch.ones_like(self.bias)
            return kernels.fused_preactivation(x, statistics, self.weight, self.bias, slopes)
        if self.sync_statistics is None:
            y, *of_batch = kernels.normalised_by_batch(x, self.weight, self.bias, epsilon)
        else:
            y, *of_batch, _ = kernels.normalised_together(
                x, self.weight, self.bias, epsilon, self.sync_statistics
            )
        mean, scale = of_batch
        self.of_batch = (mean, scale)
        if not self.is_updated_later:
            update_running_together([self])
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
        row = (self.steps % self.settings.length).view(1)
        self.window_mean.index_copy_(0, row, batch.mean[None])
        self.window_var.index_copy_(0, row, batch.variance[None])
        self.steps += 1
        self.running_mean.copy_(self.window_mean.mean(0))
        self.running_var.copy_(self.window_var.mean(0))


@torch.no_grad()
def update_running_together(norms: Sequence[Norm]) -> None:
    """Take what a batch has left in `Norm.of_batch` into the running statistics.

    Few steps on all norms at once, where a GPU would start many small ones.

    Args:
        norms: With equal settings.
    """
    left = [(norm, *norm.of_batch) for norm in norms if norm.of_batch is not None]
    if not left:
        return
    updated, means, scales = (list(column) for column in zip(*left, strict=True))
    settings = updated[0].settings
    variances = torch._foreach_pow(scales, -2)
    torch._foreach_sub_(variances, settings.epsilon)
    torch._foreach_clamp_min_(variances, 0.0)
    if settings.statistics == "exponential":
        running = [norm.running_mean for norm in updated], [norm.running_var for norm in updated]
        torch._foreach_lerp_(running[0], means, settings.momentum)
        torch._foreach_lerp_(running[1], variances, settings.momentum)
    for norm, mean, variance in zip(updated, means, variances, strict=True):
        if settings.statistics == "window":
            norm.update_running(Statistics(mean, variance, settings.epsilon))
        norm.of_batch = None


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
