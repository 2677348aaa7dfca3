"""A value on its way from the device to the host, for which nothing else waits."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy of a value that the device may still be computing.

    Work that the device is given between making and reading the copy keeps it busy meanwhile.

    >>> HostCopy(torch.tensor(0.25)).read()
    0.25

    Args:
        value: A tensor of one number.
    """

    def __init__(self, value: Tensor) -> None:
        is_cuda = value.device.type == "cuda"
        self._copy = value.detach().to("cpu", non_blocking=is_cuda)  # into pinned memory
        self._arrived = torch.Event(value.device) if is_cuda else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(value.device))

    def read(self) -> float:
        """The value, once the device has computed it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._copy)
