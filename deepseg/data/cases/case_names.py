"""Names of cases: from the paths of their files, and rules for names that people choose.

A name becomes part of the names of result files.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TypeAlias

CaseKey: TypeAlias = tuple[str, ...]

ENDING = re.compile(r"\.(nii|img|hdr|mha|mhd|nrrd|nhdr|dcm|ima)(\.gz)?$", re.IGNORECASE)
ALLOWED = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]+")
LONGEST = 200  # bytes of a name; a file system counts bytes, and 255 hold the name of a result file


def without_ending(name: str) -> str:
    """``name`` without the ending of an image format.

    >>> without_ending("p1.nii.gz"), without_ending("p1.v2")
    ('p1', 'p1.v2')
    """
    return ENDING.sub("", name)


def is_allowed(name: str) -> bool:
    """True if ``name`` can be part of a file name, as far as its characters go.

    >>> is_allowed("p1"), is_allowed("study/p1"), is_allowed("")
    (True, False, False)
    """
    return ALLOWED.fullmatch(name) is not None


def folded(name: str) -> str:
    """``name`` as file systems see it that do not tell capitals, or ways to write umlauts, apart.

    >>> folded("P1") == folded("p1"), folded("p1") == folded("p2")
    (True, False)
    """
    return unicodedata.normalize("NFC", name).casefold()


def byte_count(name: str) -> int:
    """Bytes that ``name`` takes in a file system.

    >>> byte_count("Müller")
    7
    """
    return len(name.encode("utf-8", "surrogateescape"))


def case_keys(paths: Sequence[Path | None]) -> list[CaseKey | None]:
    """Words and numbers of every path that not all of them have: what they say about their case.

    >>> case_keys([Path("/d/p1/T1.nii.gz"), None, Path("/d/p2/T1.nii.gz")])
    [('1',), None, ('2',)]
    """
    words = [None if path is None else Counter(_words(path)) for path in paths]
    present = [counts for counts in words if counts is not None]
    common = reduce(and_, present) if present else Counter()
    return [None if w is None else tuple(sorted((w - common).elements())) for w in words]


def names_from_paths(paths: Sequence[Path], reserved: Sequence[str] = ()) -> list[str]:
    """A different name for every path: the parts of it, nearest to the file, that tell cases apart.

    A file that comes again gets a counter.

    Args:
        reserved: Names that must not be used.

    >>> names_from_paths([Path("a/p1/FLAIR.nii.gz"), Path("a/p2/FLAIR.nii.gz")])
    ['p1', 'p2']
    >>> names_from_paths([Path("a/p1.nii.gz")])
    ['p1']
    >>> names_from_paths([Path("a/p1.nii.gz"), Path("a/p1.nii.gz")], reserved=["p1"])
    ['p1_2', 'p1_3']
    """
    split = [_parts(path) for path in paths]
    ends = _distinctive_ends(split)
    used, names = set(map(folded, reserved)), []
    for parts in split:
        stem = _shortened(re.sub(r"[\\\x00-\x1f]", "_", "_".join(ends[parts])))
        name, number = stem, 1
        while folded(name) in used:
            number += 1
            name = _shortened(f"{stem}_{number}")
        used.add(folded(name))
        names.append(name)
    return names


def _shortened(name: str) -> str:
    """The end of ``name``, as much of it as is allowed."""
    ending = name.encode("utf-8", "surrogateescape")[-LONGEST:]
    while ending[0] & 0xC0 == 0x80:  # the second half of a character
        ending = ending[1:]
    return ending.decode("utf-8", "surrogateescape")


def _words(path: Path) -> list[str]:
    return re.findall(r"\d+|[^\W\d_]+", "/".join(_parts(path)).casefold())


def _parts(path: Path) -> tuple[str, ...]:
    """Folders and file name from the root down, without the ending."""
    *folders, name = path.absolute().parts[1:]
    return (*folders, without_ending(name))


def _distinctive_ends(split: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """For every path the shortest end that no other has, less what the ends have in common."""
    distinct = dict.fromkeys(split)
    longest = max(map(len, distinct), default=0)
    depths = range(1, longest + 1)
    depth = next((d for d in depths if len({p[-d:] for p in distinct}) == len(distinct)), longest)
    common = {k for k in range(1, depth + 1) if len({p[-k:][:1] for p in distinct}) == 1}
    ends = {}
    for parts in distinct:
        reach = min(depth, len(parts))
        end = tuple(parts[-k] for k in range(reach, 0, -1) if k not in common)
        ends[parts] = end or parts[-1:]
    return ends
