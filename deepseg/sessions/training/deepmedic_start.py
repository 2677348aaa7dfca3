"""Training that DeepMedic began and a session here goes on with: epochs, optimiser, rates.

DeepMedic continues from a checkpoint unless ``-resetopt`` is typed; so does a session here. What
its checkpoint does not hold (settings, scores) is taken to be as in the train file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseg.config.training import TrainConfig
from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import Layout, layout
from deepseg.report.console import Console
from deepseg.sessions.outcome import command_line
from deepseg.sessions.training.l2_sp import starting_weights
from deepseg.sessions.training.progress import start_file
from deepseg.training.freezing import frozen_layers
from deepseg.transfer.sources.deepmedic_trainer import TrainerState, epochs_trained, trainer_state
from deepseg.transfer.sources.tensor_bundle import read_bundle

_NOUNS = {"square": "mean squares", "velocity": "velocities", "mean": "mean gradients"}


def deepmedic_training(
    model: Checkpoint, file: Path, config: TrainConfig, console: Console
) -> dict[str, Any] | None:
    """The training state of a checkpoint; None for one from before the first epoch.

    Args:
        model: With the weights of the checkpoint.
        file: The checkpoint.
        config: Settings of the session that goes on.
        console: Gets the line that tells what is taken over.

    Raises:
        DeepsegError: ``start-undecided`` for a checkpoint from which training cannot go on, or
            ``checkpoint-does-not-fit`` for slots of other weights.
    """
    arrays, plan = read_bundle(file), layout(model.config)
    epochs = epochs_trained(arrays)
    if not epochs:
        return None
    try:
        state = trainer_state(arrays, plan, _frozen(config, plan, epochs))
    except DeepsegError as error:
        raise error.at(str(file)) from error
    problem = _obstacle(state, epochs, config)
    if problem is not None:
        raise DeepsegError(problem).at(str(file))
    assert state is not None
    console.say(_line(file, state))
    return _record(model, file, state, config)


def _frozen(config: TrainConfig, plan: Layout, epochs: int) -> set[str]:
    """Layers of which nothing learns."""
    frozen = frozen_layers(plan, config.freeze, epoch=epochs)
    return {address for address, block in frozen.items() if block.batch_norm != "train"}


def _obstacle(state: TrainerState | None, epochs: int, config: TrainConfig) -> Problem | None:
    """The reason why training cannot go on as it was, if there is one."""
    got = f"a checkpoint that DeepMedic has trained for {counted(epochs, 'epoch')}"
    fine_tune = "add -resetOptimizer to fine-tune it: its weights, everything else from the start"
    if state is None:
        return Problem(
            "start-undecided",
            got=f"{got}, without the state of its optimiser",
            expected="-resetOptimizer",
            fix=fine_tune,
        )
    if state.is_lowered:
        return Problem(
            "start-undecided",
            got=f"{got}, with a learning rate that its schedule 'auto' has lowered",
            expected="-resetOptimizer, as plateau follows mean Dice here",
            fix=fine_tune,
        )
    if epochs >= config.epochs:
        return Problem(
            "start-undecided",
            got=f"{got}, in a session of {config.epochs}",
            expected="more epochs, which count those of the checkpoint",
            fix=f"raise epochs to train on; or {fine_tune}",
        )
    return None


def _line(file: Path, state: TrainerState) -> str:
    kinds = next(iter(state.slots.values()))
    nouns = " and ".join(_NOUNS[kind] for kind in kinds)
    return (
        f"going on from {file} after {counted(state.epochs, 'epoch')} of DeepMedic: {nouns} of "
        f"{state.optimiser} for {counted(len(state.slots), 'tensor')}"
    )


def _record(
    model: Checkpoint, file: Path, state: TrainerState, config: TrainConfig
) -> dict[str, Any]:
    """The training state as the session's own model files have it."""
    start = start_file(file)
    return {
        "session": config.name,
        "command": command_line(),
        "settings": _settings(state, config),
        "epoch": state.epochs,
        "scores": [None] * state.epochs,
        "best": None,
        "anchors": starting_weights(model, config.loss),
        "start": None if start is None else vars(start),
        "optimizer": {
            "name": state.optimiser,
            "steps": dict.fromkeys(state.slots, state.steps),
            "state": state.slots,
        },
        "machine": {},
    }


def _settings(state: TrainerState, config: TrainConfig) -> Mapping[str, Any]:
    """The settings of the session, with the rates with which DeepMedic began."""
    settings = config.model_dump(mode="json")
    optimiser = settings["optimiser"]
    if optimiser["name"] == state.optimiser:
        rates = {"learning_rate": state.learning_rate, "momentum": state.momentum}
        for key, rate in rates.items():
            if rate is not None and key in optimiser:
                optimiser[key] = rate
    else:
        optimiser["name"] = state.optimiser
    return settings
