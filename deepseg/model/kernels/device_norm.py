"""Batch normalisation on GPUs, by torch's own kernels, of a whole batch or of parts of one.

Where processes have parts of a batch, the kernels are those of torch's SyncBatchNorm: one sum of
each map's values forwards and one backwards, and nothing that the host waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepseg.model.kernels.convolution import LAST
from deepseg.model.kernels.statistics import StatisticsSync

Normalised = tuple[Tensor, Tensor, Tensor, Tensor]


def normalised_by_batch(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps normalised by their own mean and variance, these means, and one over the deviations.

    A map of the values 1 and 3, of mean 2 and variance 1:

    >>> x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    >>> y, mean, scale = normalised_by_batch(x, torch.ones(1), torch.zeros(1), 1e-9)
    >>> y.flatten().tolist(), mean.item(), scale.item()
    ([-1.0, 1.0], 2.0, 1.0)

    Args:
        x: ``(N, C, X, Y, Z)``.
        weight: ``(C,)``, multiplied with what is normalised.
        bias: ``(C,)``, added to it.
        epsilon: Added to the variance.
    """
    y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, epsilon)
    return y, mean.detach(), scale.detach()


def normalised_together(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, sync: StatisticsSync
) -> Normalised:
    """Maps of a part of a batch, normalised by the statistics of the whole.

    Args:
        x: ``(N, C, …)`` on a GPU.
        weight: ``(C,)``.
        bias: ``(C,)``.
        epsilon: Added to the variance.
        sync: Has the parts of the other processes.

    Returns:
        The maps, their means, one over their deviations, and ``(processes,)`` values of each map.
    """
    apply: Callable[..., Normalised] = _NormalisedTogether.apply
    return apply(x, weight, bias, epsilon, sync)


class _NormalisedTogether(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, sync: StatisticsSync
    ) -> Normalised:
        x, maps = _arranged(x), x.shape[1]
        own_mean, own_scale = torch.batch_norm_stats(x, epsilon)
        values = x.numel() // maps * sync.has_part
        count = torch.full((1,), values, dtype=own_mean.dtype, device=x.device)
        table = sync.gather(torch.cat([own_mean, own_scale, count]))
        means, scales, counts = torch.split(table, [maps, maps, 1], 1)
        counts = counts.flatten()
        # The type of the first argument is that in which the kernel reads the counts.
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            own_mean, means, scales, None, None, 0.0, epsilon, counts
        )
        ctx.save_for_backward(x, weight, mean, scale, counts.to(torch.int32))
        ctx.sync = sync
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, scale, counts)
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, epsilon), mean, scale, counts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        g = _arranged(gradients[0])
        sums, products, of_weight, of_bias = torch.batch_norm_backward_reduce(
            g, x, mean, scale, weight, True, True, True
        )
        both = ctx.sync.all_reduce_sum(torch.cat([sums, products]))
        if not ctx.sync.has_part:  # the maps are not among those of which the statistics are
            of_x = g * (weight * scale).view(1, -1, *[1] * (g.ndim - 2)).to(g.dtype)
            return of_x, of_weight, of_bias, None, None
        sums, products = both.split(x.shape[1])
        of_x = torch.batch_norm_backward_elemt(g, x, mean, scale, weight, sums, products, counts)
        return of_x, of_weight, of_bias, None, None


def _arranged(x: Tensor) -> Tensor:
    """``x`` in one of the memory orders that the kernels read."""
    if x.ndim == 5 and x.is_contiguous(memory_format=LAST):
        return x
    return x.contiguous()
