"""What runs leave and print."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE = ("--learning-rate", "0.02")


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as archive:
        return {name: archive[name] for name in archive.files}


def error_of(capsys) -> str:
    """The only line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line
