"""Counts with their nouns, as people write them."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``count`` and what is counted, in the number that belongs to it.

    Args:
        count: How many there are.
        noun: Of one of them.
        plural: Of several. Default: the noun with an s.

    >>> counted(1, "case"), counted(0, "case"), counted(2, "class", "classes")
    ('1 case', '0 cases', '2 classes')
    """
    several = f"{noun}s" if plural is None else plural
    return f"{count} {noun if count == 1 else several}"
