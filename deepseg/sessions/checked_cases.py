"""Cases on their way into a session: listed, checked all at once, prepared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import Case, list_cases
from deepseg.data.cases.checks import CaseSummary, examine, find_problems
from deepseg.data.preparation import fingerprint, prepared_folder
from deepseg.errors import (
    DeepsegError,
    OutputNotWritable,
    Problem,
    raise_if_any,
)
from deepseg.report.console import Console
from deepseg.sessions.compatibility import training_incompatibilities
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.tables import cases_table
from deepseg.storage.atomic import writable, write_json

MOST_THREADS = 8  # each holds a whole case


@dataclass(frozen=True)
class CheckedCases:
    """Cases in which nothing is wrong.

    Attributes:
        cases: Where their files are.
        facts: What was found in each.
        left_out: Problems of the cases that were left out.
    """

    cases: tuple[Case, ...]
    facts: tuple[CaseSummary, ...]
    left_out: tuple[Problem, ...] = ()


def training_and_held_out(
    config: TrainConfig, model: ModelConfig, console: Console, *, cache: Path | None = None
) -> tuple[CheckedCases, CheckedCases | None]:
    """The checked cases of a training session, those held out second.

    Raises:
        DeepsegError: All problems of all cases, and of settings that do not fit the model.
    """
    problems = list(training_incompatibilities(config, model))
    groups = {"training cases": config.training.cases}
    if config.validation is not None:
        groups["validation cases"] = config.validation.cases
    found = {}
    for what, settings in groups.items():
        try:
            found[what] = checked_cases(
                settings,
                model,
                console,
                needs_labels=True,
                # Few cases are held out: a rare class may be in none of them.
                allow_missing_classes=settings.allow_missing_classes or what != "training cases",
                resampled=config.preparation.resample is not None,
                cache=cache,
                what=what,
            )
        except OutputNotWritable:
            raise
        except DeepsegError as error:
            problems += error.problems
    raise_if_any(dict.fromkeys(problems))
    training, held_out = found["training cases"], found.get("validation cases")
    if held_out is not None:
        _warn_of_shared_cases(training, held_out, console)
    return training, held_out


def _warn_of_shared_cases(training: CheckedCases, held_out: CheckedCases, console: Console) -> None:
    known = {facts.images for facts in training.facts}
    shared = [facts.name for facts in held_out.facts if facts.images in known]
    if shared:
        console.warn(
            f"validation cases that are also trained on: {', '.join(shared)}; their scores say "
            "nothing about new cases"
        )


def checked_cases(
    settings: CasesConfig,
    model: ModelConfig,
    console: Console,
    *,
    needs_labels: bool,
    what: str,
    allow_missing_classes: bool = False,
    resampled: bool = False,
    cache: Path | None = None,
    only_good: bool = False,
    part: Shard | None = None,
    threads: int = MOST_THREADS,
) -> CheckedCases:
    """List the cases, read every file of them once, and show what they are.

    Args:
        settings: Where they are.
        model: Whose channels and classes they must have.
        console: Shows progress, warnings and a table.
        needs_labels: Whether a case without labels is a problem.
        what: Name of these cases for people: ``training cases``.
        allow_missing_classes: Whether a class that no case has is only a warning.
        resampled: Whether all cases are brought to one voxel size.
        cache: Folder that remembers what was found, as long as the files do not change.
        only_good: Leave out cases with problems, as long as there may be one without.
        part: Look at this part of the cases only; what is wrong with all of them together may be
            right with those of the other parts.
        threads: Cases that are looked at together, each whole in memory.

    Raises:
        DeepsegError: All problems of all cases.
    """
    cases = list_cases(settings, model.channels)
    if part is not None:
        cases = list(part.of(cases))
    stamps = [_stamp(case, model, needs_labels) for case in cases]
    known = [_remembered(cache, stamp) for stamp in stamps]
    judge = partial(examine, class_count=len(model.classes), needs_labels=needs_labels)
    todo = [case for case, facts in zip(cases, known, strict=True) if facts is None]
    found = iter(_each(judge, todo, console, f"checking {what}", threads=threads))
    facts = [next(found) if one is None else one for one in known]
    for stamp, one in zip(stamps, facts, strict=True):
        _remember(cache, stamp, one)
    left_out: tuple[Problem, ...] = ()
    if only_good and (part is not None or any(not one.problems for one in facts)):
        left_out = tuple(problem for one in facts for problem in one.problems)
        for one in facts:
            if one.problems:
                console.warn(f"no result for {one.name}; going on with the other cases")
        cases = [case for case, one in zip(cases, facts, strict=True) if not one.problems]
        facts = [one for one in facts if not one.problems]
    problems, warnings = find_problems(
        facts, classes=model.classes, needs_labels=needs_labels,
        allow_missing_classes=allow_missing_classes, resampled=resampled,
    )  # fmt: skip
    if part is not None:
        problems = list(dict.fromkeys(problem for one in facts for problem in one.problems))
    for warning in warnings:
        console.warn(warning)
    raise_if_any(problems)
    cases_table(console, what, facts, model.classes)
    return CheckedCases(tuple(cases), tuple(facts), left_out)


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
    with writable(cache):
        cache.mkdir(parents=True, exist_ok=True)
    make = partial(prepared_folder, preparation=preparation, channels=channels, cache=cache)
    return _each(make, checked.cases, console, f"preparing {what}")


Item = TypeVar("Item")
Result = TypeVar("Result")


def _each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    console: Console,
    title: str,
    *,
    threads: int = MOST_THREADS,
) -> list[Result]:
    """``function`` of every item, in their order; reading and unpacking files leaves Python free.

    Threads, not processes: those need a guarded main module, which a notebook does not have.
    """
    if not items:
        return []
    results = []
    count = min(len(items), os.cpu_count() or 1, threads)
    with console.progress(title, len(items)) as advance, ThreadPoolExecutor(count) as pool:
        for result in pool.map(function, items):
            results.append(result)
            advance()
    return results


def _stamp(case: Case, model: ModelConfig, needs_labels: bool) -> str | None:
    """What was found stays true as long as this does not change; None if a file is missing."""
    if case.missing:
        return None
    files_and_channels = fingerprint(case, Preparation(), model.channels)
    asked = (case.name, case.where, len(model.classes), needs_labels, case.trust_arrays)
    return f"{files_and_channels}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}"


def _remembered(cache: Path | None, stamp: str | None) -> CaseSummary | None:
    if cache is None or stamp is None:
        return None
    try:
        return CaseSummary.from_json(
            json.loads((cache / "facts" / f"{stamp}.json").read_text("utf-8"))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(cache: Path | None, stamp: str | None, facts: CaseSummary) -> None:
    if cache is None or stamp is None or facts.problems:
        return
    path = cache / "facts" / f"{stamp}.json"
    if not path.exists():
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts.to_json())
