"""Prepared cases that one process has open: many mapped into memory, few of them using any.

A mapped file costs memory for what was read of it, until that is given back. So all cases but those
used last give theirs back; voxels needed again come from the file, or from what the system still
has of it. Many cases then need no more memory than a few. What is cut of them is not known here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from deepseg.data.case_cache import open_prepared
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.candidates import (
    CandidateRules,
    Candidates,
    find_candidates,
    open_candidates,
    write_candidates,
)


@dataclass(frozen=True)
class MappingLimits:
    """Limits of the cases that a process keeps mapped, and of the memory that they take.

    Attributes:
        cases: Mapped at the same time.
        memory_bytes: What the cases that were used last may hold in memory together; the very last
            one may hold more. Five cases of 240 x 240 x 155 voxels with two channels by default.
    """

    cases: int = 64
    memory_bytes: int = 400 << 20


DEFAULT_LIMITS = MappingLimits()


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
        """Give back the memory of voxels that can be read from files again."""
        self.prepared.forget()
        self.candidates.forget()


class MappedCases:
    """The prepared cases that a process has mapped, by their folder.

    A copy in another process begins with none.

    Args:
        rules: Which voxels segments may be centred on.
        limits: How many cases stay mapped.
    """

    def __init__(self, rules: CandidateRules, limits: MappingLimits = DEFAULT_LIMITS) -> None:
        self.rules = rules
        self.limits = limits
        # In both, the case used last stands at the end.
        self._mapped: OrderedDict[Path, MappedCase] = OrderedDict()
        self._in_memory: OrderedDict[Path, MappedCase] = OrderedDict()

    def __getitem__(self, folder: Path) -> MappedCase:
        """The prepared case in ``folder``; its candidates are worked out unless they are there."""
        case = self._mapped.get(folder)
        if case is None:
            case = self._mapped[folder] = map_case(folder, self.rules)
        self._in_memory[folder] = case
        self._mapped.move_to_end(folder)
        self._in_memory.move_to_end(folder)
        self._keep_limits()
        return case

    def __reduce__(self) -> tuple[type[MappedCases], tuple[CandidateRules, MappingLimits]]:
        return MappedCases, (self.rules, self.limits)

    def release(self) -> None:
        """Let go of all files; a case that is needed again is mapped again."""
        self._mapped.clear()
        self._in_memory.clear()

    def _keep_limits(self) -> None:
        while len(self._mapped) > self.limits.cases:
            folder, _ = self._mapped.popitem(last=False)
            self._in_memory.pop(folder, None)
        while len(self._in_memory) > 1 and self._bytes_in_memory() > self.limits.memory_bytes:
            _, case = self._in_memory.popitem(last=False)
            case.forget()

    def _bytes_in_memory(self) -> int:
        return sum(case.size for case in self._in_memory.values())


def has_candidates(folder: Path, rules: CandidateRules) -> bool:
    """True if the candidates of the prepared case in ``folder`` are worked out already."""
    return (folder / f"{rules.file_name}-ends.npy").exists()


def map_case(folder: Path, rules: CandidateRules) -> MappedCase:
    """Map the prepared case in ``folder``; its candidates are worked out unless they are there."""
    case = open_prepared(folder)
    file = folder / rules.file_name
    if not has_candidates(folder, rules):
        write_candidates(find_candidates(case, rules), file)
    return MappedCase(case, open_candidates(file))
