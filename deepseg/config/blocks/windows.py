"""Windows in which an imported network predicts whole cases, in a model file.

They are needed where the network sees further than its margin: a voxel near the border of a window
then sees less than one in its middle, and counts less.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from deepseg.config.settings import Settings

Overlap: TypeAlias = Annotated[float, Field(ge=0, le=0.9)]
Averaged: TypeAlias = Literal["scores", "probabilities"]
ImageAxis: TypeAlias = Literal["x", "y", "z"]


class Windows(Settings):
    """Settings of windows that overlap, by which whole cases are predicted; a test file's win."""

    overlap: Overlap = Field(
        0.5, description="Part of its edge that a window shares with the next."
    )
    places: Literal["regular", "even"] = Field(
        "regular",
        description="Where windows lie: `regular`, the last one flush with the end of the image, "
        "as in MONAI; `even`, all at about the same distance, as in nnU-Net.",
    )
    beyond: Literal["zero", "mirror"] = Field(
        "zero",
        description="What surrounds an image that is smaller than a window: zeros, as in MONAI and "
        "nnU-Net, or its own mirror image.",
    )
    average: Averaged = Field(
        "scores",
        description="What is averaged: scores, from which probabilities follow at the end, as in "
        "MONAI and nnU-Net, or probabilities.",
    )
    mirror: tuple[ImageAxis, ...] = Field(
        (), description="Axes along which the case is mirrored too, in every combination."
    )
