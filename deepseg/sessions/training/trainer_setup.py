"""The trainer of a session, as its last model file left it."""

from __future__ import annotations

import torch

from deepseg.config.training import TrainConfig
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.devices import PRECISIONS
from deepseg.model.network import Network
from deepseg.sessions.training.l2_sp import starting_weights
from deepseg.training.distributed import Ranks
from deepseg.training.freezing import freeze, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import parameter_groups
from deepseg.training.trainer import Trainer
from deepseg.training.weight_averaging import WeightAverage


def session_trainer(
    model: Checkpoint, config: TrainConfig, device: torch.device, ranks: Ranks
) -> Trainer:
    """Network, average and anchors of ``model``; the optimiser is still without state.

    Args:
        model: The one with which the session begins, or its last one.
        config: Settings of the session.
        device: That computes.
        ranks: Those that train together.
    """
    network = model.network()
    if model.training is not None and "weights" in model.training:
        network.load_state_dict(model.training["weights"])
    network.to(device)
    epoch = 0 if model.training is None else model.training["epoch"]
    freeze(network, config.freeze, epoch=epoch, rules=config.optimiser)
    return Trainer(
        network,
        Optimizer(
            trainable(network), config.optimiser, parameter_groups(network, config.optimiser)
        ),
        config.loss,
        steps=config.steps,
        anchors=starting_weights(model, config.loss),
        average=_average(network, model, config),
        ranks=ranks,
        dtype=PRECISIONS[config.precision],
    )


def _average(network: Network, model: Checkpoint, config: TrainConfig) -> WeightAverage | None:
    if config.steps.average is None:
        return None
    average = WeightAverage(network, config.steps.average)
    if model.training is not None and "weights" in model.training:
        average.load_state_dict({"weights": model.weights, "steps": model.training["averaged"]})
    return average
