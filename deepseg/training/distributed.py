"""Several processes that train one network together, and what they add up.

Every rank computes a part of each batch. All numbers that a step depends on are sums over the whole
batch (of losses, voxels, overlaps, and for batch normalisation of every feature map), so each rank
computes the same loss, and the mean of the gradients of all ranks is that of one process with the
whole batch, whatever the sizes of the parts. With one rank, nothing is added and no bit changes.

torch's DistributedDataParallel is not used: it would have to be made anew whenever layers begin to
learn, and told about accumulated gradients, and its mean is wrong for parts of different sizes. One
sum over all gradients does the same; nothing here knows files, processes or how ranks are started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from deepseg.model.kernels.fused_activation import Statistics
from deepseg.model.layers import Norm
from deepseg.model.network import Network

Item = TypeVar("Item")


class PeerLost(Exception):
    """Another rank takes part no longer. No RuntimeError: those are tried again elsewhere."""


@dataclass
class Ranks:
    """One of the processes that train together.

    Attributes:
        rank: Which one, from 0.
        count: Of all.
        has_part: Whether this rank has segments of the present batch, not a stand-in without known
            voxels, which is there because all ranks must take part in every sum.
    """

    rank: int = 0
    count: int = 1
    has_part: bool = True

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    @property
    def others(self) -> tuple[int, ...]:
        """What counters of randomness need so that ranks differ; nothing for the leader."""
        return () if self.leads else (self.rank,)

    def summed(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Each tensor summed over all ranks; gradients flow back to all of them."""
        if self.count == 1:
            return parts
        whole = _sum(torch.cat([part.flatten() for part in parts]))
        sums = torch.split(whole, [part.numel() for part in parts])
        return tuple(one.view(part.shape) for one, part in zip(sums, parts, strict=True))

    def totals(self, counts: Sequence[int]) -> list[int]:
        """Each count summed over all ranks."""
        if self.count == 1:
            return list(counts)
        totals: list[int] = _added(torch.tensor(counts, dtype=torch.int64)).tolist()
        return totals

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their means over all ranks."""
        if self.count == 1 or not gradients:
            return
        flat = _added(torch.cat([one.flatten() for one in gradients])).div_(self.count)
        means = torch.split(flat, [one.numel() for one in gradients])
        pairs = zip(means, gradients, strict=True)
        torch._foreach_copy_(list(gradients), [mean.view(one.shape) for mean, one in pairs])

    def together(self, items: Sequence[Item]) -> list[Item]:
        """The items of all ranks."""
        if self.count == 1:
            return list(items)
        found: list[Any] = [None] * self.count
        _answered(lambda: dist.all_gather_object(found, list(items)))
        return [item for own in found for item in own]

    def from_leader(self, make: Callable[[], Item]) -> Item:
        """What rank 0 makes, while the others wait."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.leads else None]
        _answered(lambda: dist.broadcast_object_list(box, device=torch.device("cpu")))
        made: Item = box[0]
        return made

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        self.totals([1])

    def of_whole(self, found: Statistics) -> Statistics:
        """What the statistics of this rank's part of a batch are for the whole."""
        maps = len(found.mean)
        every = found.mean.new_zeros(self.count, 2 * maps + 1)
        voxels = found.mean.new_tensor([found.voxels * self.has_part])
        every[self.rank] = torch.cat([found.mean, found.variance, voxels])
        means, variances, counts = torch.split(_added(every), [maps, maps, 1], 1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        total = int(counts.sum())
        return Statistics(mean, variance, found.epsilon, total, self.has_part, _added)


SINGLE_RANK = Ranks()


def synchronise_batch_norm(network: Network, ranks: Ranks) -> None:
    """Let batch normalisation use the statistics of the whole batch, of which ranks have parts."""
    if ranks.count == 1:
        return
    for layer in network.layers():
        if isinstance(layer.norm, Norm):
            layer.norm.of_whole = ranks.of_whole


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return _added(x.clone())

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _added(gradient.clone())


_sum: Callable[[Tensor], Tensor] = _Sum.apply


def _added(x: Tensor) -> Tensor:
    """``x`` summed over all ranks, in its own place."""
    _answered(lambda: dist.all_reduce(x))
    return x


def _answered(ask: Callable[[], object]) -> None:
    try:
        ask()
    except RuntimeError as error:
        raise PeerLost(str(error)) from error
