"""Schedules: the learning rate over the epochs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from deepseg.config.settings import Count, EpochNumber, NotNegative, Positive, Settings, Share


class Constant(Settings):
    """The learning rate stays."""

    type: Literal["constant"]


class Predefined(Settings):
    """The learning rate falls after certain epochs."""

    type: Literal["predefined"]
    epochs: tuple[EpochNumber, ...] = Field(
        description="Epochs, counted from 0, after which the learning rate is divided."
    )
    divide_by: Positive = Field(2.0, description="Divisor.")


class Poly(Settings):
    """lr (1 - x)^power, x from 0 after `wait` epochs to 1 after the last."""

    type: Literal["poly"] = "poly"
    wait: NotNegative | None = Field(
        None, description="Epochs at the initial rate. Default: a third of all."
    )
    power: Positive = Field(0.9, description="Exponent.")


class StepDecay(Settings):
    """lr * factor^floor(epoch / every)."""

    type: Literal["step"]
    every: Count = Field(1, description="Epochs between two falls.")
    factor: Annotated[float, Field(gt=0, le=1)] = Field(
        0.993, description="Factor on the learning rate each time."
    )


class InverseTime(Settings):
    """lr / (1 + decay * epoch)."""

    type: Literal["inverse_time"]
    decay: NotNegative = Field(description="Decay per epoch; 1 halves the rate after the first.")


class Exponential(Settings):
    """The learning rate falls by the same factor every epoch; momentum moves linearly."""

    type: Literal["exponential"]
    wait: NotNegative | None = Field(
        None, description="Epochs at the initial rate. Default: a third of all."
    )
    final_learning_rate: Positive | None = Field(
        None, description="Learning rate after the last epoch. Default: 1/256 of the initial one."
    )
    final_momentum: Share | None = Field(
        None, description="Momentum after the last epoch. Default: unchanged."
    )


class Plateau(Settings):
    """The learning rate falls when validation stops getting better."""

    type: Literal["plateau"]
    patience: Count = Field(5, description="Epochs without improvement to wait.")
    divide_by: Positive = Field(2.0, description="Divisor.")
    min_improvement: NotNegative = Field(0.0, description="Smaller gains do not count.")
    min_learning_rate: NotNegative = Field(0.0, description="Never falls below this.")


class Cosine(Settings):
    """Half a cosine from the initial rate to the final one; doi:10.48550/arXiv.1608.03983."""

    type: Literal["cosine"]
    wait: NotNegative = Field(0.0, description="Epochs at the initial rate.")
    final_learning_rate: NotNegative = Field(0.0, description="Rate after the last epoch.")


Schedule: TypeAlias = Annotated[
    Constant | Predefined | StepDecay | InverseTime | Poly | Exponential | Plateau | Cosine,
    Field(discriminator="type"),
]
