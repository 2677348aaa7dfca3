"""Models that ship with deepseg, named ``builtin:NAME`` wherever a model file is; none does yet.

``benchmarks/pretraining.py`` makes the first, ``builtin:brain``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.errors import DeepsegError, Problem, did_you_mean

PREFIX = "builtin:"
FOLDER = Path(__file__).parent


def builtin_names() -> list[str]:
    """The names of all models that ship with deepseg."""
    return sorted(file.stem for file in FOLDER.glob("*.save"))


def builtin_file(path: Path) -> Path:
    """The file of the model that ``path`` names, or any other path as it is.

    >>> builtin_file(Path("runs/M.save")).name
    'M.save'

    Raises:
        DeepsegError: ``builtin-unknown``.
    """
    if not str(path).startswith(PREFIX) or path.exists():
        return path
    name, names = str(path).removeprefix(PREFIX), builtin_names()
    if name not in names:
        raise DeepsegError(_unknown(name, names))
    return FOLDER / f"{name}.save"


def _unknown(name: str, names: Sequence[str]) -> Problem:
    models = ", ".join(PREFIX + other for other in names)
    return Problem(
        code="builtin-unknown",
        got=f"{PREFIX}{name}",
        expected=f"one of {models}"
        if names
        else "the path of a .save: no model ships with deepseg",
        fix="correct the name, or give the path of a .save" + did_you_mean(name, names),
    )
