"""Groups of weights with rates of their own: by type of weight, then by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from deepseg.config.blocks.optimisers import (
    KERNEL_TYPES,
    Optimiser,
    Rates,
    RatesWithMomentum,
    WeightType,
)
from deepseg.errors import Problem
from deepseg.model.layout import Layout
from deepseg.model.network import Network


@dataclass(frozen=True)
class ParameterGroup:
    """Weights to which the same rules of the optimiser's settings apply.

    Attributes:
        label: The rules, as the user wrote them; ``default`` where there are none.
        factor: Initial learning rate, as a multiple of that of the optimiser.
        weight_decay: Share of the weights taken off per step, times the learning rate.
        momentum: Of this group, or None for that of the optimiser.
    """

    label: str
    factor: float
    weight_decay: float
    momentum: float | None


def default_group(settings: Optimiser) -> ParameterGroup:
    """The group of weights that no rule names.

    >>> from deepseg.config.blocks.optimisers import Sgd
    >>> default_group(Sgd(name="sgd", weight_decay=0.01))
    ParameterGroup(label='default', factor=1.0, weight_decay=0.01, momentum=None)
    """
    return ParameterGroup("default", 1.0, settings.weight_decay, None)


def parameter_groups(network: Network, settings: Optimiser) -> dict[str, ParameterGroup]:
    """The group of every weight by its name; rules that come later win, key by key.

    Raises:
        DeepsegError: ``layer-unknown``.
    """
    return {
        name: parameter_group(name, network.layout, settings)
        for name, _ in network.named_parameters()
    }


def parameter_group(name: str, plan: Layout, settings: Optimiser) -> ParameterGroup:
    """The group of a weight; rules that come later win, key by key.

    Raises:
        DeepsegError: ``layer-unknown``.
    """
    group = default_group(settings)
    for rule, rates in _rules(name, plan, settings):
        group = _changed(group, rule, rates, settings)
    return group


def _rules(name: str, plan: Layout, settings: Optimiser) -> Iterator[tuple[str, Rates]]:
    """The rules for a weight as the user wrote them: of its type, then of layers."""
    kind = weight_type(name, plan)
    if kind in settings.by_type:
        yield kind, settings.by_type[kind]
    for pattern, rates in settings.by_layer.items():
        if plan.address_of(name) in plan.addresses([pattern]):
            yield pattern, rates


@dataclass(frozen=True)
class FixedWeights:
    """Weights and statistics that rules of the optimiser's settings freeze.

    Attributes:
        weights: By name.
        statistics: Addresses of the layers whose batch normalisation uses stored statistics.
    """

    weights: frozenset[str] = frozenset()
    statistics: frozenset[str] = frozenset()


def fixed_weights(names: Iterable[str], plan: Layout, settings: Optimiser) -> FixedWeights:
    """Those of ``names`` that the settings freeze by type and by layer.

    Raises:
        DeepsegError: ``layer-unknown``.
    """
    weights, statistics = set(), set()
    for name in names:
        is_frozen, statistics_rule = False, None
        for _, rates in _rules(name, plan, settings):
            is_frozen = is_frozen if rates.frozen is None else rates.frozen
            statistics_rule = rates.statistics or statistics_rule
        if is_frozen:
            weights.add(name)
        is_fixed = is_frozen if statistics_rule is None else statistics_rule == "frozen"
        if is_fixed and weight_type(name, plan) == "BatchNorm":
            statistics.add(plan.address_of(name))
    return FixedWeights(frozenset(weights), frozenset(statistics))


def absent_types(plan: Layout, settings: Optimiser) -> Iterator[Problem]:
    """Types that the settings name and that no weight of the model has."""
    imported = {weight.type for _, weight in plan.imported_weights.values() if weight.learns}
    present: dict[WeightType, bool] = {
        "Conv": True,
        "BatchNorm": any(layer.normalises for layer in plan),
        "PReLU": any(layer.activation == "prelu" for layer in plan),
        "Bias": True,
    }
    types = [kind for kind in get_args(WeightType) if present.get(kind, False) or kind in imported]
    for kind in settings.by_type:
        if kind not in types:
            yield Problem(
                code="weight-type-absent",
                got=f"{kind} in optimiser.by_type",
                expected=f"types of this model: {', '.join(types)}",
                fix="remove it",
            )


def is_kernel(name: str, plan: Layout) -> bool:
    """True for weights of convolutions and of matrix products, which penalties make small."""
    return weight_type(name, plan) in KERNEL_TYPES


def weight_type(name: str, plan: Layout) -> WeightType:
    """The type of the weight of this name.

    Args:
        name: In the model.
        plan: Of the model, which knows the weights of imported networks.
    """
    imported = plan.imported_weights.get(name)
    return _type_by_name(name) if imported is None else imported[1].type


def _type_by_name(name: str) -> WeightType:
    """The type of a weight of our own.

    >>> _type_by_name("normal.3.norm.bias"), _type_by_name("normal.3.conv.weight")
    ('BatchNorm', 'Conv')
    """
    match name.split(".")[2:]:
        case ["conv", *_]:
            return "Conv"
        case ["norm", _]:
            return "BatchNorm"
        case ["activation", _]:
            return "PReLU"
        case _:
            return "Bias"


def _changed(group: ParameterGroup, rule: str, rates: Rates, settings: Optimiser) -> ParameterGroup:
    momentum = rates.momentum if isinstance(rates, RatesWithMomentum) else None
    decay = rates.weight_decay
    return ParameterGroup(
        label=rule if group.label == "default" else f"{group.label} + {rule}",
        factor=group.factor
        if rates.learning_rate is None
        else rates.learning_rate / settings.learning_rate,
        weight_decay=group.weight_decay if decay is None else decay,
        momentum=group.momentum if momentum is None else momentum,
    )
