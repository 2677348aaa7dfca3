"""How long an epoch takes, and how much of that the network waits; what it learns is not known."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

Item = TypeVar("Item")


class EpochTimer:
    """Time of one epoch, also of the processes that began it.

    Args:
        earlier: What `saved` gave in the process before.

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
        """The batches; time until each is there counts as waited."""
        begun = time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - begun
            yield batch
            begun = time.monotonic()
        self.waited += time.monotonic() - begun

    def saved(self) -> dict[str, float]:
        """What the next process needs to go on."""
        return {"seconds": self.seconds, "waited": self.waited}
