"""Around which voxels segments are cut."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from deepseg.config.settings import NotNegative, Settings
from deepseg.config.validation.validator_error import invalid

SamplingType: TypeAlias = Literal["foreground_background", "uniform", "whole_image", "per_class"]


class Sampling(Settings):
    """Around which voxels segments are cut."""

    type: SamplingType = Field(
        "per_class",
        description="foreground_background: half the segments around labelled voxels; uniform: "
        "anywhere in the ROI; whole_image: anywhere in the image, ROI or not; per_class: equally "
        "often around each class.",
    )
    proportions: tuple[NotNegative, ...] | None = Field(
        None,
        description="Share of each category: [foreground, background], or one per class. "
        "Default: equal.",
    )

    @model_validator(mode="after")
    def _proportions_fit(self) -> Sampling:
        if self.proportions is None:
            return self
        if self.type in ("uniform", "whole_image"):
            raise invalid(
                "proportions-unused",
                got=f"proportions for {self.type} sampling, which has one category",
                expected="proportions only for foreground_background and per_class",
                fix="remove proportions or change the type",
            )
        if sum(self.proportions) <= 0:
            raise invalid(
                "proportions-empty",
                got="proportions that are all 0",
                expected="at least one above 0",
                fix="give the categories you want a share above 0",
            )
        if self.type == "foreground_background" and len(self.proportions) != 2:
            raise invalid(
                "list-length",
                got=f"{len(self.proportions)} proportions",
                expected="2: foreground, background",
                fix="give two numbers",
            )
        return self
