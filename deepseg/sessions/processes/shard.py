"""Shards of the cases: every n-th one, so that n processes or jobs share them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from deepseg.errors import DeepsegError, Problem

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` of ``count``, counted from 1.

    >>> Shard(2, 3).of(["a", "b", "c", "d", "e"])
    ['b', 'e']
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every ``count``-th item, beginning with item ``number``."""
        return items[self.number - 1 :: self.count]


def shard(text: str) -> Shard:
    """The shard that a user calls ``2/5``.

    >>> print(shard("2/5"))
    2of5

    Raises:
        DeepsegError: ``command-line``.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise DeepsegError(
            Problem(
                code="command-line",
                got=f"-part {text}",
                expected="i/n with i from 1 to n, such as 2/5",
                fix="correct it",
            )
        )
    return Shard(int(match[1]), int(match[2]))
