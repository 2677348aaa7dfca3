"""Files that are written for every segmented case."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseg.config.settings import Name, Settings


class SavedResults(Settings):
    """Files that are written for every case."""

    segmentation: bool = Field(True, description="The label of every voxel.")
    probabilities: bool | tuple[Name | Annotated[int, Field(ge=0, strict=True)], ...] = Field(
        False,
        description="Probability maps: of all classes, of none, or of the classes with these names "
        "or labels, such as `[0, oedema]`.",
    )
    feature_maps: dict[
        Name, tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | Literal["all"]
    ] = Field(
        {},
        description="Layers whose maps are written, with the number of the first map, from 0, "
        "and of the one after the last, such as `{normal.3: [0, 4], sub*.1: all}`.",
    )
    uncertainty: tuple[Literal["entropy", "variance"], ...] = Field(
        (),
        description="Uncertainty maps: entropy of the class probabilities, from 0 to 1; variance "
        "between the predictions of several models and mirror images.",
    )
    pictures: bool = Field(True, description="A picture of three slices of the result.")
    segmentation_suffix: Name = Field("Segm", description="Ends the name of a segmentation file.")
    probability_suffix: Name = Field(
        "ProbMapClass", description="Ends the name of a probability map, before its class number."
    )
