"""The exponential moving average of a network in training, which often segments better than it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from deepseg.model.network import Network


class WeightAverage:
    """A network that follows another one slowly, batch-norm statistics included.

    Args:
        of: The network in training; the average begins with its weights.
        memory: Share of the average that is kept in a step. The first steps count more, since what
            was before them is worth little: step t keeps (1 + t) / (10 + t) at most.

    Attributes:
        network: With the averaged weights.
        steps: How many it has followed.
    """

    def __init__(self, of: Network, memory: float) -> None:
        self.network = copy.deepcopy(of)
        self.steps = 0
        self._memory = memory
        self._of = of

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after one more step."""
        kept = min(self._memory, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        present = self._of.state_dict()
        for name, mean in self.network.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(present[name], 1 - kept)
            else:
                mean.copy_(present[name])

    def restore(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Go on with the average of an earlier process."""
        self.network.load_state_dict(weights)
        self.steps = steps
