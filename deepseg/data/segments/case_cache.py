"""Prepared cases that this process has open: many mapped into memory, few of them using any.

A mapped file costs memory for what was read of it, until that is given back. So all cases but those
used last give theirs back; voxels needed again come from the file, or from what the system still
has of it. Many cases then need no more memory than a few. What is cut of them is not known here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from deepseg.config.blocks.sampling import Sampling
from deepseg.data.preparation import PreparedCase, open_prepared
from deepseg.data.segments.sampling import Candidates, candidates, keep_candidates, open_candidates
from deepseg.geometry.boxes import Int3, text

MOST_OPEN = 64  # cases mapped at the same time
MOST_IN_MEMORY = 400 << 20  # bytes of them: five cases of 240 x 240 x 155 with two channels


@dataclass(frozen=True, eq=False)
class MappedCase:
    """A case to cut segments from.

    Attributes:
        prepared: Its arrays.
        candidates: The voxels that segments may be centred on.
    """

    prepared: PreparedCase
    candidates: Candidates

    @property
    def size(self) -> int:
        """Bytes of memory that cutting segments can take, but for the few that draws take."""
        labels = self.prepared.labels
        return self.prepared.channels.nbytes + (0 if labels is None else labels.nbytes)

    def forget(self) -> None:
        """Give back the memory of what was read; it can be read again."""
        self.prepared.forget()
        self.candidates.forget()


_in_memory: OrderedDict[MappedCase, None] = OrderedDict()  # the one used last at the end


def mapped_case(
    folder: Path, sampling: Sampling, *, classes: int, segment: Int3, prediction: Int3
) -> MappedCase:
    """The prepared case in ``folder``; its candidates are worked out now unless they are there.

    Args:
        sampling: Which categories there are.
        classes: Number of classes.
        segment: Size of the segments.
        prediction: Size of what is predicted from them.
    """
    case = _mapped(folder, sampling, classes, segment, prediction)
    _in_memory[case] = None
    _in_memory.move_to_end(case)
    while _is_too_much():
        longest_ago, _ = _in_memory.popitem(last=False)
        longest_ago.forget()
    return case


def _is_too_much() -> bool:
    count = len(_in_memory)
    return count > 1 and (
        count > MOST_OPEN or sum(case.size for case in _in_memory) > MOST_IN_MEMORY
    )


@lru_cache(maxsize=MOST_OPEN)
def _mapped(
    folder: Path, sampling: Sampling, classes: int, segment: Int3, prediction: Int3
) -> MappedCase:
    case = open_prepared(folder)
    sizes = f"{text(segment)}-{text(prediction)}".replace(" ", "")
    file = folder / f"{sampling.type}-{classes}-{sizes}"
    if not file.with_name(f"{file.name}-ends.npy").exists():
        found = candidates(case, sampling, classes=classes, segment=segment, prediction=prediction)
        keep_candidates(found, file)
    return MappedCase(case, open_candidates(file))
