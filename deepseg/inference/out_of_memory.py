"""Memory that runs out while boxes are computed: halves are computed instead, now and later on.

How large a box may be is learnt from those that were too large. What is computed is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Lock
from typing import TypeVar

import torch

from deepseg.errors import is_out_of_memory
from deepseg.geometry.boxes import Box, sub, volume
from deepseg.inference.limits import DEFAULT_LIMITS

EXHAUSTED = "memory is exhausted: boxes are computed in halves from here on"

Result = TypeVar("Result")


class SplitOnOutOfMemory:
    """Computes boxes whole where memory holds them, else in halves; by pathway.

    Args:
        warn: Called with one line when memory is exhausted for the first time.
        smallest_edge: Longest side, in voxels, of boxes that are not halved any more.

    >>> def compute(box):
    ...     if volume(box.size) > 100:
    ...         raise MemoryError
    ...     return box.size
    >>> SplitOnOutOfMemory(print).in_parts(0, Box((0, 0, 0), (10, 5, 4)), compute)
    memory is exhausted: boxes are computed in halves from here on
    [(5, 5, 4), (5, 5, 4)]
    """

    def __init__(
        self,
        warn: Callable[[str], None] = lambda _: None,
        *,
        smallest_edge: int = DEFAULT_LIMITS.smallest_edge,
    ) -> None:
        self._warn = warn
        self._smallest = smallest_edge
        self._most: dict[int, float] = {}
        self._lock = Lock()

    def in_parts(self, pathway: int, box: Box, compute: Callable[[Box], Result]) -> list[Result]:
        """Results of ``box``, or of its halves, and of theirs, as memory allows.

        Args:
            pathway: Number of the pathway that the box belongs to; each has a limit of its own.
            box: To be computed.
            compute: Gives the result of a box. Several threads may be in here.

        Raises:
            Exception: Raised by ``compute``; running out of memory only if nothing can be halved.
        """
        results, waiting = [], [box]
        while waiting:
            part = waiting.pop()
            if self._is_too_large(pathway, part):
                waiting += reversed(halves(part))
                continue
            try:
                results.append(compute(part))
                continue
            except Exception as error:
                if not is_out_of_memory(error) or max(part.size) <= self._smallest:
                    raise
            # Outside of the handler, which keeps alive what was computed.
            torch.cuda.empty_cache()
            self._note(pathway, part)
            waiting.append(part)
        return results

    def _note(self, pathway: int, box: Box) -> None:
        """Remember that ``box`` is too large; warn if it is the first."""
        with self._lock:
            if not self._most:
                self._warn(EXHAUSTED)
            self._most[pathway] = min(self._most.get(pathway, inf), volume(box.size) // 2)

    def _is_too_large(self, pathway: int, box: Box) -> bool:
        most = self._most.get(pathway, inf)
        return volume(box.size) > most and max(box.size) > self._smallest


def halves(box: Box) -> tuple[Box, Box]:
    """Two boxes that make up ``box``, cut across its longest side.

    >>> halves(Box((1, 2, 3), (4, 9, 5)))
    (Box(start=(1, 2, 3), size=(4, 4, 5)), Box(start=(1, 6, 3), size=(4, 5, 5)))
    """
    longest = box.size.index(max(box.size))
    x, y, z = (n // 2 if axis == longest else 0 for axis, n in enumerate(box.size))
    cut = (x, y, z)
    a, b, c = (n // 2 if axis == longest else n for axis, n in enumerate(box.size))
    return Box(box.start, (a, b, c)), Box(box.moved(cut).start, sub(box.size, cut))
