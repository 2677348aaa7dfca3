"""Optimisers, their settings for some of the weights only, and the steps that they make."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field

from deepseg.config.settings import Count, Fraction, Name, NotNegative, Positive, Settings, Share
from deepseg.config.validation.validator_error import invalid

WeightType: TypeAlias = Literal[
    "Conv",
    "BatchNorm",
    "PReLU",
    "Bias",
    "ConvTranspose",
    "Linear",
    "InstanceNorm",
    "GroupNorm",
    "LayerNorm",
]
KERNEL_TYPES: tuple[WeightType, ...] = ("Conv", "ConvTranspose", "Linear")

_BY_TYPE = (
    "Settings of their own for weights of a type: Conv, BatchNorm, PReLU, Bias and, in imported "
    "pathways, ConvTranspose, Linear, InstanceNorm, GroupNorm, LayerNorm; such as "
    "`{BatchNorm: {weight_decay: 0, statistics: frozen}}`. What is left out is as for all."
)
_BY_LAYER = (
    "Settings of their own for layers, such as `{head: {learning_rate: 0.1}, sub1.*: {…}}`; they "
    "win over those of a type, later ones over earlier ones."
)


class Rates(Settings):
    """Settings for some of the weights only; what is left out is as for all."""

    learning_rate: Positive | None = Field(
        None, description="Initial learning rate; the schedule changes it as it changes the others."
    )
    weight_decay: NotNegative | None = Field(
        None, description="Share of the weights taken off per step, times the learning rate."
    )
    frozen: bool | None = Field(
        None,
        description="Keep these weights as they are and, of batch normalisation, the statistics "
        "too; layers that `freeze` names are frozen in any case.",
    )
    statistics: Literal["frozen", "batch"] | None = Field(
        None,
        description="Of batch normalisation: `frozen`, those stored are used in training too and "
        "stay; `batch`, those of the batch, which move them.",
    )


class RatesWithMomentum(Rates):
    """Settings for some of the weights only, of an optimiser with momentum."""

    momentum: Share | None = Field(
        None, description="Share of the last step kept in the next; it stays as it is."
    )


Rules = TypeVar("Rules", bound=Rates)


def _types_have_statistics(rules: dict[WeightType, Rules]) -> dict[WeightType, Rules]:
    for kind, rates in rules.items():
        if kind != "BatchNorm" and rates.statistics is not None:
            raise invalid(
                "config-value",
                got=f"statistics of {kind}",
                expected="them for BatchNorm only, which has statistics",
                fix="write by_type: {BatchNorm: {statistics: frozen}}",
            )
    return rules


ByType: TypeAlias = Annotated[dict[WeightType, Rates], AfterValidator(_types_have_statistics)]
ByTypeWithMomentum: TypeAlias = Annotated[
    dict[WeightType, RatesWithMomentum], AfterValidator(_types_have_statistics)
]


class MomentumOptimiser(Settings):
    """Settings that SGD and RMSprop share."""

    learning_rate: Positive = Field(1e-3, description="Initial learning rate.")
    weight_decay: NotNegative = Field(
        0.0, description="Share of the weights taken off per step, times the learning rate."
    )
    by_type: ByTypeWithMomentum = Field({}, description=_BY_TYPE)
    by_layer: dict[Name, RatesWithMomentum] = Field({}, description=_BY_LAYER)
    momentum: Share = Field(0.6, description="Share of the last step kept in the next.")
    nesterov: bool = Field(True, description="Look ahead along the momentum.")
    normalised_momentum: bool = Field(
        False, description="Multiply steps by 1 - momentum, so that momentum keeps their size."
    )


class Rmsprop(MomentumOptimiser):
    """RMSprop as DeepMedic defines it."""

    name: Literal["rmsprop"] = "rmsprop"
    rho: Fraction = Field(0.9, description="Memory of squared gradients.")
    epsilon: Positive = Field(1e-4, description="Added under the root.")


class Sgd(MomentumOptimiser):
    """Gradient descent as DeepMedic defines it."""

    name: Literal["sgd"]


class Adam(Settings):
    """Adam in the form with a fixed epsilon; doi:10.48550/arXiv.1412.6980, end of section 2."""

    name: Literal["adam"]
    learning_rate: Positive = Field(1e-3, description="Initial learning rate.")
    weight_decay: NotNegative = Field(
        0.0, description="Share of the weights taken off per step, times the learning rate."
    )
    by_type: ByType = Field({}, description=_BY_TYPE)
    by_layer: dict[Name, Rates] = Field({}, description=_BY_LAYER)
    beta1: Fraction = Field(0.9, description="Memory of gradients.")
    beta2: Fraction = Field(0.999, description="Memory of squared gradients.")
    epsilon: Positive = Field(1e-8, description="Added to the root.")


class AdamW(Settings):
    """Adam with decoupled weight decay; doi:10.48550/arXiv.1711.05101."""

    name: Literal["adamw"]
    learning_rate: Positive = Field(1e-3, description="Initial learning rate.")
    beta1: Fraction = Field(0.9, description="Memory of gradients.")
    beta2: Fraction = Field(0.999, description="Memory of squared gradients.")
    epsilon: Positive = Field(1e-8, description="Added to the root.")
    weight_decay: NotNegative = Field(
        0.01, description="Share of the weights taken off per step, times the learning rate."
    )
    by_type: ByType = Field({}, description=_BY_TYPE)
    by_layer: dict[Name, Rates] = Field({}, description=_BY_LAYER)


Optimiser: TypeAlias = Annotated[Rmsprop | Sgd | Adam | AdamW, Field(discriminator="name")]


def learning_everywhere(optimiser: Optimiser) -> Optimiser:
    """The settings without rules that freeze.

    >>> rules = {"BatchNorm": {"frozen": True, "weight_decay": 0}}
    >>> learning_everywhere(AdamW(name="adamw", by_type=rules)).by_type["BatchNorm"].frozen
    """
    free = {"frozen": None, "statistics": None}
    rules = {
        "by_type": {k: rates.model_copy(update=free) for k, rates in optimiser.by_type.items()},
        "by_layer": {k: rates.model_copy(update=free) for k, rates in optimiser.by_layer.items()},
    }
    return optimiser.model_copy(update=rules)


class Steps(Settings):
    """Way from gradients to steps."""

    accumulate: Count = Field(
        1,
        description="Batches whose gradients are averaged for one step. As if batches were larger, "
        "but each is normalised by its own statistics.",
    )
    clip_norm: Positive | None = Field(
        None,
        description="Longer gradients, of all weights together, are shortened to this length. "
        "Default: none are.",
    )
    warm_up: NotNegative = Field(
        0.0,
        description="Epochs in which the learning rate rises to that of the schedule, by the same "
        "amount every sub-epoch.",
    )
    average: Fraction | None = Field(
        None,
        description="Memory of a moving average of the weights, such as 0.999; the average is what "
        "is validated and saved. Default: none.",
    )
