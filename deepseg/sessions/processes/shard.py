"""One part of the cases: every n-th, so that n processes or jobs share them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from deepseg.errors import DeepsegError, Problem

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every ``count``-th item, beginning with item ``number``."""
        return items[self.number - 1 :: self.count]


def shard(text: str) -> Shard:
    """``2/5`` as the second part of five.

    Raises:
        DeepsegError: ``command-line``.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise DeepsegError(
            Problem(
                code="command-line",
                got=f"-part {text}",
                expected="i/n with i from 1 to n, such as 2/5",
                fix="correct it",
            )
        )
    return Shard(int(found[1]), int(found[2]))
