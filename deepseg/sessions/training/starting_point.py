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
from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.geometry.boxes import text
from deepseg.model.checkpoint import Checkpoint, Origin, new_checkpoint, read_checkpoint
from deepseg.report.console import Console
from deepseg.sessions.cohort import inherited_preparation
from deepseg.sessions.folder import SessionFolder, furthest_model
from deepseg.sessions.model_files import (
    IMPORTED_SETTINGS,
    ModelChoice,
    NamedFiles,
    Warn,
    described,
    model_choice,
    read_models,
    same_file,
    the_model,
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
    if latest is not None:
        choice = _choice_of_begun(files)
        return _continued(folder, config, latest, choice, reset_optimizer=reset_optimizer)
    choice = model_choice(files)
    model = the_model(read_models(choice, seed=config.seed, warn=folder.console.warn))
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


def begun_model(config: TrainConfig, files: NamedFiles, warn: Warn) -> Checkpoint | None:
    """The model from which a session that has begun would go on; None before its first epoch.

    Nothing is written or moved.

    Args:
        config: Settings of the session.
        files: All that are named for its model.
        warn: Called with each warning.

    Raises:
        DeepsegError: ``session-has-begun``, or what is wrong with its files.
    """
    latest = furthest_model(config.folder / "models", warn)
    if latest is None:
        return None
    choice = _choice_of_begun(files)
    model = _last_model(latest, choice, warn)
    older = _older_model(config, model, choice)
    return _with_description(model, choice, warn) if older is None else older


def _choice_of_begun(files: NamedFiles) -> ModelChoice:
    """The named files that are used for a session that has begun, which needs none."""
    return ModelChoice() if files == NamedFiles() else model_choice(files)


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
    model = _last_model(latest, choice, folder.console.warn)
    older = _older_model(config, model, choice)
    if older is not None:
        return _returned(folder, older)
    folder.console.say(f"continuing the session in {folder.path}")
    return _with_description(model, choice, folder.console.warn)


def _last_model(latest: Path, choice: ModelChoice, warn: Warn) -> Checkpoint:
    """The model in the last file of a session, once it can go on from it."""
    for warning in choice.warnings:
        warn(warning)
    model = read_checkpoint(latest)
    raise_if_any(training_state_problems(model))
    return model


def _start(model: Checkpoint) -> Mapping[str, str] | None:
    """The file with which the session of ``model`` began."""
    return None if model.training is None else model.training.get("start")


def _with_description(model: Checkpoint, choice: ModelChoice, warn: Warn) -> Checkpoint:
    """``model`` with the segments of the model file that is named, whose network it must have."""
    file = choice.description
    if file is None or (not file.exists() and _is_file_of_start(file, _start(model))):
        return model
    description = described(file, warn)
    is_imported = model.config.context_alignment == "deepmedic"
    applied = description.applied(model, unless=IMPORTED_SETTINGS if is_imported else frozenset())
    before, after = model.config.segment_sizes, applied.config.segment_sizes
    for use in before:
        if before[use] != after[use]:
            warn(
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


def _older_model(config: TrainConfig, latest: Checkpoint, choice: ModelChoice) -> Checkpoint | None:
    """The older model of the session that is named; None if it goes on from its last one.

    Raises:
        DeepsegError: ``session-has-begun`` for a model of another session.
    """
    weights, start = next(iter(choice.weights), None), _start(latest)
    if weights is None or _is_file_of_start(weights, start):
        return None
    if latest.origin.file is not None and same_file(weights, latest.origin.file):
        return None
    model = None if looks_like_bundle(weights) else read_checkpoint(weights)
    if model is None or not _is_of_session(model, config):
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
    return model


def _returned(folder: SessionFolder, model: Checkpoint) -> Checkpoint:
    """An older model of the session, to which it goes back; newer ones are set aside."""
    training = dict(model.training or {})
    aside = folder.set_aside_after(training["epoch"], training.get("subepoch", 0))
    if (aside / "best.save").exists():
        training["best"] = None  # the best epoch is one that is done again
    model = replace(model, training=training)
    folder.replace_last(model.to_save())
    folder.console.warn(
        f"going back to {model.origin}, {counted(training['epoch'], 'epoch')} finished; the "
        f"models and records after it are set aside in {aside}; the command without this file goes "
        "on from here"
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
        session, epoch = model.training.get("session"), model.training.get("epoch", 0)
        yield Problem(
            code="start-undecided",
            got=f"a model that session {session!r} has trained for {counted(epoch, 'epoch')}",
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
