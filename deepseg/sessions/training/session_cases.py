"""The cases of a training session, remembered in its models and compared when it goes on.

A file counts by its content: where it lies, and when it was written, is nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from deepseg.data.cases.case import Case
from deepseg.data.images.file_stamps import image_stamp
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import CheckedCases, on_threads

CaseStamps: TypeAlias = dict[str, dict[str, str]]
"""Stamps of the files of cases: by the name of the case, then by what the file is of it."""

SHOWN = 5  # cases that a warning names


def session_cases(
    training: CheckedCases, held_out: CheckedCases | None, channels: Sequence[str]
) -> dict[str, CaseStamps]:
    """Stamps of the training and validation cases, by the title of the set.

    Args:
        training: Cases to learn from.
        held_out: Cases to validate on, or None.
        channels: Names of the model's channels.
    """
    stamped = partial(_named_stamps, channels)
    sets = {"training cases": training, "validation cases": held_out}
    return {
        title: dict(on_threads(stamped, checked.cases, Console(silent=True), ""))
        for title, checked in sets.items()
        if checked is not None
    }


def _named_stamps(channels: Sequence[str], case: Case) -> tuple[str, dict[str, str]]:
    return case.name, dict(_stamps(case, channels))


def case_changes(before: Mapping[str, CaseStamps], now: Mapping[str, CaseStamps]) -> Iterator[str]:
    """Warnings about sets of cases that are not what they were, one for each set.

    >>> first = {"a": {"T1": "1", "labels": "2"}, "b": {"T1": "3", "labels": "4"}}
    >>> second = {"a": {"T1": "1", "labels": "4"}, "c": {"T1": "5", "labels": "6"}}
    >>> for line in case_changes({"training cases": first}, {"training cases": second}):
    ...     print(line)
    training cases changed since the last epoch: left out: b; added: c; other files: a (labels)
    """
    for title, cases in now.items():
        if title not in before:
            continue
        earlier = before[title]
        changed = [
            f"{name} ({', '.join(sorted(_differences(earlier[name], cases[name])))})"
            for name in cases
            if name in earlier and earlier[name] != cases[name]
        ]
        parts = {
            "left out": [name for name in earlier if name not in cases],
            "added": [name for name in cases if name not in earlier],
            "other files": changed,
        }
        lines = [f"{change}: {_first(names)}" for change, names in parts.items() if names]
        if lines:
            yield f"{title} changed since the last epoch: {'; '.join(lines)}"


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    return {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}


def _first(names: Sequence[str]) -> str:
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])


def _stamps(case: Case, channels: Sequence[str]) -> Iterator[tuple[str, str]]:
    for channel, (path, volume) in zip(channels, case.images, strict=True):
        if path is not None:
            yield channel, image_stamp(path) + ("" if volume is None else f" volume {volume}")
    files = {"labels": case.labels, "roi": case.roi}
    files |= {f"weights_{number}": path for number, path in enumerate(case.weight_maps, start=1)}
    for title, path in files.items():
        if path is not None:
            yield title, image_stamp(path)
