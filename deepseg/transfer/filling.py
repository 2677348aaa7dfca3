"""A new model and the plan by which an older one fills it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseg.errors import DeepsegError, raise_if_any
from deepseg.model.checkpoint import Checkpoint, new_checkpoint, non_finite_weights
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import Plan, filled_checkpoint
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import read_source, settings_for


@dataclass(frozen=True)
class PlannedTransfer:
    """A new model and the plan by which it is going to be filled."""

    model: Checkpoint
    plan: Plan

    def filled(self) -> Checkpoint:
        """The model with the weights, the preparation and the provenance that the plan says."""
        return filled_checkpoint(self.plan, self.model)


def planned_transfer(
    model: Checkpoint, pretrained: Path, rules: TransferRules, *, seed: int
) -> PlannedTransfer:
    """Plan how the older model in ``pretrained`` fills ``model``.

    Args:
        model: New; it gets the settings that belong to the older model's weights.
        pretrained: File of the older model.
        rules: Which weights are taken over, and how.
        seed: Of the weights that stay random.

    Raises:
        DeepsegError: The older model cannot be read, does not fit, or has weights that are not
            finite where they are taken over.
    """
    source = read_source(pretrained, model.config)
    config = settings_for(source, model.config)
    model = new_checkpoint(config, seed=seed, origin=model.origin)
    try:
        plan = make_plan(source, config, model.weights, rules)
        raise_if_any(non_finite_weights(plan.source_tensors))
        return PlannedTransfer(model, plan)
    except DeepsegError as error:
        raise error.at(str(source.file)) from error
