"""Gradients of the penalties, of all kernels at once, so that a GPU starts few large steps.

What the penalties are is in `loss`; there, autograd finds the gradients, kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepseg.config.blocks.losses import Loss


@torch.no_grad()
def add_penalty_gradients(
    kernels: Sequence[Tensor], anchored: Sequence[tuple[Tensor, Tensor]], settings: Loss
) -> None:
    """Add to the gradients of kernels those of L1, L2 and L2-SP.

    The gradient of 0.5 |w| + 2 w² at w = 3 is 0.5 + 12:

    >>> kernel = torch.tensor([3.0], requires_grad=True)
    >>> add_penalty_gradients([kernel], [], Loss(l1=0.5, l2=2))
    >>> kernel.grad
    tensor([12.5000])

    Args:
        kernels: Those that L1 and L2 make small.
        anchored: Others, each with the place to which L2-SP pulls it instead of L2.
        settings: Weights of the penalties.
    """
    pulled = [kernel for kernel, _ in anchored]
    _add(kernels, kernels, settings.l2, settings)
    if anchored:
        distances = torch._foreach_sub(pulled, [anchor for _, anchor in anchored])
        _add(pulled, distances, settings.l2_sp, settings)


def _add(
    kernels: Sequence[Tensor], distances: Sequence[Tensor], factor: float, settings: Loss
) -> None:
    """Add gradients of ``factor`` times the squares of distances, and those of L1."""
    if kernels and factor:
        torch._foreach_add_(_gradients(kernels), list(distances), alpha=2 * factor)
    if kernels and settings.l1:
        signs = torch._foreach_sign(list(kernels))
        torch._foreach_add_(_gradients(kernels), signs, alpha=settings.l1)


def _gradients(kernels: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of kernels, made where there are none yet."""
    for kernel in kernels:
        if kernel.grad is None:
            kernel.grad = torch.zeros_like(kernel)
    return [kernel.grad for kernel in kernels if kernel.grad is not None]
