"""Convolution by the quickest routine that torch has for maps that lie voxel by voxel.

For small maps and for kernels of one voxel, torch's own choice is one that is ten times as slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAST = torch.channels_last_3d


def computes_quickly(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the processor or the GPU has instructions for numbers of this type."""
    if dtype != torch.bfloat16:
        return True
    if device.type == "cpu":
        return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def arranged(x: Tensor) -> Tensor:
    """``x`` voxel by voxel, but for float32 on a GPU, where torch's usual order is kept."""
    if x.device.type != "cpu" and x.dtype == torch.float32:
        return x.contiguous()
    return x.contiguous(memory_format=LAST)


def convolved(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``; ``x`` is arranged."""
    if x.device.type != "cpu":
        return F.conv3d(x, kernel, bias)
    if kernel.shape[2:] == (1, 1, 1):
        if bias is None:
            apply: Callable[..., Tensor] = _Pointwise.apply
            return apply(x, kernel)
        voxels = x.permute(0, 2, 3, 4, 1)
        return F.linear(voxels, kernel.flatten(1), bias).permute(0, 4, 1, 2, 3)
    has_routine = x.dtype in (torch.float32, torch.bfloat16) and torch._C._has_mkldnn
    if has_routine and computes_quickly(x.dtype, x.device):
        return torch.mkldnn_convolution(x, kernel, bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return F.conv3d(x, kernel, bias)


def zero_maps(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Maps ``(N, C, X, Y, Z)`` of zeros that lie voxel by voxel."""
    empty = torch.empty(list(shape), dtype=dtype, device=device, memory_format=LAST)
    return empty.zero_()


class _Pointwise(torch.autograd.Function):
    """A product of matrices, into maps that may be changed in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        y = torch.empty(
            (len(x), len(kernel), *x.shape[2:]), dtype=x.dtype, device=x.device, memory_format=LAST
        )
        torch.mm(_rows(x), kernel.flatten(1).t(), out=_rows(y))
        ctx.save_for_backward(x, kernel)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        gradient = _rows(gradients[0])
        of_x = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x, memory_format=LAST)
            torch.mm(gradient, kernel.flatten(1), out=_rows(of_x))
        if ctx.needs_input_grad[1]:
            of_kernel = (gradient.t() @ _rows(x)).view(kernel.shape)
        return of_x, of_kernel


def _rows(x: Tensor) -> Tensor:
    """``(voxels, C)``, a view of channels-last maps."""
    x = x.contiguous(memory_format=LAST)
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])


class Convolution(nn.Conv3d):
    """A convolution without bias that computes in the type of its input."""

    def reset_parameters(self) -> None:
        """Zeros: the network draws the weights, and torch's own generator stays as it was."""
        torch.nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``."""
        return convolved(arranged(x), self.weight.to(x.dtype))
