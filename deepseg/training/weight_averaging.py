"""The exponential moving average of a network in training, which often segments better than it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from deepseg.model.network import Network


class WeightAverage:
    """A network that follows another one slowly, batch-norm statistics included.

    Args:
        network: In training; the average begins with its weights.
        decay: Share of the average that stays in a step. The first steps count more, since what
            was before them is worth little: `decay_of_step`.

    Attributes:
        network: With the averaged weights.
        steps: The number of updates.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.steps = 0
        self._decay = decay
        self._followed = network

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        decay = decay_of_step(self.steps, self._decay)
        self.steps += 1
        present = self._followed.state_dict()
        means = self.network.state_dict()
        moving = [name for name, mean in means.items() if mean.is_floating_point()]
        torch._foreach_lerp_(
            [means[name] for name in moving], [present[name] for name in moving], 1 - decay
        )
        for name in means.keys() - moving:
            means[name].copy_(present[name])

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates; tensors are the live ones."""
        return {"weights": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave, in this process or an earlier one."""
        self.network.load_state_dict(state["weights"])
        self.steps = state["steps"]


def decay_of_step(step: int, decay: float) -> float:
    """The share of the average that stays in ``step``, from 0: (1 + step) / (10 + step) at most.

    >>> decay_of_step(0, 0.9), decay_of_step(8, 0.9), decay_of_step(1000, 0.9)
    (0.1, 0.5, 0.9)
    """
    return min(decay, (1 + step) / (10 + step))
