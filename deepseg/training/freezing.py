"""Layers that keep their weights while the others learn."""

from __future__ import annotations

from torch import nn

from deepseg.config.training import Freeze
from deepseg.errors import DeepsegError, Problem
from deepseg.model.layers import Norm
from deepseg.model.network import Network


def freeze(network: Network, settings: Freeze) -> tuple[str, ...]:
    """Freeze the layers that ``settings`` names; return their addresses.

    A frozen layer has no gradients, no penalty and no dropout, and, unless the settings say
    otherwise, uses its batch-norm statistics as they are, also in training. Freezing the head
    freezes its class bias.

    Raises:
        DeepsegError: ``layer-unknown``, or ``everything-frozen`` if no layer is left to learn.
    """
    frozen = network.layout.addresses(settings.layers)
    if len(frozen) == len(list(network.layers())):
        raise DeepsegError(
            Problem(
                code="everything-frozen",
                got=f"all {len(frozen)} layers frozen",
                expected="at least one layer that learns",
                fix="leave a layer out of freeze.layers, such as the head",
            )
        )
    for layer in network.layers():
        layer.is_frozen = layer.plan.address in frozen
        layer.requires_grad_(not layer.is_frozen)
        if isinstance(layer.norm, Norm):
            layer.norm.is_frozen = layer.is_frozen and settings.batch_norm == "frozen"
            if settings.batch_norm == "train":
                layer.norm.requires_grad_(True)
    return frozen


def trainable(network: Network) -> list[tuple[str, nn.Parameter]]:
    """Name and weight of everything that learns."""
    return [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
