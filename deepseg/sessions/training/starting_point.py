"""The start of a training session: its own last epoch, or the model that it is given.

To go on, to fine-tune and to begin with a new model are three things. A session that has begun can
only go on; a model in the middle of its training is taken into another session only on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from deepseg.config.blocks.optimisers import learning_everywhere
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.geometry.boxes import text
from deepseg.model.checkpoint import Checkpoint, Origin, new_checkpoint, read_checkpoint
from deepseg.report.console import Console
from deepseg.sessions.cohort import inherited_preparation
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.model_files import (
    IMPORTED_SETTINGS,
    ModelChoice,
    NamedFiles,
    described,
    model_choice,
    read_models,
    same_file,
)
from deepseg.sessions.training.deepmedic_start import deepmedic_training
from deepseg.sessions.training.run import TrainingRun
from deepseg.sessions.training.training_state import training_state_problems
from deepseg.storage.save_file import file_sha256
from deepseg.transfer.new_parts import with_new_parts
from deepseg.transfer.sources.tensor_bundle import looks_like_bundle


def varied(config: TrainConfig, *, from_scratch: bool, seed: int | None) -> TrainConfig:
    """The session without its start, or with another seed, under a name of its own.

    From scratch, nothing is frozen and nothing pulled towards the start: random weights that cannot
    learn would be no fair comparison.
    """
    changes: dict[str, object] = {}
    name = config.name
    if from_scratch:
        name += "-scratch"
        changes |= {
            "freeze": (),
            "loss": config.loss.model_copy(update={"l2_sp": 0.0}),
            "optimiser": learning_everywhere(config.optimiser),
        }
    if seed is not None:
        name += f"-seed{seed}"
        changes |= {"seed": seed}
    return config.model_copy(update={"name": name, **changes})


def starting_model(
    folder: SessionFolder,
    config: TrainConfig,
    files: NamedFiles,
    *,
    reset_optimizer: bool,
    from_scratch: bool,
    redraw: bool = False,
) -> Checkpoint:
    """The model from which the session goes on, with its training state only if that is its own.

    Args:
        folder: Of the session.
        config: Its settings.
        files: All that are named for its model.
        reset_optimizer: Take a trained model's weights only.
        from_scratch: Take a model's architecture only.
        redraw: Draw weights that no older model has filled with the seed of the session, so that
            several seeds do not begin with the same random head.

    Raises:
        DeepsegError: ``session-has-begun`` or ``start-undecided``, where the user must decide;
            or what is wrong with the named files.
    """
    latest = folder.latest()
    is_begun = latest is not None
    choice = ModelChoice() if is_begun and files == NamedFiles() else model_choice(files)
    if latest is not None:
        return _continued(folder, config, latest, choice, reset_optimizer=reset_optimizer)
    (model,) = read_models(choice, seed=config.seed, warn=folder.console.warn)
    is_new_start = reset_optimizer or from_scratch
    if choice.weights and looks_like_bundle(choice.weights[0]) and not is_new_start:
        training = deepmedic_training(model, choice.weights[0], config, folder.console)
        if training is not None:
            return replace(model, training=training)
    if model.training is not None and _is_of_session(model, config) and not reset_optimizer:
        raise_if_any(training_state_problems(model))
        folder.console.say(f"continuing the session from {model.origin}")
        return model
    if from_scratch:
        origin = Origin(model.origin.file, "architecture")
        model = new_checkpoint(model.config, seed=config.seed, origin=origin)
    else:
        if "preparation" in config.accept:
            _warn_of_preparation(model, config, folder.console)
        if not reset_optimizer:
            raise_if_any(_undecided(model))
        if redraw:
            model = _with_seed(model, config.seed, folder.console)
    folder.console.say(
        "(Re)Initializing parameters for the optimization. Reason: "
        f"Uninitialized: [{model.training is None}], Reset requested: [{reset_optimizer}]"
    )
    return replace(model, training=None)


def _with_seed(model: Checkpoint, seed: int, console: Console) -> Checkpoint:
    """``model`` with new parts of its own for this seed."""
    drawn, layers = with_new_parts(model, seed=seed)
    if layers:
        console.say(f"drawn with seed {seed}: {', '.join(layers)}")
    return drawn


def _is_of_session(model: Checkpoint, config: TrainConfig) -> bool:
    """True for a model in the middle of its training by this very session."""
    if model.training is None:
        return False
    output = model.training.get("settings", {}).get("output")
    return (model.training.get("session"), output) == (config.name, str(config.output))


def _continued(
    folder: SessionFolder,
    config: TrainConfig,
    latest: Path,
    choice: ModelChoice,
    *,
    reset_optimizer: bool,
) -> Checkpoint:
    """The last model of a session that has begun, or an older one of it that is named."""
    if reset_optimizer:
        raise DeepsegError(
            Problem(
                code="session-has-begun",
                got=f"-resetOptimizer for a session that has {latest}",
                expected="a session without models",
                fix="remove -resetOptimizer to go on; or give the session another name, or "
                f"remove {folder.path}, to start over",
            )
        )
    for warning in choice.warnings:
        folder.console.warn(warning)
    model = read_checkpoint(latest)
    raise_if_any(training_state_problems(model))
    start = None if model.training is None else model.training.get("start")
    weights = choice.weights[0] if choice.weights else None
    if weights is not None and not (
        _is_file_of_start(weights, start) or same_file(weights, latest)
    ):
        return _returned(folder, config, model, weights)
    folder.console.say(f"continuing the session in {folder.path}")
    return _with_description(folder, model, choice, start)


def _with_description(
    folder: SessionFolder,
    model: Checkpoint,
    choice: ModelChoice,
    start: Mapping[str, str] | None,
) -> Checkpoint:
    """``model`` with the segments of the model file that is named, whose network it must have."""
    file = choice.description
    if file is None or (not file.exists() and _is_file_of_start(file, start)):
        return model
    description = described(file, folder.console.warn)
    is_imported = model.config.context_alignment == "deepmedic"
    applied = description.applied(model, unless=IMPORTED_SETTINGS if is_imported else frozenset())
    before, after = model.config.segment_sizes, applied.config.segment_sizes
    for use in before:
        if before[use] != after[use]:
            folder.console.warn(
                f"segments.{use} changed since the last epoch: {text(before[use])} → "
                f"{text(after[use])}"
            )
    return applied


def _is_file_of_start(path: Path, start: Mapping[str, str] | None) -> bool:
    """True if the session began with this file, or with an equal one."""
    if start is None:
        return False
    return str(path.resolve()) == start["file"] or (
        bool(start["sha256"]) and path.is_file() and file_sha256(path) == start["sha256"]
    )


def _returned(
    folder: SessionFolder, config: TrainConfig, latest: Checkpoint, weights: Path
) -> Checkpoint:
    """An older model of the session, to which it goes back; newer ones are set aside."""
    model = None if looks_like_bundle(weights) else read_checkpoint(weights)
    if model is None or not _is_of_session(model, config):
        start = None if latest.training is None else latest.training.get("start")
        began = "" if start is None else f" that began with {start['file']}"
        raise DeepsegError(
            Problem(
                code="session-has-begun",
                got=f"{weights} for a session{began} and has {latest.origin}",
                expected="no other model than its own",
                fix="leave it out to go on; or give the session another name to start from "
                "that model",
            )
        )
    raise_if_any(training_state_problems(model))
    training = dict(model.training or {})
    aside = folder.set_aside_after(training["epoch"], training.get("subepoch", 0))
    if (aside / "best.save").exists():
        training["best"] = None  # the best epoch is one that is done again
    model = replace(model, training=training)
    folder.replace_last(model.to_save())
    folder.console.warn(
        f"going back to {weights}, {training['epoch']} epochs finished; the models and records "
        f"after it are set aside in {aside}; the command without this file goes on from here"
    )
    return model


def _warn_of_preparation(model: Checkpoint, config: TrainConfig, console: Console) -> None:
    """Cases that are prepared otherwise than those from which the weights have learnt."""
    applied = inherited_preparation(config.preparation, model)
    if model.preparation is not None and model.preparation != applied:
        console.warn(
            f"{model.origin} has learnt from cases prepared with {model.preparation.summary}; this "
            f"session prepares them with {applied.summary}"
        )


def _undecided(model: Checkpoint) -> Iterator[Problem]:
    """The problem that a trained model may be meant to go on or to be fine-tuned."""
    if model.training is not None:
        session, epoch = model.training.get("session"), model.training.get("epoch")
        yield Problem(
            code="start-undecided",
            got=f"a model that session {session!r} has trained for {epoch} epochs",
            expected="a model without an optimiser's state, or -resetOptimizer",
            fix="add -resetOptimizer to fine-tune it: its weights, everything else from the start; "
            f"or give the command of session {session!r} again to train that session on",
            where=str(model.origin),
        )


def print_start(run: TrainingRun) -> None:
    """Print the frozen layers, the origin of the weights, and the next epoch."""
    say = run.folder.console.say
    if run.frozen:
        say(f"frozen: {', '.join(run.frozen)}")
    if run.config.loss.l2_sp:
        say(f"pulled towards the start by l2_sp: {', '.join(run.trainer.anchors) or 'nothing'}")
    count, origin = len(run.model.weights), run.model.origin
    weights = str(origin) if origin.is_new else f"{count}/{count} tensors from {origin}"
    done = f"epoch {run.progress.epoch} of {run.config.epochs}"
    if run.progress.subepoch:
        done += f", {run.progress.subepoch} of {run.config.subepochs} sub-epochs"
    rate = "" if run.is_finished else f"; {run.rates_text()}"
    say(f"weights: {weights}; {done}{rate}")
