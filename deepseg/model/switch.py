"""The one switch between the quick routines and torch's plain operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_is_on: ContextVar[bool] = ContextVar("quick routines", default=True)


def are_used(x: Tensor) -> bool:
    """True if maps like ``x`` are computed by the quick routines of `kernels`.

    They are written for processors. Elsewhere, while torch exports or compiles a network, and
    inside `switched_off`, the same function is computed by torch's plain operations.
    """
    return x.device.type == "cpu" and not is_plain(x)


def is_plain(x: Tensor) -> bool:
    """True if maps like ``x`` are computed by torch's plain operations alone, step by step.

    GPUs have routines of their own, which start few kernels; Apple's lack some of them.
    """
    return torch.compiler.is_compiling() or x.device.type in ("mps", "meta") or not _is_on.get()


@contextmanager
def switched_off() -> Iterator[None]:
    """While open, networks are computed in this thread by torch's plain operations alone."""
    token = _is_on.set(False)
    try:
        yield
    finally:
        _is_on.reset(token)
