"""``-train``: train a model; the same command continues after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepseg.config.load import in_words_of, wording_of
from deepseg.config.load import load as load_config
from deepseg.config.settings import Precision
from deepseg.config.training import TrainConfig
from deepseg.data.segments.loader import BatchShard, SegmentLoader
from deepseg.model.devices import device_warnings
from deepseg.sessions.checked_cases import TrainingCases, training_and_held_out
from deepseg.sessions.model_files import named_files
from deepseg.sessions.processes.rank_session import device_of_rank, session_of_ranks
from deepseg.sessions.reports.session_page import NAME as PAGE
from deepseg.sessions.reports.training_page import write_training_page
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.sessions.tables import network_table
from deepseg.sessions.training.epoch_log import BEFORE, announce, log_settings
from deepseg.sessions.training.run import TrainingRun
from deepseg.sessions.training.segment_datasets import training_dataset, validation_dataset
from deepseg.sessions.training.session_cases import session_cases
from deepseg.sessions.training.starting_point import print_start, starting_model, varied
from deepseg.sessions.training.whole_case_validation import validate_on_volumes
from deepseg.training.model_selection import best_metric, lower_is_better


def train(
    config_file: Path | str,
    *,
    model: Path | str | None = None,
    load: Path | str | None = None,
    reset_optimizer: bool = False,
    from_scratch: bool = False,
    seed: int | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Train as ``config_file`` says, or continue the session.

    The process of the caller stays as it was. The command line also lets its own process keep freed
    memory, which makes steps quicker and cannot be undone; a Python process that does nothing else
    may call `deepseg.cli.process.keep_freed_memory` first.

    Args:
        config_file: A train file, YAML or DeepMedic's.
        model: A `.save` or a model file; wins over the one in the train file.
        load: Weights for the network of ``model``: a `.save`, or a checkpoint of DeepMedic; of a
            session that has begun, an older model to go back to.
        reset_optimizer: Fine-tune: keep the weights of a model that was trained before, and begin
            everything else anew.
        from_scratch: Take only the architecture of the model, in a session ``<name>-scratch``.
        seed: Instead of the one in the train file, in a session ``<name>-seed<seed>``. Weights of
            ``model`` that are random are drawn anew with it; those taken from an older one stay.
        precision: Of the arithmetic; wins over the one in the train file.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The model file of the last epoch.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before training begins.
        NumericalFailure: Values that are not finite, also with a lower learning rate.
        ReportedByPeer: Another rank failed, and tells why.
    """
    config_file = Path(config_file)
    loaded = load_config(TrainConfig, config_file, model_file=model)
    config = varied(loaded.config, from_scratch=from_scratch, seed=seed)
    if precision is not None:
        config = config.model_copy(update={"precision": precision})
    torch_device = device_of_rank(device)
    with (
        session_of_ranks(
            config.folder,
            config_file=config_file,
            settings=config.model_dump(mode="json"),
            quiet=quiet,
            device=torch_device,
        ) as (folder, ranks),
        in_words_of(config_file, TrainConfig),
    ):
        console = folder.console
        console.wording = wording_of(config_file, TrainConfig)
        warnings = [*loaded.warnings, *device_warnings(config.precision, torch_device)]
        announce(console, f"train {config.name}", warnings, torch_device, ranks.world_size)
        log_settings(console, config)
        start = ranks.broadcast(
            lambda: starting_model(
                folder,
                config,
                named_files(model, load, config.model),
                reset_optimizer=reset_optimizer,
                from_scratch=from_scratch,
                redraw=seed is not None,
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
        run = TrainingRun(folder, config, start, torch_device, ranks, cases)
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
            pin=torch_device.type == "cuda",
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
