"""Gradients of the penalties, all kernels at once: a GPU starts few large steps, not many small ones.

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
    distances = list(torch._foreach_sub(pulled, [a for _, a in anchored])) if anchored else []
    for group, squared, factor in ((kernels, list(kernels), settings.l2),
                                   (pulled, distances, settings.l2_sp)):  # fmt: skip
        if group and factor:
            torch._foreach_add_(_gradients(group), squared, alpha=2 * factor)
        if group and settings.l1:
            torch._foreach_add_(_gradients(group), torch._foreach_sign(group), alpha=settings.l1)


def _gradients(kernels: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of kernels, made where there are none yet."""
    for kernel in kernels:
        if kernel.grad is None:
            kernel.grad = torch.zeros_like(kernel)
    return [kernel.grad for kernel in kernels if kernel.grad is not None]
