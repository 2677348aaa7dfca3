"""The start of a training session: its own last epoch, or the model that it is given.

To go on, to fine-tune and to begin with a new model are three things. A session that has begun can
only go on; a model in the middle of its training is taken into another session only on request.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.model.checkpoint import Checkpoint, Origin, new_checkpoint, read_checkpoint
from deepseg.report.console import Console
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.model_files import session_model
from deepseg.sessions.training.run import TrainingRun


def varied(config: TrainConfig, *, from_scratch: bool, seed: int | None) -> TrainConfig:
    """The session without its start, or with another seed, under a name of its own.

    From scratch, nothing is frozen and nothing pulled towards the start: random weights that cannot
    learn would be no fair comparison.
    """
    changes: dict[str, object] = {}
    name = config.name
    if from_scratch:
        name += "-scratch"
        changes |= {"freeze": (), "loss": config.loss.model_copy(update={"l2_sp": 0.0})}
    if seed is not None:
        name += f"-seed{seed}"
        changes |= {"seed": seed}
    return config.model_copy(update={"name": name, **changes})


def starting_model(
    folder: SessionFolder,
    config: TrainConfig,
    model_file: Path | None,
    *,
    reset_optimizer: bool,
    from_scratch: bool,
) -> Checkpoint:
    """The model from which the session goes on, with its training state only if that is its own.

    Raises:
        DeepsegError: ``session-has-begun`` or ``start-undecided``, where the user must decide;
            or what is wrong with the model file.
    """
    latest = folder.latest()
    if latest is not None:
        return _continued(folder, latest, model_file, reset_optimizer=reset_optimizer)
    model = session_model(model_file, config.model, seed=config.seed)
    if from_scratch:
        origin = Origin(model.origin.file, "architecture")
        model = new_checkpoint(model.config, seed=config.seed, origin=origin)
    else:
        _warn_of_preparation(model, config, folder.console)
    trained = model.training is not None
    if trained and not reset_optimizer:
        raise _undecided(model)
    folder.console.say(
        "(Re)Initializing parameters for the optimization. Reason: "
        f"Uninitialized: [{not trained}], Reset requested: [{reset_optimizer}]"
    )
    return replace(model, training=None)


def _continued(
    folder: SessionFolder, latest: Path, model_file: Path | None, *, reset_optimizer: bool
) -> Checkpoint:
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
    folder.console.say(f"continuing the session in {folder.path}")
    if model_file is not None:
        folder.console.say(
            f"{model_file} is not read: it was for the beginning of the session, which goes on "
            f"from {latest}; give the session another name to start from that model"
        )
    return read_checkpoint(latest)


def _warn_of_preparation(model: Checkpoint, config: TrainConfig, console: Console) -> None:
    """Cases that are prepared otherwise than those from which the weights have learnt."""
    if model.preparation is not None and model.preparation != config.preparation:
        console.warn(
            f"{model.origin} has learnt from cases prepared with {model.preparation.summary}; this "
            f"session prepares them with {config.preparation.summary}"
        )


def _undecided(model: Checkpoint) -> DeepsegError:
    assert model.training is not None
    session, epoch = model.training["session"], model.training["epoch"]
    return DeepsegError(
        Problem(
            code="start-undecided",
            got=f"a model that session {session!r} has trained for {epoch} epochs",
            expected="a model without an optimiser's state, or -resetOptimizer",
            fix="add -resetOptimizer to fine-tune it: its weights, everything else from the start; "
            f"or give the command of session {session!r} again to train that session on",
            where=str(model.origin),
        )
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
