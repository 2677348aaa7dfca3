"""The time of an epoch, and the part of it in which the network waits for segments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

Item = TypeVar("Item")


class FirstSteps:
    """The time that the first steps of a process take, from which that of all steps follows.

    >>> ends = iter([9.0, 9.5, 10.0])  # the first step takes longer: it is not counted
    >>> steps = FirstSteps(2, clock=lambda: next(ends))
    >>> [steps.step_s() for _ in range(4)]
    [None, None, 0.5, None]

    Args:
        count: Steps that are timed.
        clock: Seconds from any moment.
    """

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._steps = 0
        self._begun = 0.0

    def step_s(self) -> float | None:
        """Seconds of a step, once, when enough were done; call it after each."""
        self._steps += 1
        if self._steps > self._count + 1:
            return None
        now = self._clock()
        if self._steps == 1:
            self._begun = now
        done = self._steps == self._count + 1
        return (now - self._begun) / self._count if done else None


class EpochTimer:
    """Time of one epoch, with that of the processes that began it.

    >>> timer = EpochTimer({"seconds": 60.0, "waited": 5.0, "core_seconds": 90.0})
    >>> list(timer.timed("ab")), round(timer.seconds), round(timer.waited)
    (['a', 'b'], 60, 5)
    >>> round(timer.core_seconds)
    90

    Args:
        earlier: `state_dict` of the process before; empty for a new epoch.

    Attributes:
        waited: Seconds in which there was no batch to learn from.
        core_seconds: Time of this process on all cores, from the first batch to the last one.
    """

    def __init__(self, earlier: Mapping[str, float]) -> None:
        self.core_seconds = earlier.get("core_seconds", 0.0)
        self.waited = earlier.get("waited", 0.0)
        self._earlier = earlier.get("seconds", 0.0)
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """From the beginning of the epoch to now."""
        return self._earlier + time.monotonic() - self._begun

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches; the time until each is there counts as waited."""
        begun, used = time.monotonic(), time.process_time()
        for batch in batches:
            self.waited += time.monotonic() - begun
            yield batch
            self.core_seconds += time.process_time() - used
            begun, used = time.monotonic(), time.process_time()
        self.waited += time.monotonic() - begun

    def state_dict(self) -> dict[str, float]:
        """The times so far, with which the next process goes on."""
        return {
            "seconds": self.seconds,
            "waited": self.waited,
            "core_seconds": self.core_seconds,
        }
