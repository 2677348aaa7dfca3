"""Shortcuts past two layers of a pathway, whose gradients need no memory of their own.

torch's own gradient of a crop is a map of zeros with the crop in it, which is then added to the
gradient of the layers that were passed by. Here the crop is added to that gradient in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepseg.geometry.boxes import Box


def with_shortcut(x: Tensor, maps: int, box: Box) -> tuple[Tensor, Tensor]:
    """``x`` ``(N, C, X, Y, Z)`` for the next layer, and its first ``maps`` maps inside ``box``.

    The gradient of the first comes from a convolution or a norm, and nobody else holds it.

    >>> x = torch.ones(1, 2, 3, 1, 1, requires_grad=True)
    >>> y, middle = with_shortcut(x, 1, Box((1, 0, 0), (1, 1, 1)))
    >>> ((5 * y).sum() + middle.sum()).backward()
    >>> x.grad.flatten().tolist()
    [5.0, 6.0, 5.0, 5.0, 5.0, 5.0]
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _Shortcut.apply
    return apply(x, maps, box)


class _Shortcut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, maps: int, box: Box) -> tuple[Tensor, Tensor]:
        ctx.place = (slice(None), slice(maps), *box.slices)
        return x.view_as(x), x[ctx.place]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_next, of_shortcut = gradients
        of_next[ctx.place].add_(of_shortcut)
        return of_next, None, None
