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
from deepseg.geometry.boxes import Box, per_axis, volume

SMALLEST = 8  # voxels along an axis, below which nothing is cut
EXHAUSTED = "memory is exhausted: boxes are computed in halves from here on"

Found = TypeVar("Found")


class SplitOnOutOfMemory:
    """What memory has room for, by pathway.

    Args:
        say: Called with one line when memory is exhausted for the first time.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say = say
        self._most: dict[int, float] = {}
        self._lock = Lock()

    def in_parts(self, pathway: int, box: Box, compute: Callable[[Box], Found]) -> list[Found]:
        """What is computed of ``box``, or of its halves, and of theirs, as memory allows.

        Args:
            pathway: Number of the one that it is a box of.
            box: To be computed.
            compute: Gives what is found in a box. Several threads may be in here.

        Raises:
            Exception: What ``compute`` raises, for want of memory too if nothing can be halved.
        """
        found, waiting = [], [box]
        while waiting:
            part = waiting.pop()
            if self._is_too_large(pathway, part):
                waiting += reversed(halves(part))
                continue
            try:
                found.append(compute(part))
                continue
            except Exception as error:
                if not is_out_of_memory(error) or max(part.size) <= SMALLEST:
                    raise
            # Outside of the handler, which keeps alive what was computed.
            torch.cuda.empty_cache()
            self._note(pathway, part)
            waiting.append(part)
        return found

    def _note(self, pathway: int, box: Box) -> None:
        """Remember that ``box`` is too large; say so if it is the first."""
        with self._lock:
            if not self._most:
                self._say(EXHAUSTED)
            self._most[pathway] = min(self._most.get(pathway, inf), volume(box.size) // 2)

    def _is_too_large(self, pathway: int, box: Box) -> bool:
        most = self._most.get(pathway, inf)
        return volume(box.size) > most and max(box.size) > SMALLEST


def halves(box: Box) -> tuple[Box, Box]:
    """``box`` cut in two across its longest side."""
    longest = box.size.index(max(box.size))
    x, y, z = (n // 2 if axis == longest else 0 for axis, n in enumerate(box.size))
    cut = (x, y, z)
    first = per_axis(lambda n, c: c if c else n, box.size, cut)
    second = per_axis(lambda n, c: n - c, box.size, cut)
    return Box(box.start, first), Box(box.moved(cut).start, second)
