"""Preparation of cases as nnU-Net does it: cropped, normalised, then resampled by cubic splines."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from deepseg.config.settings import Name, Settings
from deepseg.config.validation.validator_error import invalid

Scheme: TypeAlias = Literal["z_score", "ct", "rescale", "rgb", "none"]


class IntensityRule(Settings):
    """Normalisation of a channel."""

    channel: Name = Field(description="Its name.")
    scheme: Scheme = Field(
        "z_score",
        description="`z_score` of this case; `ct`: clipped, then mean and deviation of the "
        "training cases; `rescale` to 0 to 1; `rgb`: divided by 255; or none.",
    )
    inside: bool = Field(
        False, description="The z-score is taken of voxels that are not 0 in any channel only."
    )
    limits: tuple[float, float] | None = Field(None, description="Lowest and highest value of ct.")
    mean: float = Field(0.0, description="Of ct.")
    deviation: Annotated[float, Field(gt=0)] = Field(1.0, description="Of ct.")

    @model_validator(mode="after")
    def _has_limits(self) -> IntensityRule:
        if self.scheme == "ct" and self.limits is None:
            raise invalid(
                "config-value",
                got="scheme ct without limits",
                expected="limits: [lowest, highest]",
                fix="add them",
            )
        return self


class NnunetPreparation(Settings):
    """Cases are cut to the box of voxels that are not 0, normalised, and resampled as nnU-Net does.

    Results are interpolated back to the voxels of the case before labels are chosen.
    """

    channels: tuple[IntensityRule, ...] = Field(
        (), description="Rules of channels. Default: a z-score of the cropped image."
    )

    def rule(self, channel: str) -> IntensityRule:
        """The normalisation of a channel.

        >>> preparation = NnunetPreparation(channels=(IntensityRule(channel="CT", scheme="none"),))
        >>> preparation.rule("CT").scheme, preparation.rule("T1").scheme
        ('none', 'z_score')
        """
        rules = (rule for rule in self.channels if rule.channel == channel)
        return next(rules, IntensityRule(channel=channel))
