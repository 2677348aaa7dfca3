"""The weights that a session began with, as places to which L2-SP pulls.

doi:10.48550/arXiv.1802.01483. They are kept in every model file of the session, so that it goes on
exactly even if the file that it began with is gone. Random numbers are no place to stay near:
kernels that were random have no anchor, and random parts of others are pulled to 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseg.config.blocks.losses import Loss
from deepseg.errors import DeepsegError, Problem
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import layout
from deepseg.training.parameter_groups import is_kernel
from deepseg.transfer.new_parts import new_parts


def starting_weights(model: Checkpoint, settings: Loss) -> dict[str, Tensor]:
    """The anchors of kernels, by name; none without L2-SP.

    Args:
        model: The one that the session begins with, or its own last one.
        settings: Of the session's loss.

    Raises:
        DeepsegError: ``start-unknown``.
    """
    if not settings.l2_sp:
        return {}
    if model.training is None:
        return _starting_kernels(model)
    if "anchors" not in model.training:
        raise DeepsegError(
            Problem(
                code="start-unknown",
                got="loss.l2_sp in a session that began without it",
                expected="the weights with which the session began, which it did not keep",
                fix="remove loss.l2_sp, or begin a session of another name",
            )
        )
    return dict(model.training["anchors"])


def _starting_kernels(model: Checkpoint) -> dict[str, Tensor]:
    plan = layout(model.config)
    kernels = {name: w for name, w in model.weights.items() if is_kernel(name, plan)}
    is_new = new_parts(model)
    if not is_new:
        return {name: kernel.clone() for name, kernel in kernels.items()}
    filled = {
        name: torch.where(is_new[name], torch.zeros_like(kernel), kernel)
        for name, kernel in kernels.items()
    }
    return {name: anchor for name, anchor in filled.items() if anchor.any()}
