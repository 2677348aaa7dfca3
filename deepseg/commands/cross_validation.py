"""Cross-validation: a training session for each fold, and one table of all held-out cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepseg.commands.segment import TestSession, segment_session
from deepseg.commands.train_session import TrainSession, train_session
from deepseg.config.load import in_words_of, wording_of
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem, SomeFoldsFailed, raise_if_any
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import CheckedCases, TrainingCases, training_and_held_out
from deepseg.sessions.cohort import learnt_cases
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.folds.record import Fold, Folds, stored_folds
from deepseg.sessions.folds.settings import testing_settings, training_settings
from deepseg.sessions.folds.split import (
    divided_patients,
    lost_classes,
    shortened,
    stratified_folds,
)
from deepseg.sessions.model_files import NamedFiles
from deepseg.sessions.outcome import problems
from deepseg.sessions.processes.rank_session import world_size
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.reports.folds_page import write_folds_page
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.sessions.segmentation.score_table import ScoreTable
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.sessions.training.epoch_log import announce, log_settings
from deepseg.sessions.training.starting_point import starting_model


def cross_validate(session: TrainSession, *, folds: int, shard: Shard | None = None) -> Path:
    """Train a model for every fold of the cases, segment those held out with it, and pool scores.

    Args:
        session: As the user asks for it.
        folds: Number of folds.
        shard: Do these folds only.

    Returns:
        The folder of the cross-validation.

    Raises:
        DeepsegError: What is wrong with settings and cases, before the first fold begins.
        SomeFoldsFailed: After all folds have been tried.
    """
    config, file = session.config, session.config_file
    raise_if_any(_ranks())
    with (
        SessionFolder(
            config.folder,
            config_file=file,
            settings=config.model_dump(mode="json"),
            shard=shard,
            quiet=session.quiet,
        ) as folder,
        in_words_of(file, TrainConfig),
    ):
        console = folder.console
        console.wording = wording_of(file, TrainConfig)
        announce(console, f"train {config.name}", session.warnings, session.device)
        log_settings(console, config)
        begun = stored_folds(folder.path)
        start = starting_model(
            folder,
            config,
            session.files,
            reset_optimizer=session.reset_optimizer,
            from_scratch=session.from_scratch,
            redraw=session.redraw,
        )
        cache = folder.path / "cache" if config.cache is None else config.cache
        cases = training_and_held_out(config, start, console, cache=cache)
        split = _split(cases.training, config, folder.path, folds=folds, begun=begun)
        if not config.training.cases.allow_missing_classes:
            classes = start.config.classes
            raise_if_any(lost_classes(cases.training.summaries, split.cases, classes))
        _warn_of_learnt_cases(learnt_cases(cases.training.summaries, start), console)
        split.write()
        _show(split, cases, console)
        numbers = split.numbers if shard is None else shard.of(split.numbers)
        failures = [
            problem
            for number in numbers
            for problem in _failures_of(split.fold(number), session, cases, cache, console)
        ]
        _gather(folder, config, split, is_part=shard is not None)
        if failures:
            raise SomeFoldsFailed(*failures)
        return folder.path


def _split(
    cases: CheckedCases, config: TrainConfig, folder: Path, *, folds: int, begun: Folds | None
) -> Folds:
    """The split with which the session began, or a new one.

    Raises:
        DeepsegError: ``folds-changed``, ``folds-too-many``.
    """
    listed = cases.cases
    if begun is None:
        fold_of = stratified_folds(listed, cases.summaries, folds=folds, seed=config.seed)
        return Folds(folder, folds, config.seed, fold_of)
    raise_if_any(begun.changes(count=folds, names=[case.name for case in listed]))
    raise_if_any(
        begun.division(names) for names in divided_patients(listed, cases.summaries, begun.cases)
    )
    return begun


def _failures_of(
    fold: Fold, session: TrainSession, cases: TrainingCases, cache: Path, console: Console
) -> Sequence[Problem]:
    """Do a fold; what went wrong, of which a warning is printed."""
    console.say(f"{fold}: {fold.folder}")
    settings = training_settings(session.config, fold, cases.preparation, cache)
    reset_optimizer = session.reset_optimizer and not fold.has_begun
    try:
        train_session(
            replace(session, config=settings, warnings=(), reset_optimizer=reset_optimizer)
        )
        segment_session(
            TestSession(
                session.config_file,
                testing_settings(session.config, fold),
                NamedFiles(model=(fold.model,)),
                session.device,
                quiet=session.quiet,
            )
        )
    except Exception as error:
        wrong = problems(error)
        if not wrong:  # a bug
            raise
        placed = DeepsegError(*wrong).at(str(fold.folder)).problems
        console.warn(f"{fold} failed: {placed[0]}; going on with the other folds")
        return placed
    return ()


def _gather(folder: SessionFolder, config: TrainConfig, folds: Folds, *, is_part: bool) -> None:
    """Write tables and page of all held-out cases that are segmented, and print their scores.

    Args:
        folder: Of the cross-validation.
        config: Its settings.
        folds: The split.
        is_part: Other processes do other folds.
    """
    console = folder.console
    with CompletedCases(folder.path).alone():
        records = folds.records()
        if not records:
            return
        results = ScoreTable(())
        for name, record in records.items():
            results.add(name, record)
        warn_of_set_aside(results.write(folder.path), console)
        if config.report:
            warn_of_set_aside(write_folds_page(config, folds, records), console)
    console.say("out-of-fold, each case by the model that has not learnt from it:")
    results.show(console)
    console.say(f"cases.csv, cases.json and report.html in {folder.path}")
    missing = folds.unsegmented
    if missing:
        tell = console.say if is_part else console.warn
        tell(
            f"these are {len(records)} of {len(folds.cases)} cases: fold "
            f"{', '.join(map(str, missing))} of {folds.count} not finished"
        )
    elif len(records) < len(folds.cases):
        console.warn(
            f"these are {len(records)} of {len(folds.cases)} cases: the others could not be "
            "segmented"
        )
    if not missing:
        console.say(f"next: -test TEST -model {folder.path}, which takes the mean of all folds")


def _warn_of_learnt_cases(names: Sequence[str], console: Console) -> None:
    """Warn of cases from which the model that every fold begins with has learnt."""
    if names:
        console.warn(
            f"cases that the model to begin with was trained on: {shortened(names)}; their "
            "out-of-fold scores say nothing about new cases: begin with a model that has not "
            "learnt from them, or with -fromScratch"
        )


def _show(split: Folds, cases: TrainingCases, console: Console) -> None:
    """Print how many cases each fold has, and which."""
    rows = [
        [
            str(number),
            str(len(split.training(number))),
            str(len(split.held_out(number))),
            shortened(split.held_out(number)),
        ]
        for number in split.numbers
    ]
    console.table(f"{split.count} folds", ["fold", "learns from", "held out", ""], rows)
    if cases.held_out is None:
        console.say("no validation: the last model of every fold is taken, not its best one")


def _ranks() -> Sequence[Problem]:
    """The problem of several ranks, which would train each fold together."""
    if world_size() == 1:
        return ()
    return (
        Problem(
            code="folds-ranks",
            got=f"{world_size()} ranks of torchrun for a train file with folds",
            expected="processes that do folds of their own",
            fix="share the folds with -devices N on one machine, or with -part I/N in jobs",
        ),
    )
