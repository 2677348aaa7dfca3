"""A new model and the plan by which an older one fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.model.checkpoint import Checkpoint, new_checkpoint, non_finite_weights
from deepseg.model.layout import layout
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import Plan, filled_checkpoint
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source, read_source, settings_for
from deepseg.transfer.succession import succession


@dataclass(frozen=True)
class PlannedTransfer:
    """A new model and the plan by which it is going to be filled."""

    model: Checkpoint
    plan: Plan

    def filled(self) -> Checkpoint:
        """The model with the weights, the preparation and the provenance that the plan says."""
        return filled_checkpoint(self.plan, self.model)


def planned_transfer(
    model: Checkpoint, pretrained: Path | Sequence[Path], rules: TransferRules, *, seed: int
) -> PlannedTransfer:
    """Plan how the older model in ``pretrained`` fills ``model``.

    Args:
        model: New; it gets the settings that belong to the older model's weights.
        pretrained: File of the older model; of several, each fills what those before left new.
        rules: Which weights are taken over, and how.
        seed: Of the weights that stay random.

    Raises:
        DeepsegError: An older model cannot be read, does not fit, or has weights that are not
            finite where they are taken over.
    """
    files = [pretrained] if isinstance(pretrained, Path) else list(pretrained)
    if len(files) > 1 and rules.keeps_function:
        raise DeepsegError(_two_functions())
    config, sources = model.config, []
    for file in files:
        sources.append(read_source(file, config))
        config = settings_for(sources[-1], config)
    imported = {name: model.weights[name] for name in layout(config).imported_weights}
    model = new_checkpoint(config, seed=seed, origin=model.origin, imported=imported)
    plans = []
    for number, source in enumerate(sources, start=1):
        chosen = rules if len(files) == 1 else rules.of_source(number)
        if chosen.layers is None and _comes_back(source, config):
            chosen = replace(chosen, layers=("all",))
        try:
            plan = make_plan(source, config, model.weights, chosen)
            raise_if_any(non_finite_weights(plan.source_tensors))
        except DeepsegError as error:
            raise error.at(str(source.file)) from error
        plans.append(plan)
    return PlannedTransfer(model, succession(plans))


def _comes_back(source: Source, config: ModelConfig) -> bool:
    """True if a model comes back from a device: its classification layer is the new one's."""
    older = source.config
    return source.device_steps is not None and older is not None and older.classes == config.classes


def _two_functions() -> Problem:
    return Problem(
        "transfer-rules",
        got="several older models where the function has to be kept",
        expected="one older model, whose function is kept",
        fix="leave out -width net2net and -depth identity, or all older models but one",
    )
