"""Dropout draws from torch's global generators; here they are seeded for a while and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and of ``device``; leaving restores their states.

    >>> cpu, before = torch.device("cpu"), torch.get_rng_state()
    >>> with seeded(7, cpu):
    ...     first = torch.rand(3)
    >>> with seeded(7, cpu):
    ...     second = torch.rand(3)
    >>> torch.equal(first, second), torch.equal(torch.get_rng_state(), before)
    (True, True)
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
