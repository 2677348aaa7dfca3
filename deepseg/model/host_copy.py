"""Copies between the host and a device, for which nothing else waits."""

from __future__ import annotations

import torch
from torch import Tensor


def uploaded(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``; a GPU fetches it by itself, between two of its steps."""
    if device.type == "cuda" and not x.is_pinned():
        x = x.pin_memory()
    return x.to(device, non_blocking=device.type == "cuda")


class HostCopy:
    """A copy of values that the device may still be computing.

    Work that the device is given between making and reading the copy keeps it busy meanwhile.

    >>> HostCopy(torch.tensor(0.25)).number()
    0.25

    Args:
        values: On any device.
    """

    def __init__(self, values: Tensor) -> None:
        is_cuda = values.device.type == "cuda"
        self._copy = values.detach().to("cpu", non_blocking=is_cuda)  # into pinned memory
        self._arrived = torch.Event(values.device) if is_cuda else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(values.device))

    def tensor(self) -> Tensor:
        """The values, once the device has computed them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy

    def number(self) -> float:
        """The value, where there is a single one."""
        return float(self.tensor())
