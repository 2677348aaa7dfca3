"""``-train``: train a model; the same command goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepseg.config.loading import load
from deepseg.config.training import TrainConfig
from deepseg.data.stream import Stream
from deepseg.sessions.cases import CheckedCases, training_and_held_out
from deepseg.sessions.devices import chosen_device
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.models import Model, given_model, read_model
from deepseg.sessions.records import announce
from deepseg.sessions.sources import training_source, validation_source
from deepseg.sessions.tables import network_table
from deepseg.sessions.training_run import TrainingRun
from deepseg.sessions.volumes import validate_on_volumes


def train(
    config_file: Path | str,
    *,
    model_file: Path | str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Train as ``config_file`` says, or go on with it.

    Args:
        config_file: A train file, YAML or DeepMedic's.
        model_file: A `.save` or a model file; wins over the one in the train file.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Say warnings and errors only.

    Returns:
        The model file of the last epoch.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before training begins.
    """
    config_file = Path(config_file)
    loaded = load(TrainConfig, config_file)
    config = loaded.config
    computer = chosen_device(device)
    with SessionFolder(config.folder, config_file=config_file, quiet=quiet) as folder:
        console = folder.console
        announce(console, f"train {config.name}", loaded.warnings, computer)
        model = _starting_model(folder, config, None if model_file is None else Path(model_file))
        network_table(console, model.config)
        cache = folder.path / "cache" if config.cache is None else config.cache
        training, held_out = training_and_held_out(config, model.config, console, cache=cache)
        run = TrainingRun(folder, config, _with_preparation(model, config, training), computer)
        _say_where_it_stands(run)
        if run.is_finished:
            console.say("nothing is left to do; raise epochs to train on")
            return folder.models / "last.save"
        source = training_source(training, model, config, cache=cache, console=console)
        judged = validation_source(held_out, model, config, cache=cache, console=console)
        with Stream(
            source,
            batch_size=config.training.batch_size,
            workers=config.workers,
            first=run.progress.epoch * config.subepochs,
            pin=computer.type == "cuda",
        ) as stream:
            while not run.is_finished:
                outcome = run.train(stream)
                samples = run.validate(judged)
                volumes = validate_on_volumes(
                    run.network, held_out, folder, config, epoch=run.progress.epoch
                )
                run.keep(outcome, samples, volumes)
        _say_where_it_ended(run)
        return folder.models / "last.save"


def _starting_model(folder: SessionFolder, config: TrainConfig, model_file: Path | None) -> Model:
    latest = folder.latest()
    if latest is not None:
        folder.console.say(f"continuing the session in {folder.path}")
        if model_file is not None:
            folder.console.say(
                f"{model_file} is not read: it was for the beginning of the session, which goes on "
                f"from {latest}; give the session another name to start from that model"
            )
        return read_model(latest)
    # A session of its own starts with epoch 0, whatever the model was trained for before.
    return replace(given_model(model_file, config.model, seed=config.seed), training=None)


def _with_preparation(model: Model, config: TrainConfig, training: CheckedCases) -> Model:
    """The model with the preparation and voxel size that it learns with from now on.

    The voxel size is that of the first case where all keep their own.
    """
    wanted = config.preparation.spacing_mm
    return replace(
        model,
        preparation=config.preparation,
        spacing_mm=training.facts[0].spacing_mm if wanted is None else wanted,
    )


def _say_where_it_stands(run: TrainingRun) -> None:
    say = run.folder.console.say
    if run.frozen:
        say(f"frozen: {', '.join(run.frozen)}")
    say(f"weights: {run.model.origin}; epoch {run.progress.epoch} of {run.config.epochs}")


def _say_where_it_ended(run: TrainingRun) -> None:
    best = run.folder.models / "best.save"
    score = "" if run.progress.best is None else f" with Dice {run.progress.best:.3f}"
    run.folder.console.say(
        f"models in {run.folder.models}: last.save"
        + (f", best.save{score}; next: run.py -test TEST -model {best}" if best.exists() else "")
    )
