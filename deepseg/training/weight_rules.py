"""Rules by which the weights of a model learn, or why they do not, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.optimisers import MomentumOptimiser
from deepseg.config.training import TrainConfig
from deepseg.errors import Problem
from deepseg.model.layout import Layout
from deepseg.training.freezing import frozen_layers
from deepseg.training.parameter_groups import fixed_weights, parameter_group, weight_type

_STATISTICS = ("running_mean", "running_var", "window_mean", "window_var", "steps")


@dataclass(frozen=True)
class WeightRule:
    """The rule of one tensor.

    Attributes:
        name: Of the tensor.
        is_statistics: It moves with the batches, unless it is fixed, and does not learn.
        learning_rate: In the first epoch, before warm-up; None if it does not learn.
        momentum: None where the optimiser has none, or the tensor does not learn.
        weight_decay: Share of it taken off per step, times the learning rate.
        origin: What decided: ``default``, or types and layers as the user wrote them.
    """

    name: str
    is_statistics: bool
    learning_rate: float | None
    momentum: float | None
    weight_decay: float | None
    origin: str

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Rate, momentum, decay and what decided, for people."""
        if self.is_statistics or self.learning_rate is None:
            rate = "moves" if self.learning_rate is not None else "fixed"
            return rate, "", "", self.origin
        momentum = "" if self.momentum is None else f"{self.momentum:g}"
        return f"{self.learning_rate:g}", momentum, f"{self.weight_decay:g}", self.origin


def weight_rules(names: Iterable[str], plan: Layout, config: TrainConfig) -> list[WeightRule]:
    """The rule of every tensor in the first epoch.

    Args:
        names: Of the model's parameters and statistics.
        plan: Of the model.
        config: Of the session.
    """
    frozen = frozen_layers(plan, config.freeze, epoch=0)
    return [_rule(name, plan, config, frozen.get(plan.address_of(name))) for name in names]


def frozen_problems(names: Sequence[str], plan: Layout, config: TrainConfig) -> Iterator[Problem]:
    """The problem that rules by type and by layer leave no weight that learns."""
    rules = weight_rules(names, plan, config)
    if not any(rule.learning_rate is not None and not rule.is_statistics for rule in rules):
        yield Problem(
            code="everything-frozen",
            got="no weight that learns, with what optimiser.by_type, by_layer and freeze freeze",
            expected="at least one",
            fix="leave frozen out for a type or a layer, such as the head",
        )


def _rule(name: str, plan: Layout, config: TrainConfig, block: Freeze | None) -> WeightRule:
    settings, address = config.optimiser, plan.address_of(name)
    fixed = fixed_weights([name], plan, settings)
    group = parameter_group(name, plan, settings)
    kind = weight_type(name, plan)
    is_statistics = _is_statistics(name, plan)
    if is_statistics:
        by_block = block is not None and block.batch_norm == "frozen"
        by_rule = address in fixed.statistics
    else:
        by_block = block is not None and not (block.batch_norm == "train" and kind == "BatchNorm")
        by_rule = name in fixed.weights
    if by_block and block is not None:
        return WeightRule(name, is_statistics, None, None, None, _origin(block, config))
    if by_rule:
        return WeightRule(name, is_statistics, None, None, None, group.label)
    default = settings.momentum if isinstance(settings, MomentumOptimiser) else None
    momentum = default if group.momentum is None else group.momentum
    return WeightRule(
        name,
        is_statistics,
        settings.learning_rate * group.factor,
        momentum,
        group.weight_decay,
        "batches" if is_statistics else group.label,
    )


def _is_statistics(name: str, plan: Layout) -> bool:
    imported = plan.imported_weights.get(name)
    if imported is not None:
        return not imported[1].learns
    return name.rpartition(".")[2] in _STATISTICS


def _origin(block: Freeze, config: TrainConfig) -> str:
    number = f"[{config.freeze.index(block)}]" if isinstance(config.freeze, tuple) else ""
    until = "" if block.until_epoch is None else f" until epoch {block.until_epoch}"
    return f"freeze{number}{until}"
