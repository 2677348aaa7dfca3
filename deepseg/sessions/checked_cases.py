"""Cases on their way into a session: listed, checked all at once, prepared."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.data.case_cache import prepared_folder
from deepseg.data.cases.case import Case, case_list
from deepseg.data.cases.checks import examine
from deepseg.data.cases.cohort_checks import CohortRules, find_problems
from deepseg.data.cases.summary import CaseSummary, unreadable
from deepseg.errors import (
    DeepsegError,
    OutOfMemory,
    Problem,
    is_out_of_memory,
    raise_if_any,
)
from deepseg.inference.cohort_differences import (
    CaseTraits,
    Comparison,
    case_traits,
    turned_note,
)
from deepseg.inference.requests import mirrored_axes
from deepseg.model.checkpoint import Checkpoint, TrainingCohort
from deepseg.report.console import Console
from deepseg.sessions.cohort import (
    decides_orientation,
    known_images,
    learnt_cases,
    learnt_columns,
    session_preparation,
    training_cohort,
    training_comparison,
)
from deepseg.sessions.compatibility import (
    mirrored_sides,
    testing_comparison,
    training_incompatibilities,
    training_warnings,
)
from deepseg.sessions.folds.split import shortened
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.result_names import result_endings, result_name_problems
from deepseg.sessions.summary_cache import SummaryCache
from deepseg.sessions.tables import cases_table
from deepseg.storage.atomic import writable
from deepseg.thread_pool import thread_pool

ALIKE = 3  # warnings of which each is printed
THREADS = 8  # that read cases at the same time, each a whole one

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CheckRules:
    """Purpose of cases, and the way in which they are checked.

    Attributes:
        title: Name of these cases for people: ``training cases``.
        needs_labels: A case without labels is a problem.
        allow_missing_classes: A class that no case has is only a warning.
        is_turned: All cases are turned to one orientation.
        comparisons: With the cases that the models have learnt from, one for each model.
        skip_faulty: Leave out cases with problems, as long as there may be one without.
        shard: Check these cases only; what is wrong with all of them together may be right with
            those of the other shards.
        endings: What follows the names of cases in those of their results.
        cache: Folder that remembers summaries, as long as the files do not change.
        threads: Cases that are read at the same time, each whole in memory.
    """

    title: str
    needs_labels: bool
    allow_missing_classes: bool = False
    is_turned: bool = False
    comparisons: tuple[Comparison, ...] = ()
    skip_faulty: bool = False
    shard: Shard | None = None
    endings: tuple[str, ...] = ()
    cache: Path | None = None
    threads: int = THREADS

    @property
    def computes_roi(self) -> bool:
        """A model makes the region of interest of the images of cases without a mask."""
        return any(comparison.preparation.roi is not None for comparison in self.comparisons)

    @property
    def cohorts(self) -> list[TrainingCohort | None]:
        """Training cases of the models."""
        return [comparison.cohort for comparison in self.comparisons]

    @property
    def compares_channels(self) -> bool:
        """It is known which channels cases of all models may lack."""
        is_known = [
            cohort is not None and cohort.missing_channels is not None for cohort in self.cohorts
        ]
        return bool(is_known) and all(is_known) and not self.needs_labels

    @property
    def spacings_mm(self) -> tuple[tuple[float, float, float], ...]:
        """Voxel sizes to which all models have cases resampled; none if a model has not."""
        sizes = [comparison.preparation.spacing_mm for comparison in self.comparisons]
        return tuple(size for size in sizes if size is not None) if all(sizes) else ()


@dataclass(frozen=True)
class CheckedCases:
    """Cases in which nothing is wrong.

    Attributes:
        cases: Their files.
        summaries: Of each case.
        left_out: Problems of the cases that were left out.
        columns: Names of the columns of their table, for a model whose channels have none.
    """

    cases: tuple[Case, ...]
    summaries: tuple[CaseSummary, ...]
    left_out: tuple[Problem, ...] = ()
    columns: tuple[str, ...] = ()

    def traits(self, channels: Sequence[str]) -> list[CaseTraits]:
        """Properties of every case that are compared with those of other cases.

        Args:
            channels: Names of the model's channels.
        """
        pairs = zip(self.cases, self.summaries, strict=True)
        return [case_traits(case, summary, channels) for case, summary in pairs]


@dataclass(frozen=True)
class TrainingCases:
    """Cases of a training session, and what follows from them.

    Attributes:
        training: To learn from.
        held_out: To validate on; None without validation.
        preparation: Of both.
        cohort: The record of those to learn from, as the model keeps it.
    """

    training: CheckedCases
    held_out: CheckedCases | None
    preparation: Preparation
    cohort: TrainingCohort


def training_and_held_out(
    config: TrainConfig, model: Checkpoint, console: Console, *, cache: Path | None = None
) -> TrainingCases:
    """The checked cases of a training session.

    Args:
        config: Of the session.
        model: With which it begins, or from which it goes on.
        console: Shows progress, warnings and tables.
        cache: Folder that remembers summaries.

    Raises:
        DeepsegError: All problems of all cases, and of settings that do not fit the model.
    """
    network = model.config
    problems = list(training_incompatibilities(config, model))
    for warning in training_warnings(config):
        console.warn(warning)
    rules = CheckRules(
        title="training cases",
        needs_labels=True,
        allow_missing_classes=config.training.cases.allow_missing_classes,
        is_turned=decides_orientation(config.preparation, model),
        comparisons=(training_comparison(config, model),),
        cache=cache,
    )
    training = _unless_faulty(
        lambda: checked_cases(config.training.cases, network, console, rules), problems
    )
    preparation, cohort = config.preparation, TrainingCohort()
    if training is not None:
        preparation = session_preparation(
            config.preparation, model, [case.orientation for case in training.summaries]
        )
        cohort = training_cohort(training.summaries, preparation, network)
        cohort = replace(
            cohort,
            columns=training.columns or learnt_columns(rules.cohorts) or None,
            images=known_images(cohort, model.cohort),
        )
    held_out = None
    if config.validation is not None:
        volumes = None if problems else config.validation.volumes
        comparison = replace(
            training_comparison(config, replace(model, cohort=cohort)),
            model="this session",
            preparation=preparation,
        )
        held_out_rules = replace(
            rules,
            title="validation cases",
            # Few cases are held out: a rare class may be in none of them.
            allow_missing_classes=True,
            endings=() if volumes is None else result_endings(volumes.save, network),
            comparisons=(comparison,),
        )
        settings = config.validation.cases
        held_out = _unless_faulty(
            lambda: checked_cases(settings, network, console, held_out_rules), problems
        )
    raise_if_any(dict.fromkeys(problems))
    assert training is not None
    _say_turned(training, "training cases", preparation, network, console)
    if held_out is not None:
        _warn_of_shared_cases(training, held_out, console)
        _say_turned(held_out, "validation cases", preparation, network, console)
    reflect, key = config.training.augmentation.reflect, "training.augmentation.reflect"
    for warning in mirrored_sides(reflect, key, network.classes, preparation.orientation):
        console.warn(warning)
    return TrainingCases(training, held_out, preparation, cohort)


def checked_test_cases(
    config: TestConfig, models: Sequence[Checkpoint], console: Console, rules: CheckRules
) -> CheckedCases:
    """The checked cases of a testing session.

    Args:
        config: Of the session.
        models: With the same channels and classes.
        console: Shows progress, warnings and the table.
        rules: To which the models are added.

    Raises:
        DeepsegError: All problems of all cases.
    """
    comparisons = tuple(testing_comparison(config, model) for model in models)
    preparations = [comparison.preparation for comparison in comparisons]
    is_turned = all(preparation.orientation is not None for preparation in preparations)
    network = models[0].config
    checked = checked_cases(
        config.cases,
        network,
        console,
        replace(rules, comparisons=comparisons, is_turned=is_turned),
    )
    for preparation in dict.fromkeys(preparations):
        _say_turned(checked, "cases", preparation, network, console)
    _warn_of_learnt_cases(checked, models, console)
    axes = {axis for model in models for axis in mirrored_axes(config.inference, model.config)}
    mirror = [float(axis in axes) for axis in range(3)]
    for warning in mirrored_sides(
        mirror, "inference.mirror", network.classes, preparations[0].orientation
    ):
        console.warn(warning)
    return checked


def _warn_of_learnt_cases(
    checked: CheckedCases, models: Sequence[Checkpoint], console: Console
) -> None:
    """Warn of cases that a model, or some models of an ensemble, were trained on."""
    by_model = {str(model.origin): learnt_cases(checked.summaries, model) for model in models}
    learnt = {name for names in by_model.values() for name in names}
    names = shortened([summary.name for summary in checked.summaries if summary.name in learnt])
    having = [origin for origin, names in by_model.items() if names]
    if having:
        origin = having[0] if len(having) == 1 else f"{len(having)} of {len(models)} models"
        were = "was" if len(having) == 1 else "were"
        console.warn(
            f"cases that {origin} {were} trained on: {names}; their scores say nothing about new "
            "cases"
        )


def _say_turned(
    checked: CheckedCases,
    title: str,
    preparation: Preparation,
    network: ModelConfig,
    console: Console,
) -> None:
    for note in turned_note(title, checked.traits(network.channels), preparation):
        console.say(note)


def _unless_faulty(
    check: Callable[[], CheckedCases], problems: list[Problem]
) -> CheckedCases | None:
    """The checked cases; None after adding their problems to ``problems``."""
    try:
        return check()
    except DeepsegError as error:
        if error.exit_code != DeepsegError.exit_code:
            raise
        problems += error.problems
        return None


def _warn_of_shared_cases(training: CheckedCases, held_out: CheckedCases, console: Console) -> None:
    names = {summary.images: summary.name for summary in training.summaries if summary.images}
    shared = [
        summary.name
        if names[summary.images] == summary.name
        else f"{summary.name} (there {names[summary.images]})"
        for summary in held_out.summaries
        if summary.images in names
    ]
    if shared:
        console.warn(
            f"validation cases that are also trained on: {shortened(shared)}; their scores say "
            "nothing about new cases"
        )


def checked_cases(
    settings: CasesConfig, model: ModelConfig, console: Console, rules: CheckRules
) -> CheckedCases:
    """List the cases, read every file of them once, and show a table of them.

    Args:
        settings: Files that list the cases.
        model: Whose channels and classes the cases must have.
        console: Shows progress, warnings and the table.
        rules: What the cases are for.

    Raises:
        DeepsegError: All problems of all cases.
    """
    listed = case_list(
        settings, model.channels, classes=model.classes, columns=learnt_columns(rules.cohorts)
    )
    for warning in listed.warnings:
        console.warn(warning)
    cases = list(listed.cases)
    name_problems = result_name_problems(cases, rules.endings)
    if rules.shard is not None:
        cases = list(rules.shard.of(cases))
    summaries = _summaries(cases, model, console, rules)
    checked = CheckedCases(tuple(cases), tuple(summaries), columns=listed.columns)
    if rules.skip_faulty:
        checked = _without_faulty(
            _with_problems_of_comparisons(checked, model, rules), console, rules
        )
    problems, warnings = find_problems(
        checked.summaries,
        CohortRules(
            channels=model.channels,
            classes=model.classes,
            needs_labels=rules.needs_labels,
            allow_missing_classes=rules.allow_missing_classes,
            may_lack_channels=rules.compares_channels,
            is_turned=rules.is_turned,
            spacings_mm=rules.spacings_mm,
            title=rules.title,
        ),
    )
    if rules.shard is not None:
        problems = _problems(checked.summaries)
    traits = checked.traits(model.channels)
    for comparison in rules.comparisons:
        problems += comparison.problems(traits)
        warnings += comparison.warnings(traits)
    _tell(list(dict.fromkeys(warnings)), console)
    raise_if_any(dict.fromkeys([*name_problems, *problems]))
    cases_table(console, rules.title, checked.summaries, model.classes)
    return checked


def _tell(warnings: Sequence[str], console: Console) -> None:
    """Print warnings; of many that differ in their file and numbers only, the first few."""
    alike: dict[str, list[str]] = {}
    for warning in warnings:
        _, _, text = warning.rpartition(": ")
        alike.setdefault(re.sub(r"\d[\d.]*", "", text), []).append(warning)
    for group in alike.values():
        for warning in group[:ALIKE]:
            console.warn(warning)
        if len(group) > ALIKE:
            console.log("\n".join(group[ALIKE:]))
            console.warn(f"{len(group) - ALIKE} more warnings like this one: {group[0]}")


def _summaries(
    cases: Sequence[Case], model: ModelConfig, console: Console, rules: CheckRules
) -> list[CaseSummary]:
    """A summary of every case; only those are read whose summary is not remembered."""
    class_count = len(model.classes)
    cache = SummaryCache(
        rules.cache, model.channels, class_count, rules.needs_labels, rules.computes_roi
    )
    examined = partial(
        _examined,
        class_count=class_count,
        needs_labels=rules.needs_labels,
        computes_roi=rules.computes_roi,
    )

    def remember(case: Case) -> CaseSummary | None:
        return cache.load(cache.stamp(case))

    def read(case: Case) -> CaseSummary | None:
        stamp, summary = cache.stamp(case), examined(case)
        if summary is not None:
            cache.store(stamp, summary)  # at once, for a session that is killed before the last
        return summary

    remembered = on_threads(remember, cases, Console(silent=True), "")
    unread = [case for case, entry in zip(cases, remembered, strict=True) if entry is None]
    title = f"checking {rules.title}"
    read_together = on_threads(read, unread, console, title, threads=rules.threads)
    new = iter(_read_alone(unread, read_together, read, rules))
    return [next(new) if entry is None else entry for entry in remembered]


def _examined(
    case: Case, *, class_count: int, needs_labels: bool, computes_roi: bool
) -> CaseSummary | None:
    """The summary of a case; None if memory runs out."""
    try:
        return examine(
            case, class_count=class_count, needs_labels=needs_labels, computes_roi=computes_roi
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _read_alone(
    cases: Sequence[Case],
    summaries: Sequence[CaseSummary | None],
    read: Callable[[Case], CaseSummary | None],
    rules: CheckRules,
) -> Iterator[CaseSummary]:
    """The summaries, after another try of those whose case did not fit into memory beside others.

    Raises:
        OutOfMemory: A case does not fit alone, and faulty cases are not left out.
    """
    for case, summary in zip(cases, summaries, strict=True):
        alone = read(case) if summary is None else summary
        if alone is not None:
            yield alone
            continue
        problem = Problem(
            code="out-of-memory",
            got=f"no memory to read {case.name}",
            expected="memory for a whole case",
            fix="end other programs, or leave the case out",
            where=case.where,
        )
        if not rules.skip_faulty:
            raise OutOfMemory(problem)
        yield unreadable(case.name, case.where, problem)


def _without_faulty(checked: CheckedCases, console: Console, rules: CheckRules) -> CheckedCases:
    """The cases without problems; all of them if there are no others here or elsewhere."""
    is_faulty = [bool(summary.problems) for summary in checked.summaries]
    if rules.shard is None and all(is_faulty):
        return checked
    for summary in checked.summaries:
        if summary.problems:
            console.warn(f"no result for {summary.name}; going on with the other cases")
    return replace(
        checked,
        cases=tuple(c for c, faulty in zip(checked.cases, is_faulty, strict=True) if not faulty),
        summaries=tuple(summary for summary in checked.summaries if not summary.problems),
        left_out=tuple(p for summary in checked.summaries for p in summary.problems),
    )


def _with_problems_of_comparisons(
    checked: CheckedCases, model: ModelConfig, rules: CheckRules
) -> CheckedCases:
    """The cases, each with the differences for which it cannot be used with the models."""
    summaries = [
        replace(summary, problems=(*summary.problems, *_differences(case, rules)))
        for case, summary in zip(checked.traits(model.channels), checked.summaries, strict=True)
    ]
    if rules.shard is None and all(summary.problems for summary in summaries):
        return checked  # told for all of them together
    return replace(checked, summaries=tuple(summaries))


def _differences(case: CaseTraits, rules: CheckRules) -> list[Problem]:
    """What is wrong with one case for the models."""
    return [problem for comparison in rules.comparisons for problem in comparison.problems([case])]


def _problems(summaries: Sequence[CaseSummary]) -> list[Problem]:
    return list(dict.fromkeys(problem for summary in summaries for problem in summary.problems))


def prepared_cases(
    checked: CheckedCases,
    preparation: Preparation,
    channels: Sequence[str],
    cache: Path,
    console: Console,
    *,
    title: str,
) -> list[Path]:
    """Folders of the prepared cases, made now unless they are there.

    Args:
        channels: The model's channel names.
        cache: Folder of these folders.
        title: Name of the cases for people.
    """
    with writable(cache):
        cache.mkdir(parents=True, exist_ok=True)
    folder_of = partial(prepared_folder, preparation=preparation, channels=channels, cache=cache)
    return on_threads(folder_of, checked.cases, console, f"preparing {title}")


def thread_count(items: int, threads: int = THREADS) -> int:
    """Threads that work on so many items at the same time."""
    return min(items, os.cpu_count() or 1, threads)


def on_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    console: Console,
    title: str,
    *,
    threads: int = THREADS,
) -> list[Result]:
    """``function`` of every item, in their order; reading and unpacking files leaves Python free.

    Threads, not processes: those need a guarded main module, which a notebook does not have.
    """
    if not items:
        return []
    results = []
    count = thread_count(len(items), threads)
    with console.progress(title, len(items)) as advance, thread_pool(count) as pool:
        for result in pool.map(function, items):
            results.append(result)
            advance()
    return results
