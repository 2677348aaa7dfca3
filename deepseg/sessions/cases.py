"""Cases on their way into a session: listed, checked all at once, prepared."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.model import ModelConfig
from deepseg.data.cases import Case, list_cases
from deepseg.data.checks import Facts, examine, find_problems
from deepseg.data.preparation import fingerprint, prepared_folder
from deepseg.errors import DeepsegError
from deepseg.report.console import Console
from deepseg.storage.atomic import writable, write_json


@dataclass(frozen=True)
class CheckedCases:
    """Cases in which nothing is wrong.

    Attributes:
        cases: Where their files are.
        facts: What was found in each.
    """

    cases: tuple[Case, ...]
    facts: tuple[Facts, ...]


def checked_cases(
    settings: CasesConfig,
    model: ModelConfig,
    console: Console,
    *,
    needs_labels: bool,
    cache: Path | None = None,
    what: str,
) -> CheckedCases:
    """List the cases and read every file of them once.

    Args:
        settings: Where they are.
        model: Whose channels and classes they must have.
        console: Shows progress and warnings.
        needs_labels: Whether a case without labels is a problem.
        cache: Folder that remembers what was found, as long as the files do not change.
        what: Name of these cases for people: ``training cases``.

    Raises:
        DeepsegError: All problems of all cases.
    """
    cases = list_cases(settings, model.channels)
    stamps = [_stamp(case, model, needs_labels) for case in cases]
    known = [_remembered(cache, stamp) for stamp in stamps]
    todo = [case for case, facts in zip(cases, known, strict=True) if facts is None]
    found = iter(_examined(todo, len(model.classes), needs_labels, console, what))
    facts = [next(found) if one is None else one for one in known]
    problems, warnings = find_problems(facts, classes=model.classes, needs_labels=needs_labels)
    for warning in warnings:
        console.warn(warning)
    if problems:
        raise DeepsegError(*problems)
    for stamp, one in zip(stamps, facts, strict=True):
        _remember(cache, stamp, one)
    return CheckedCases(tuple(cases), tuple(facts))


def _examined(
    cases: Sequence[Case], classes: int, needs_labels: bool, console: Console, what: str
) -> list[Facts]:
    if not cases:
        return []
    with console.progress(f"checking {what}", len(cases)) as advance:
        if len(cases) == 1:
            facts = [examine(cases[0], class_count=classes, needs_labels=needs_labels)]
            advance()
            return facts
        with ProcessPoolExecutor(_processes(len(cases))) as pool:
            jobs = [
                pool.submit(examine, case, class_count=classes, needs_labels=needs_labels)
                for case in cases
            ]
            facts = []
            for job in jobs:
                facts.append(job.result())
                advance()
    return facts


def prepared_cases(
    checked: CheckedCases,
    preparation: Preparation,
    channels: Sequence[str],
    cache: Path,
    console: Console,
    *,
    what: str,
) -> list[Path]:
    """The folders of the prepared cases, made now unless they are there."""
    cases = checked.cases
    with writable(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with (
        console.progress(f"preparing {what}", len(cases)) as advance,
        ProcessPoolExecutor(_processes(len(cases))) as pool,
    ):
        jobs = [pool.submit(prepared_folder, case, preparation, channels, cache) for case in cases]
        folders = []
        for job in jobs:
            folders.append(job.result())
            advance()
    return folders


def _processes(cases: int) -> int:
    return max(1, min(cases, os.cpu_count() or 1))


def _stamp(case: Case, model: ModelConfig, needs_labels: bool) -> str | None:
    """What was found stays true as long as this does not change; None if a file is missing."""
    files = [*case.channels, case.labels, case.roi, *case.weight_maps]
    if not all(path is None or path.exists() for path in files):
        return None
    files_and_channels = fingerprint(case, Preparation(), model.channels)
    return f"{files_and_channels}-{len(model.classes)}-{needs_labels:d}-{case.trust_arrays:d}"


def _remembered(cache: Path | None, stamp: str | None) -> Facts | None:
    if cache is None or stamp is None:
        return None
    try:
        return Facts.from_json(json.loads((cache / "facts" / f"{stamp}.json").read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(cache: Path | None, stamp: str | None, facts: Facts) -> None:
    if cache is None or stamp is None:
        return
    path = cache / "facts" / f"{stamp}.json"
    if not path.exists():
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts.to_json())
