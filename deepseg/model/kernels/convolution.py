"""Convolution by the quickest routine that torch has for maps that lie voxel by voxel.

For small maps and for kernels of one voxel, torch's own choice is one that is ten times as slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.switch import are_used

LAST = torch.channels_last_3d
USUAL = (torch.float32, torch.float64)  # in torch's usual memory order on GPUs


def has_instructions(dtype: torch.dtype, device: torch.device) -> bool:
    """True if the processor or the GPU has instructions for values of this type."""
    if dtype != torch.bfloat16:
        return True
    if device.type == "cpu":
        return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def arranged(x: Tensor) -> Tensor:
    """``x`` in the memory order in which it is convolved most quickly.

    That is voxel by voxel, but for float32 on a GPU and for plain operations, where torch's usual
    order is kept.
    """
    is_usual = x.dtype in USUAL or x.device.type == "cpu"
    if is_usual and not are_used(x):
        return x.contiguous()
    return x.contiguous(memory_format=LAST)


def convolved(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``; ``x`` is arranged."""
    if not are_used(x):
        return F.conv3d(x, kernel, bias)
    if kernel.shape[2:] == (1, 1, 1):
        if bias is None:
            apply: Callable[..., Tensor] = _Pointwise.apply
            return apply(x, kernel)
        voxels = x.permute(0, 2, 3, 4, 1)
        return F.linear(voxels, kernel.flatten(1), bias).permute(0, 4, 1, 2, 3)
    has_routine = x.dtype in (torch.float32, torch.bfloat16) and torch._C._has_mkldnn
    if has_routine and has_instructions(x.dtype, x.device):
        return torch.mkldnn_convolution(x, kernel, bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return F.conv3d(x, kernel, bias)


def convolved_with_input_bias(x: Tensor, kernel: Tensor, input_bias: Tensor) -> Tensor:
    """Convolution of ``x + input_bias``, without a gradient of ``x``: for images.

    A bias in front of an unpadded convolution is a bias after it.

    Args:
        x: ``(N, C, X, Y, Z)``.
        kernel: ``(F, C, kx, ky, kz)``.
        input_bias: ``(C,)``.
    """
    bias = kernel.sum((2, 3, 4)) @ input_bias
    return convolved(arranged(x), kernel.to(x.dtype), bias.to(x.dtype))


def zero_maps(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Maps ``(N, C, X, Y, Z)`` of zeros, in the memory order in which such are convolved."""
    is_usual = dtype in USUAL and device.type != "cpu"
    order = torch.contiguous_format if is_usual else LAST
    return torch.empty(list(shape), dtype=dtype, device=device, memory_format=order).zero_()


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
