"""``-prepare``: check and prepare the cases of a training session beforehand, without a GPU."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepseg.config.load import in_words_of, wording_of
from deepseg.config.load import load as load_config
from deepseg.config.training import TrainConfig
from deepseg.errors import Problem, raise_if_any
from deepseg.model.checkpoint import Checkpoint
from deepseg.report.console import Console
from deepseg.report.progress import duration
from deepseg.sessions.case_preparation import (
    CasePreparation,
    PlannedCase,
    orientation,
    planned_cases,
    size_text,
)
from deepseg.sessions.checked_cases import on_threads, thread_count
from deepseg.sessions.cohort import session_preparation
from deepseg.sessions.compatibility import training_incompatibilities
from deepseg.sessions.model_files import NamedFiles, named_files, session_models, the_model
from deepseg.sessions.processes.part_workers import PartCommand, Watched, run_parts
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.training.starting_point import begun_model


def prepare(
    config_file: Path | str,
    *,
    model: Path | str | None = None,
    load: Path | str | None = None,
    shard: Shard | None = None,
    processes: int = 1,
    quiet: bool = False,
) -> Path:
    """Check and prepare the cases of a train file into the cache that training then uses.

    Cases that are there are left as they are, so that the same command goes on after a kill, and
    several processes can share the work.

    Args:
        config_file: A train file, YAML or DeepMedic's.
        model: A `.save` or a model file; wins over the one in the train file.
        load: Weights for the network of ``model``.
        shard: Do these cases only; other processes may do the others at the same time.
        processes: Of this machine that share the work.
        quiet: Print warnings and errors only.

    Returns:
        The cache.

    Raises:
        DeepsegError: Anything that is wrong with files and settings, before the first case; and
            after the last one all that is wrong with cases, which are not prepared.
    """
    console, config_file = Console(quiet=quiet), Path(config_file)
    loaded = load_config(TrainConfig, config_file, model_file=model)
    console.wording = wording_of(config_file, TrainConfig)
    for warning in loaded.warnings:
        console.warn(warning)
    config = loaded.config
    with in_words_of(config_file, TrainConfig):
        start = _start(config, named_files(model, load, config.model), console)
        raise_if_any(training_incompatibilities(config, start))
        cache = config.folder / "cache" if config.cache is None else config.cache
        planned = planned_cases(config, start)
        learnt = [entry.case for entry in planned if entry.is_learnt]
        axes = on_threads(orientation, learnt, console, "reading headers")
        preparation = session_preparation(config.preparation, start, axes)
        work = CasePreparation(start.config, preparation, cache)
        shared = planned if shard is None else shard.of(planned)
        pending = _pending(shared, work, console)
        if processes > 1 and pending:
            words = ["-prepare", str(config_file)]
            words += [] if model is None else ["-model", str(model)]
            words += [] if load is None else ["-load", str(load)]
            _share(words, processes, cache, len(pending), console)
            pending = [entry for entry in pending if not work.is_done(entry)]
        raise_if_any(dict.fromkeys(_problems(pending, work, console)))
        console.say(f"{len(shared)} cases are prepared in {cache}; next: -train {config_file}")
        return cache


def _start(config: TrainConfig, files: NamedFiles, console: Console) -> Checkpoint:
    """The model from which the session goes on, or with which it will begin."""
    begun = begun_model(config, files, console.warn)
    if begun is not None:
        return begun
    model = the_model(session_models(files, seed=config.seed, warn=console.warn))
    return replace(model, training=None)


def _pending(
    planned: Sequence[PlannedCase], work: CasePreparation, console: Console
) -> list[PlannedCase]:
    """The cases that are still to be prepared; their number and size are printed."""
    done = on_threads(work.is_done, planned, console, "looking at the cache")
    pending = [entry for entry, is_done in zip(planned, done, strict=True) if not is_done]
    sizes = on_threads(work.byte_count, [entry.case for entry in pending], console, "reading sizes")
    if pending:
        free = shutil.disk_usage(_existing(work.cache)).free
        console.say(
            f"{len(pending)} of {len(planned)} cases to prepare: up to {size_text(sum(sizes))} in "
            f"{work.cache}, where {size_text(free)} are free"
        )
        if sum(sizes) > free:
            console.warn(f"the disk of {work.cache} may become full: name another cache")
    return pending


def _share(
    words: Sequence[str], processes: int, cache: Path, pending: int, console: Console
) -> None:
    """Let several processes prepare a part of the cases each; some may be left to do."""

    def prepared() -> int:
        return sum(1 for _ in cache.glob("*/case.json"))

    before = prepared()
    run_parts(
        PartCommand(tuple(words), processes, "cpu"),
        Watched(f"cases of {processes} processes", pending, lambda: prepared() - before),
        console,
    )


def _problems(
    pending: Sequence[PlannedCase], work: CasePreparation, console: Console
) -> list[Problem]:
    """Prepare the cases, the first one alone to tell the time; all that is wrong with them."""
    if not pending:
        return []
    begun = time.monotonic()
    problems = [*work.prepare(pending[0])]
    seconds = time.monotonic() - begun
    rest = pending[1:]
    if rest:
        share = -(-len(rest) // thread_count(len(rest)))
        console.say(f"about {duration(seconds * share)} for the other {len(rest)}")
    for wrong in on_threads(work.prepare, rest, console, "preparing cases"):
        problems += wrong
    return problems


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
