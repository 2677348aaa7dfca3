"""The model files of a session: their names, and the training state in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepseg.config.blocks.checkpoints import Checkpoints
from deepseg.config.training import TrainConfig
from deepseg.model.checkpoint import Checkpoint
from deepseg.sessions.training.progress import Progress
from deepseg.training.trainer import Trainer


def training_checkpoint(
    model: Checkpoint,
    config: TrainConfig,
    progress: Progress,
    trainer: Trainer,
    unfinished: Mapping[str, Any],
) -> Checkpoint:
    """The model as it is now, with all that the session needs to go on from it.

    Args:
        model: The one with which this process began.
        config: Settings of the session.
        progress: Of the session.
        trainer: With the weights.
        unfinished: Tally and times of an epoch that is not over; empty between epochs.
    """
    training = progress.state_dict(config, trainer.optimizer)
    if config.loss.l2_sp:
        training["anchors"] = trainer.anchors
    if trainer.average is not None:
        training["weights"] = dict(trainer.network.state_dict())
        training["averaged"] = trainer.average.steps
    if unfinished:
        training["unfinished"] = dict(unfinished)
    return replace(
        model,
        weights=dict(trainer.evaluated.state_dict()),
        training=training,
        provenance=model.provenance.trained(config.name, epochs=progress.epoch),
    )


def checkpoint_name(settings: Checkpoints, epoch: int, score: float | None) -> str | None:
    """The file of ``epoch``, counted from 1, that stays for good; None where none is due.

    >>> checkpoint_name(Checkpoints(every=5, name="epoch-{epoch:04d}"), 10, 0.5)
    'epoch-0010.save'
    >>> checkpoint_name(Checkpoints(every=5), 11, 0.5) is None
    True
    """
    if settings.every is None or epoch % settings.every:
        return None
    return settings.name.format(epoch=epoch, score=math.nan if score is None else score) + ".save"
