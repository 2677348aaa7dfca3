"""A training session from its settings to its last model, as one straight line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deepseg.config.load import in_words_of, wording_of
from deepseg.config.training import TrainConfig
from deepseg.data.segments.loader import BatchShard, SegmentLoader
from deepseg.model.devices import device_warnings
from deepseg.sessions.checked_cases import TrainingCases, training_and_held_out
from deepseg.sessions.model_files import NamedFiles
from deepseg.sessions.processes.rank_session import session_of_ranks
from deepseg.sessions.reports.session_page import NAME as PAGE
from deepseg.sessions.reports.training_page import write_training_page
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.sessions.tables import network_table
from deepseg.sessions.training.epoch_log import BEFORE, announce, log_settings
from deepseg.sessions.training.run import TrainingRun
from deepseg.sessions.training.segment_datasets import training_dataset, validation_dataset
from deepseg.sessions.training.session_cases import session_cases
from deepseg.sessions.training.starting_point import print_start, starting_model
from deepseg.sessions.training.whole_case_validation import validate_on_volumes
from deepseg.training.model_selection import best_metric, lower_is_better


@dataclass(frozen=True)
class TrainSession:
    """A training session as the user asks for it.

    Attributes:
        config_file: Its train file, of which problems without a place of their own are.
        config: Its settings.
        files: All that are named for its model.
        device: That computes.
        warnings: About the train file.
        reset_optimizer: Keep the weights of a model that was trained before, nothing else.
        from_scratch: Take only the architecture of the model.
        redraw: Draw weights that no older model has filled with the seed of the session.
        quiet: Print warnings and errors only.
    """

    config_file: Path
    config: TrainConfig
    files: NamedFiles
    device: torch.device
    warnings: tuple[str, ...] = ()
    reset_optimizer: bool = False
    from_scratch: bool = False
    redraw: bool = False
    quiet: bool = False


def train_session(session: TrainSession) -> Path:
    """Train, or go on with, one session; arguments and errors as of `deepseg.train`.

    Returns:
        The model file of the last epoch.
    """
    config, file, device = session.config, session.config_file, session.device
    with (
        session_of_ranks(
            config.folder,
            config_file=file,
            settings=config.model_dump(mode="json"),
            quiet=session.quiet,
            device=device,
        ) as (folder, ranks),
        in_words_of(file, TrainConfig),
    ):
        console = folder.console
        console.wording = wording_of(file, TrainConfig)
        warnings = [*session.warnings, *device_warnings(config.precision, device)]
        announce(console, f"train {config.name}", warnings, device, ranks.world_size)
        log_settings(console, config)
        start = ranks.broadcast(
            lambda: starting_model(
                folder,
                config,
                session.files,
                reset_optimizer=session.reset_optimizer,
                from_scratch=session.from_scratch,
                redraw=session.redraw,
            )
        )
        network_table(console, start.config)
        cache = folder.path / "cache" if config.cache is None else config.cache
        checked = ranks.broadcast(
            lambda: training_and_held_out(config, start, console, cache=cache)
        )
        training, held_out = checked.training, checked.held_out
        start = replace(start, preparation=checked.preparation, cohort=checked.cohort)
        config = config.model_copy(update={"preparation": checked.preparation})
        cases = ranks.broadcast(lambda: session_cases(training, held_out, start.config.channels))
        run = TrainingRun(folder, config, start, device, ranks, cases)
        print_start(run)
        if run.is_finished:
            if config.report and ranks.is_main and not (folder.path / PAGE).exists():
                _write_page(run, checked)
            console.say(console.wording(_why_finished(run)))
            return folder.models / "last.save"
        segments, validation_segments = ranks.broadcast(
            lambda: (
                training_dataset(training, start, config, cache=cache, console=console),
                validation_dataset(held_out, start, config, cache=cache, console=console),
            )
        )
        if run.starts_trained:
            run.record_before(
                run.validate(validation_segments),
                validate_on_volumes(
                    run.evaluated, held_out, folder, config, epoch=BEFORE, ranks=ranks
                ),
            )
        with SegmentLoader(
            segments,
            batch_size=config.training.batch_size,
            workers=run.workers,
            first=run.next_subepoch,
            pin=device.type == "cuda",
            shard=BatchShard(ranks.rank, ranks.world_size),
            warn=console.warn,
        ) as loader:
            while not run.is_finished:
                scores = run.train_epoch(loader)
                samples = run.validate(validation_segments)
                volumes = validate_on_volumes(
                    run.evaluated, held_out, folder, config, epoch=run.progress.epoch, ranks=ranks
                )
                run.end_epoch(scores, samples, volumes)
        if config.report and ranks.is_main:
            _write_page(run, checked)
        _print_end(run)
        return folder.models / "last.save"


def _write_page(run: TrainingRun, cases: TrainingCases) -> None:
    folder = run.folder
    set_aside = write_training_page(
        folder.path, run.config, run.checkpoint(), cases, folder.records()
    )
    warn_of_set_aside(set_aside, folder.console)


def _why_finished(run: TrainingRun) -> str:
    if run.progress.end:
        return f"nothing is left to do: {run.progress.end}"
    return "nothing is left to do; raise epochs to train on"


def _print_end(run: TrainingRun) -> None:
    say, best = run.folder.console.say, run.folder.models / "best.save"
    if run.progress.end:
        say(f"training ends: {run.progress.end}")
    metric = best_metric(run.config)
    score = ""
    if run.progress.best is not None and run.config.checkpoints.best is None:
        score = f" with Dice {run.progress.best:.3f}"
    elif run.progress.best is not None:
        value = -run.progress.best if lower_is_better(metric) else run.progress.best
        score = f" with {metric} {value:.4g}"
    say(
        f"models in {run.folder.models}: last.save"
        + (f", best.save{score}; next: -test TEST -model {best}" if best.exists() else "")
    )
