"""Keys of a model file: channels, classes and the layers of every pathway.

The fields hold what users type. `ModelConfig.pathways` and `ModelConfig.fc_pathway` give the same
with every mirror rule and short form resolved: one entry per layer. Nothing here knows how a layer
is computed.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from deepseg.config.blocks.pathways import (
    FcPathway,
    NormalPathway,
    PathwayPlan,
    SubsampledPathways,
    fc_plan,
    normal_plan,
    subsampled_plans,
)
from deepseg.config.settings import ConfigPath, Count, CubeOrBox, Name, Settings, cube
from deepseg.config.validation.validator_error import invalid
from deepseg.geometry.boxes import Int3, text
from deepseg.geometry.context import Alignment
from deepseg.geometry.receptive_field import receptive_field

Activation: TypeAlias = Literal["linear", "relu", "prelu", "elu", "selu"]


class Segments(Settings):
    """Size in voxels of the boxes cut from the images, along X, Y and Z."""

    train: CubeOrBox = Field(description="Segment for a training step.")
    validation: CubeOrBox | None = Field(
        None, description="Segment for validation on samples. Default: as in training."
    )
    inference: CubeOrBox | None = Field(
        None, description="Tile for segmenting whole volumes. Default: as in training."
    )


class BatchNorm(Settings):
    """Batch normalisation in front of every layer that does not read the image."""

    statistics: Literal["exponential", "window"] = Field(
        "exponential",
        description="Means and variances for inference: an exponential moving "
        "average, or DeepMedic's plain mean over the last `length` steps.",
    )
    momentum: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Weight of the newest step in the exponential average."
    )
    length: Count = Field(60, description="Steps in the window.")
    epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-5, description="Added to the variance before its root is taken."
    )


class FanIn(Settings):
    """Normal weights of variance scale / (inputs x kernel voxels); doi:10.1109/ICCV.2015.123."""

    method: Literal["fan_in"] = "fan_in"
    scale: Annotated[float, Field(gt=0)] = Field(2.0, description="2 keeps variances under ReLU.")


class Normal(Settings):
    """Normal weights of a given standard deviation."""

    method: Literal["normal"]
    deviation: Annotated[float, Field(gt=0)] = Field(description="Standard deviation.")


def _unique(noun: str) -> AfterValidator:
    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise invalid(
                "name-twice",
                got=f"{noun} {', '.join(twice)} more than once",
                expected=f"a different name for every {noun}",
                fix="rename one of them",
            )
        return names

    return AfterValidator(check)


class ModelConfig(Settings):
    """A network of parallel pathways, described layer by layer."""

    name: Name = Field("deepseg", description="Name of the model and of its file.")
    output: ConfigPath = Field(
        Path("runs"),
        validate_default=False,
        description="Folder in which `-newModel` makes `models/<name>.save`. Default: `runs` in "
        "the current folder.",
    )
    channels: Annotated[tuple[Name, ...], Field(min_length=1), _unique("channel")] = Field(
        description="Names of the image channels in their order."
    )
    classes: Annotated[tuple[Name, ...], Field(min_length=2), _unique("class")] = Field(
        description="Names of the classes; the first is the background, label 0."
    )
    normal: NormalPathway = Field(description="The pathway at full resolution.")
    subsampled: SubsampledPathways | None = Field(
        None, description="Pathways at lower resolution; leave out for a single-scale network."
    )
    fc: FcPathway = Field(FcPathway(), description="The final classification pathway.")
    segments: Segments = Field(description="Sizes of the boxes cut from the images.")
    activation: Activation = Field("prelu", description="Non-linearity before each convolution.")
    batch_norm: BatchNorm | Literal["none"] = Field(
        BatchNorm(), description="Batch normalisation, or none for a bias per feature map instead."
    )
    initialisation: FanIn | Normal = Field(
        FanIn(), description="How kernels are drawn.", discriminator="method"
    )
    context_alignment: Alignment = Field(
        "centred",
        description="Where subsampled voxels sit: in the middle of the voxels they speak for, or "
        "where DeepMedic puts them (for imported weights).",
    )

    @cached_property
    def pathways(self) -> tuple[PathwayPlan, ...]:
        """Parallel pathways, the normal one first."""
        normal = normal_plan(self.normal)
        if self.subsampled is None:
            return (normal,)
        return (normal, *subsampled_plans(self.subsampled, normal))

    @cached_property
    def fc_pathway(self) -> PathwayPlan:
        """Final classification pathway, the head as its last layer."""
        return fc_plan(self.fc, classes=len(self.classes))

    @cached_property
    def smallest_segment(self) -> Int3:
        """Smallest segment for which the network predicts one voxel."""
        return receptive_field(
            (*self.pathways[0].unpadded_kernels, *self.fc_pathway.unpadded_kernels)
        )

    @property
    def segment_sizes(self) -> dict[str, Int3]:
        """Voxels of the segment for each use, after defaults."""
        train = cube(self.segments.train)
        validation, inference = self.segments.validation, self.segments.inference
        return {
            "train": train,
            "validation": train if validation is None else cube(validation),
            "inference": train if inference is None else cube(inference),
        }

    @model_validator(mode="after")
    def _layers_fit_together(self) -> ModelConfig:
        smallest = self.smallest_segment  # resolving the plans checks every list
        for use, size in self.segment_sizes.items():
            short = [a for a, n, m in zip("XYZ", size, smallest, strict=True) if n < m]
            if short:
                raise invalid(
                    "segment-too-small",
                    got=f"segments.{use} of {text(size)} voxels",
                    expected=f"at least {text(smallest)}, the receptive field",
                    fix=f"enlarge the segment along {', '.join(short)} or use fewer or smaller "
                    "kernels",
                )
        return self
