"""The time of an epoch, and the part of it in which the network waits for segments."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

Item = TypeVar("Item")


class EpochTimer:
    """Time of one epoch, with that of the processes that began it.

    >>> timer = EpochTimer({"seconds": 60.0, "waited": 5.0})
    >>> list(timer.timed("ab")), round(timer.seconds), round(timer.waited)
    (['a', 'b'], 60, 5)

    Args:
        earlier: `state_dict` of the process before; empty for a new epoch.

    Attributes:
        waited: Seconds in which there was no batch to learn from.
    """

    def __init__(self, earlier: Mapping[str, float]) -> None:
        self.waited = earlier.get("waited", 0.0)
        self._earlier = earlier.get("seconds", 0.0)
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """From the beginning of the epoch to now."""
        return self._earlier + time.monotonic() - self._begun

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches; the time until each is there counts as waited."""
        begun = time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - begun
            yield batch
            begun = time.monotonic()
        self.waited += time.monotonic() - begun

    def state_dict(self) -> dict[str, float]:
        """The times so far, with which the next process goes on."""
        return {"seconds": self.seconds, "waited": self.waited}
