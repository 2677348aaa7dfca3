"""Event files for TensorBoard, written from the lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepseg.errors import DeepsegError, Problem


def write_events(record: Mapping[str, Any], folder: Path) -> None:
    """Add every value of an epoch's record to the event files in ``folder``.

    Raises:
        DeepsegError: ``tensorboard-extra-missing``.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="tensorboard-extra-missing",
                got="tensorboard: true without the package tensorboardX",
                expected="the package, for event files",
                fix="pip install 'deepseg-pathways[tensorboard]'",
            )
        ) from error
    with SummaryWriter(str(folder), write_to_disk=True) as writer:
        for name, value in scalars(record):
            writer.add_scalar(name, value, record["epoch"])


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested mappings with its path; those of single cases are left out.

    >>> list(scalars({"epoch": 3, "loss": 0.5, "training": {"dice": {"lesion": 0.75}}}))
    [('loss', 0.5), ('training/dice/lesion', 0.75)]
    """
    for key, value in record.items():
        if key == "cases":
            continue
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "epoch":
            yield f"{prefix}{key}", float(value)
