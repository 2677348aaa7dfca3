"""Keys of a model file: channels, classes and the layers of every pathway.

The fields hold what users type. `ModelConfig.pathways` and `ModelConfig.fc_pathway` give the same
with every mirror rule and short form resolved: one entry per layer. Nothing here knows how a layer
is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from deepseg.config.blocks.imported import ImportedPathway
from deepseg.config.blocks.pathways import (
    NO_FC,
    FcPathway,
    NormalPathway,
    PathwayPlan,
    SubsampledPathways,
    fc_plan,
    normal_plan,
    subsampled_plans,
)
from deepseg.config.blocks.unet import UnetPathway
from deepseg.config.blocks.windows import Windows
from deepseg.config.settings import ConfigPath, Count, CubeOrBox, Name, Settings, cube
from deepseg.config.validation.validator_error import invalid
from deepseg.errors import did_you_mean
from deepseg.geometry.boxes import Int3, add, text
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
    normal: NormalPathway | None = Field(
        None,
        description="The pathway at full resolution. It may be left out where there are others.",
    )
    subsampled: SubsampledPathways | None = Field(
        None, description="Pathways at lower resolution; leave out for a single-scale network."
    )
    imported: tuple[ImportedPathway, ...] = Field(
        (), description="Networks from files of other programs, such as encoders, as pathways."
    )
    unet: UnetPathway | None = Field(
        None, description="A U-Net as a pathway, alone or beside others; its name is unet1."
    )
    fc: FcPathway | Literal["none"] = Field(
        FcPathway(),
        description="The final classification pathway; none where the only pathway is a U-Net, or "
        "an imported network with its own classifier.",
    )
    segments: Segments = Field(description="Sizes of the boxes cut from the images.")
    windows: Windows = Field(
        Windows(),
        description="How whole cases are predicted where an imported network sees further than its "
        "margin.",
    )
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
        """Parallel pathways of layers of our own, the normal one first; none without it."""
        if self.normal is None:
            return ()
        normal = normal_plan(self.normal)
        if self.subsampled is None:
            return (normal,)
        return (normal, *subsampled_plans(self.subsampled, normal))

    @property
    def is_resolved(self) -> bool:
        """All files of imported pathways were read, and the U-Net is laid out."""
        return all(pathway.network is not None for pathway in self.networks.values())

    @cached_property
    def networks(self) -> dict[str, UnetPathway | ImportedPathway]:
        """Pathways that are networks of their own: the U-Net, then imported ones, by name."""
        named: dict[str, UnetPathway | ImportedPathway] = {}
        if self.unet is not None:
            named["unet1"] = self.unet
        for number, pathway in enumerate(self.imported, start=1):
            named[f"imported{number}"] = pathway
        return named

    @property
    def first_network(self) -> tuple[str, UnetPathway | ImportedPathway]:
        """Name and settings of the network that decides where the core lies without `normal`."""
        return next(iter(self.networks.items()))

    @cached_property
    def fc_pathway(self) -> PathwayPlan:
        """Final classification pathway, the head as its last layer."""
        return NO_FC if self.fc == "none" else fc_plan(self.fc, classes=len(self.classes))

    @cached_property
    def smallest_segment(self) -> Int3:
        """Smallest segment for which the network predicts one voxel."""
        fc = receptive_field(self.fc_pathway.unpadded_kernels)
        if self.pathways:
            return receptive_field(
                (*self.pathways[0].unpadded_kernels, *self.fc_pathway.unpadded_kernels)
            )
        geometry = self.first_network[1].geometry
        least = add(fc, geometry.shrink)
        return least if geometry.sizes is None else geometry.sizes.at_least(least)

    def segment_size_problem(self, size: Int3) -> SizeProblem | None:
        """The reason why a segment cannot have this size, if there is one."""
        smallest = self.smallest_segment
        short = [a for a, n, m in zip("XYZ", size, smallest, strict=True) if n < m]
        if short:
            return SizeProblem(
                code="segment-too-small",
                expected=f"at least {text(smallest)}, the receptive field",
                fix=f"enlarge the segment along {', '.join(short)} or use fewer or smaller kernels",
            )
        if self.pathways:
            return None
        name, network = self.first_network
        sizes = network.geometry.sizes
        if sizes is None or sizes.fits(size):
            return None
        return SizeProblem(
            code="segment-size",
            expected=f"{text(smallest)} and steps of {text(sizes.step)} from there, which the "
            f"network of {name} computes",
            fix=f"take {text(sizes.at_least(size))}",
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

    @model_serializer(mode="wrap")
    def _without_imported(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models without imported pathways are written as by earlier versions, which read them."""
        values: dict[str, Any] = dump(self)
        if values.get("unet", True) is None:
            del values["unet"]
        if not self.networks:
            values = {k: v for k, v in values.items() if k not in ("imported", "windows")}
        return values

    @model_validator(mode="after")
    def _has_pathways(self) -> ModelConfig:
        if self.normal is None and not self.networks:
            raise invalid(
                "pathway-missing",
                got="no pathway that reads the image",
                expected="normal, unet or imported",
                fix="add the block normal, such as normal: {feature_maps: [30, 40]}",
            )
        if self.normal is None and self.subsampled is not None:
            raise invalid(
                "pathway-missing",
                got="subsampled without normal",
                expected="the block normal, of which subsampled pathways are mirror images",
                fix="add normal, or remove subsampled",
            )
        return self

    @model_validator(mode="after")
    def _has_a_classifier(self) -> ModelConfig:
        if "windows" in self.model_fields_set and not self.networks:
            raise invalid(
                "windows-without-imported",
                got="windows in a model without imported networks or U-Net",
                expected="them with imported networks or a U-Net only",
                fix="remove windows",
            )
        is_alone = len(self.networks) == 1 and self.normal is None
        has_classifier = self.unet is not None or (
            len(self.imported) == 1 and len(self.imported[0].output_names) < 2
        )
        if self.fc == "none" and not (is_alone and has_classifier):
            raise invalid(
                "classifier-missing",
                got="fc: none",
                expected="it where the only pathway is a U-Net, or an imported network with one "
                "output, its own classifier",
                fix="remove fc, for a classifier on all pathways",
            )
        for number, pathway in enumerate(self.imported, start=1):
            if pathway.classes and self.fc != "none":
                raise invalid(
                    "classifier-missing",
                    got=f"classes of imported{number} in a model with a classifier of its own",
                    expected="them with fc: none, for the network's own classifier",
                    fix="add fc: none, or remove classes of the pathway",
                )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> ModelConfig:
        for number, pathway in enumerate(self.imported, start=1):
            for noun, plural, names, expected in (
                ("channel", "channels", pathway.channels, self.channels),
                ("class", "classes", pathway.classes, self.classes),
            ):
                for name in names:
                    if name not in expected:
                        raise invalid(
                            f"{noun}-unknown",
                            got=f"{noun} {name!r} in {plural} of imported{number}",
                            expected=f"{plural} of the model: {', '.join(expected)}",
                            fix="correct the name" + did_you_mean(name, expected),
                        )
        return self

    @model_validator(mode="after")
    def _layers_fit_together(self) -> ModelConfig:
        _ = self.pathways, self.fc_pathway  # resolving the plans checks every list
        if not self.pathways and not self.is_resolved:
            return self
        for use, size in self.segment_sizes.items():
            problem = self.segment_size_problem(size)
            if problem is not None:
                raise invalid(
                    problem.code,
                    got=f"segments.{use} of {text(size)} voxels",
                    expected=problem.expected,
                    fix=problem.fix,
                )
        return self


@dataclass(frozen=True)
class SizeProblem:
    """The reason why a segment cannot have a size.

    Attributes:
        code: ``segment-too-small`` or ``segment-size``.
        expected: What would have been right.
        fix: What the user should change.
    """

    code: str
    expected: str
    fix: str
