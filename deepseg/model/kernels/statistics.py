"""Mean and variance of feature maps, with which batch normalisation works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseg.model.kernels.convolution import LAST
from deepseg.model.kernels.threads import map_on_threads

VOXELS = 1 << 11  # whose sums in float32 are exact enough


def _unchanged(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Statistics:
    """Mean and biased variance ``(C,)`` of feature maps.

    Attributes:
        epsilon: Added to the variance.
        voxels: Of the batch from which they were computed, so that they move with it; 0 if they
            stay as they are.
        is_of_batch: True if the maps that they normalise are among those of the batch.
        all_reduce_sum: Adds up the tensors of all processes that have a part of the batch.
    """

    mean: Tensor
    variance: Tensor
    epsilon: float
    voxels: int = 0
    is_of_batch: bool = True
    all_reduce_sum: Callable[[Tensor], Tensor] = _unchanged


@dataclass(frozen=True)
class StatisticsSync:
    """Makes statistics of a part of a batch those of the whole, of which processes have parts.

    Attributes:
        gather: From a row ``(n,)`` of each process to ``(processes, n)``, in their order.
        all_reduce_sum: Adds up the tensors of all processes, in place.
        has_part: False if this process has no segments of the batch, only a stand-in without
            labels, which is there because all must take part in every sum.
    """

    gather: Callable[[Tensor], Tensor]
    all_reduce_sum: Callable[[Tensor], Tensor]
    has_part: bool = True

    def __call__(self, statistics: Statistics) -> Statistics:
        """Statistics of the whole batch, from those of this process's part."""
        maps = len(statistics.mean)
        voxels = statistics.mean.new_tensor([statistics.voxels * self.has_part])
        table = self.gather(torch.cat([statistics.mean, statistics.variance, voxels]))
        means, variances, counts = torch.split(table, [maps, maps, 1], 1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        total = int(counts.sum())
        return Statistics(
            mean, variance, statistics.epsilon, total, self.has_part, self.all_reduce_sum
        )


def neutral_statistics(like: Tensor) -> Statistics:
    """Statistics ``(C,)`` that change nothing: mean 0 and variance 1."""
    return Statistics(torch.zeros_like(like), torch.ones_like(like), 0.0)


def batch_statistics(x: Tensor, epsilon: float) -> Statistics:
    """Mean and biased variance of ``x`` ``(N, C, X, Y, Z)``, exact to float32's last digits.

    On the processor, torch's own sums over all voxels of channels-last maps lose three digits. So
    they are taken over pieces, whose statistics are put together in float64
    (doi:10.1080/00031305.1983.10483115).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x.to(dtype), (0, 2, 3, 4), correction=0)
        return Statistics(mean, variance, epsilon, x.numel() // x.shape[1])
    x = x.contiguous(memory_format=LAST)
    voxels = x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
    pieces = torch.split(voxels, VOXELS)
    # The running averages that torch would move make it compute in their type.
    unused = torch.zeros(x.shape[1], dtype=dtype, device=x.device)

    def mean_and_variance(piece: Tensor) -> tuple[Tensor, Tensor]:
        return torch.batch_norm_update_stats(piece, unused, unused, 0.0)

    pairs = map_on_threads(mean_and_variance, pieces)
    means = torch.stack([mean for mean, _ in pairs]).double()
    variances = torch.stack([variance for _, variance in pairs]).double()
    counts = torch.tensor([[len(piece)] for piece in pieces], dtype=torch.float64)
    shares = (counts / counts.sum()).to(x.device)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return Statistics(mean.to(dtype), variance.to(dtype), epsilon, len(voxels))


def weighted_statistics(x: Tensor, weights: Tensor, epsilon: float) -> Statistics:
    """Mean and biased variance of ``x`` ``(N, C, X, Y, Z)``, with gradients.

    Args:
        x: Feature maps.
        weights: ``(X, Y, Z)``: how often each voxel counts.
        epsilon: Added to the variance.
    """
    count = len(x) * weights.sum()
    x = x.to(weights.dtype)
    mean = (x * weights).sum((0, 2, 3, 4)) / count
    centred = x - mean.view(-1, 1, 1, 1)
    variance = (centred.square() * weights).sum((0, 2, 3, 4)) / count
    return Statistics(mean, variance, epsilon, int(count))
