"""Several processes that train one network together, and the sums that they share.

Every rank computes a part of each batch. All values that a step depends on are sums over the whole
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

from deepseg.errors import is_out_of_memory
from deepseg.model.kernels import StatisticsSync
from deepseg.model.layers import Norm
from deepseg.model.network import Network

Item = TypeVar("Item")


class PeerLost(Exception):
    """Another rank takes part no longer. No RuntimeError: those are tried again elsewhere."""


@dataclass(frozen=True)
class Ranks:
    """One of the processes that train together, by the names of `torch.distributed`.

    Alone, a rank is the main one and has all there is:

    >>> alone = Ranks()
    >>> alone.is_main, alone.sum_counts([3, 4]), alone.all_gather(["case 1"])
    (True, [3, 4], ['case 1'])
    >>> Ranks(rank=2, world_size=4).rng_counters
    (2,)

    Attributes:
        rank: The number of this process, from 0.
        world_size: The number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True for rank 0, which prints and writes."""
        return self.rank == 0

    @property
    def rng_counters(self) -> tuple[int, ...]:
        """Counters of randomness by which ranks differ; none for rank 0."""
        return () if self.is_main else (self.rank,)

    def all_reduce_sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Each tensor summed over all ranks; gradients flow back to all of them."""
        if self.world_size == 1:
            return tensors
        flat = _differentiable_sum(torch.cat([tensor.flatten() for tensor in tensors]))
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        return tuple(total.view(t.shape) for total, t in zip(sums, tensors, strict=True))

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Each count summed over all ranks."""
        if self.world_size == 1:
            return list(counts)
        sums: list[int] = _sum_in_place(torch.tensor(counts, dtype=torch.int64)).tolist()
        return sums

    def average_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their means over all ranks."""
        if self.world_size == 1 or not gradients:
            return
        flat = _sum_in_place(torch.cat([g.flatten() for g in gradients])).div_(self.world_size)
        means = torch.split(flat, [g.numel() for g in gradients])
        pairs = zip(means, gradients, strict=True)
        torch._foreach_copy_(list(gradients), [mean.view(g.shape) for mean, g in pairs])

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all ranks, in the order of ranks."""
        if self.world_size == 1:
            return list(items)
        lists: list[Any] = [None] * self.world_size
        _communicate(lambda: dist.all_gather_object(lists, list(items)))
        return [item for items_of_rank in lists for item in items_of_rank]

    def broadcast(self, make: Callable[[], Item]) -> Item:
        """The result of ``make`` on rank 0, for which all other ranks wait."""
        if self.world_size == 1:
            return make()
        box: list[Any] = [make() if self.is_main else None]
        _communicate(lambda: dist.broadcast_object_list(box, device=torch.device("cpu")))
        item: Item = box[0]
        return item

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        self.sum_counts([1])

    def gather(self, row: Tensor) -> Tensor:
        """``(world_size, n)`` from a row ``(n,)`` of every rank."""
        if row.device.type == "cpu":  # gloo has no such gathering of tensors
            table = row.new_zeros(self.world_size, len(row))
            table[self.rank] = row
            return _sum_in_place(table)
        table = row.new_empty(self.world_size, len(row))
        _communicate(lambda: dist.all_gather_into_tensor(table.view(-1), row))
        return table


SINGLE_RANK = Ranks()


def synchronise_batch_norm(network: Network, ranks: Ranks, *, has_part: bool = True) -> None:
    """Normalise the next batch with the statistics of all of it, of which ranks have parts.

    Args:
        network: In training.
        ranks: Those that have a part of the batch.
        has_part: As for `StatisticsSync`.
    """
    if ranks.world_size == 1:
        return
    sync = StatisticsSync(ranks.gather, _sum_in_place, has_part)
    for pathway in network.layout.pathways:
        if pathway.network is not None:
            network.imported(pathway.name).sync_statistics = sync
    for layer in network.layers():
        if isinstance(layer.norm, Norm):
            layer.norm.sync_statistics = sync


class _DifferentiableSum(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return _sum_in_place(x.clone())

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _sum_in_place(gradient.clone())


_differentiable_sum: Callable[[Tensor], Tensor] = _DifferentiableSum.apply


def _sum_in_place(x: Tensor) -> Tensor:
    _communicate(lambda: dist.all_reduce(x))
    return x


def _communicate(operation: Callable[[], object]) -> None:
    try:
        operation()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerLost(str(error)) from error
