"""What a model file says: channels, classes and the layers of every pathway.

The fields hold what users type. `ModelConfig.pathways` and `ModelConfig.fc_pathway` give the same
with every mirror rule and short form resolved: one entry per layer. Nothing here knows how a layer
is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deepseg.config.validation.validate import ConfigPath
from deepseg.config.validation.validator_error import invalid
from deepseg.geometry.boxes import Int3, text
from deepseg.geometry.context import Alignment
from deepseg.geometry.receptive_field import receptive_field, shrinkage

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
LayerNumber: TypeAlias = Annotated[int, Field(ge=1, le=1000, strict=True)]
Count3: TypeAlias = tuple[Count, Count, Count]
CubeOrBox: TypeAlias = Count | Count3
Probability: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Padding: TypeAlias = Literal["none", "zero", "mirror"]
Activation: TypeAlias = Literal["linear", "relu", "prelu", "elu", "selu"]


def _usable_in_file_names(name: str) -> str:
    if "/" in name or "\\" in name or not name.isprintable() or name.strip(". ") == "":
        raise invalid(
            "name-unusable",
            got=repr(name),
            expected="a name that can be part of a file name: no slashes or control characters",
            fix="choose another name",
        )
    return name


Name: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=200), AfterValidator(_usable_in_file_names)
]


def cube(size: CubeOrBox) -> Int3:
    """A single number stands for the same size along X, Y and Z."""
    return (size, size, size) if isinstance(size, int) else size


class Settings(BaseModel):
    """Base of everything users write: unknown keys are errors and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NormalPathway(Settings):
    """The pathway at full resolution."""

    feature_maps: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        description="Feature maps of each layer; the number of entries is the number of layers."
    )
    kernels: Count | tuple[CubeOrBox, ...] = Field(
        3, description="Kernel of every layer, or a list with one per layer; 3 means 3 x 3 x 3."
    )
    padding: Padding | tuple[Padding, ...] = Field(
        "none",
        description="What surrounds the input of a convolution: none, zero, or mirror (the edge "
        "voxel is repeated).",
    )
    residuals: tuple[LayerNumber, ...] = Field(
        (), description="Layers to whose output the input of the layer before is added."
    )
    low_rank: tuple[LayerNumber, ...] = Field(
        (), description="Layers whose kernel is replaced by three flat ones (xy, yz, xz)."
    )
    dropout: Probability | tuple[Probability, ...] = Field(
        0.0, description="Share of activations switched off before each convolution in training."
    )


class SubsampledPathways(Settings):
    """Pathways that see further at lower resolution. What is not given mirrors `normal`."""

    factors: tuple[CubeOrBox, ...] = Field(
        (3,),
        min_length=1,
        description="Subsampling of each pathway; as many pathways as entries. [3, 5] means two.",
    )
    feature_maps: tuple[Count, ...] | tuple[tuple[Count, ...], ...] | None = Field(
        None, description="One list for all subsampled pathways, or a list of lists."
    )
    kernels: Count | tuple[CubeOrBox, ...] | None = Field(
        None, description="As in normal; shared by all subsampled pathways."
    )
    padding: Padding | tuple[Padding, ...] | None = Field(None, description="As in normal.")
    residuals: tuple[LayerNumber, ...] | None = Field(
        None, description="As in normal; [] for none."
    )
    low_rank: tuple[LayerNumber, ...] | None = Field(None, description="As in normal; [] for none.")
    dropout: Probability | tuple[Probability, ...] | None = Field(None, description="As in normal.")


class FcPathway(Settings):
    """The final classification pathway on the joined feature maps; its last layer is the head."""

    feature_maps: tuple[Count, ...] = Field(
        (), description="Feature maps of the hidden layers; the head is added by itself."
    )
    kernels: Count | tuple[CubeOrBox, ...] = Field(
        1, description="Kernel of every layer, or one per layer, the head included."
    )
    padding: Padding | tuple[Padding, ...] = Field(
        "none", description="As in normal, the head included."
    )
    residuals: tuple[LayerNumber, ...] = Field((), description="As in normal.")
    dropout: Probability | tuple[Probability, ...] | None = Field(
        None,
        description="As in normal, the head included. Default: 0.5 before every layer but the "
        "first.",
    )


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
        description="How means and variances for inference are gathered: an exponential moving "
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


def _unique(kind: str) -> AfterValidator:
    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise invalid(
                "name-twice",
                got=f"{kind} {', '.join(twice)} more than once",
                expected=f"a different name for every {kind}",
                fix="rename one of them",
            )
        return names

    return AfterValidator(check)


@dataclass(frozen=True)
class PathwayPlan:
    """One pathway with everything written out, a tuple entry per layer.

    Attributes:
        name: ``normal``, ``sub1``, ``sub2``, … or ``fc``.
        factor: Subsampling along each axis.
        residuals: Numbers, from 1, of the layers that add an earlier input.
        low_rank: Numbers of the layers with three flat kernels.
    """

    name: str
    factor: Int3
    feature_maps: tuple[int, ...]
    kernels: tuple[Int3, ...]
    padding: tuple[Padding, ...]
    residuals: frozenset[int]
    low_rank: frozenset[int]
    dropout: tuple[float, ...]

    @property
    def unpadded_kernels(self) -> tuple[Int3, ...]:
        """Kernels of the convolutions that make the feature maps smaller."""
        return tuple(
            kernel
            for kernel, padding in zip(self.kernels, self.padding, strict=True)
            if padding == "none"
        )

    @property
    def shrink(self) -> Int3:
        """Voxels by which the output is smaller than the input."""
        return shrinkage(self.unpadded_kernels)


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
        """The parallel pathways, the normal one first."""
        normal = _normal_plan(self.normal)
        if self.subsampled is None:
            return (normal,)
        own = self.subsampled
        count = len(own.factors)
        subs = (
            _sub_plan(own, normal, factor, maps, f"sub{number}")
            for number, factor, maps in zip(
                range(1, count + 1), own.factors, _maps_per_pathway(own, normal, count), strict=True
            )
        )
        return (normal, *subs)

    @cached_property
    def fc_pathway(self) -> PathwayPlan:
        """The final classification pathway, the head as its last layer."""
        count = len(self.fc.feature_maps) + 1
        dropout = self.fc.dropout
        if dropout is None:
            dropout = (0.0, *[0.5] * (count - 1))
        return PathwayPlan(
            name="fc",
            factor=(1, 1, 1),
            feature_maps=(*self.fc.feature_maps, len(self.classes)),
            kernels=_kernels(self.fc.kernels, count, "fc.kernels"),
            padding=_each(self.fc.padding, count, "fc.padding"),
            residuals=_numbers(self.fc.residuals, count, "fc.residuals", first=2),
            low_rank=frozenset(),
            dropout=_each(dropout, count, "fc.dropout"),
        )

    @cached_property
    def smallest_segment(self) -> Int3:
        """The smallest segment for which the network predicts one voxel."""
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


Entry = TypeVar("Entry")


def _each(value: Entry | tuple[Entry, ...], count: int, key: str) -> tuple[Entry, ...]:
    """One entry per layer: a single value is repeated, a list must have the right length."""
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) != count:
        raise invalid(
            "list-length",
            got=f"{len(value)} entries in {key}",
            expected=f"{count}, one per layer",
            fix=f"give {key} one entry per layer, or one value for all",
        )
    return value


def _without_even(kernels: tuple[Int3, ...], key: str) -> tuple[Int3, ...]:
    """Refuse even sizes: such a kernel has no middle, its outputs would sit between voxels."""
    even = [text(kernel) for kernel in kernels if any(n % 2 == 0 for n in kernel)]
    if even:
        raise invalid(
            "kernel-even",
            got=f"kernels of {', '.join(even)} voxels in {key}",
            expected="odd sizes, such as 1, 3 or 5",
            fix="choose the next odd size",
        )
    return kernels


def _kernels(value: Count | tuple[CubeOrBox, ...], count: int, key: str) -> tuple[Int3, ...]:
    each: tuple[CubeOrBox, ...] = _each(value, count, key)
    return _without_even(tuple(cube(kernel) for kernel in each), key)


def _numbers(numbers: Sequence[int], count: int, key: str, *, first: int = 1) -> frozenset[int]:
    wrong = [number for number in numbers if not first <= number <= count]
    if wrong:
        raise invalid(
            "layer-number",
            got=f"layer {', '.join(map(str, wrong))} in {key}",
            expected=f"numbers from {first} to {count}",
            fix="count layers from 1 at the image"
            + ("; the first layer has nothing to add" if first == 2 else ""),
        )
    return frozenset(numbers)


def _normal_plan(own: NormalPathway) -> PathwayPlan:
    count = len(own.feature_maps)
    return PathwayPlan(
        name="normal",
        factor=(1, 1, 1),
        feature_maps=own.feature_maps,
        kernels=_kernels(own.kernels, count, "normal.kernels"),
        padding=_each(own.padding, count, "normal.padding"),
        residuals=_numbers(own.residuals, count, "normal.residuals", first=2),
        low_rank=_numbers(own.low_rank, count, "normal.low_rank"),
        dropout=_each(own.dropout, count, "normal.dropout"),
    )


def _maps_per_pathway(
    own: SubsampledPathways, normal: PathwayPlan, count: int
) -> tuple[tuple[int, ...], ...]:
    given = own.feature_maps if own.feature_maps else (normal.feature_maps,)
    lists = tuple(entry for entry in given if isinstance(entry, tuple))
    if not lists:
        lists = (tuple(entry for entry in given if isinstance(entry, int)),)
    if len(lists) > count:
        raise invalid(
            "list-length",
            got=f"{len(lists)} lists in subsampled.feature_maps",
            expected=f"at most {count}, one per entry of subsampled.factors",
            fix="remove a list or add a factor",
        )
    return lists + (lists[-1],) * (count - len(lists))


def _sub_plan(
    own: SubsampledPathways,
    normal: PathwayPlan,
    factor: CubeOrBox,
    maps: tuple[int, ...],
    name: str,
) -> PathwayPlan:
    count = len(maps)
    mirrored = count == len(normal.feature_maps)
    if own.kernels is None and not mirrored:
        raise invalid(
            "kernels-missing",
            got=f"{count} layers in {name}, {len(normal.feature_maps)} in normal, no kernels",
            expected="subsampled.kernels where the number of layers differs",
            fix="add subsampled.kernels",
        )
    none: Padding = "none"
    fitting = {number for number in normal.residuals | normal.low_rank if number <= count}
    return PathwayPlan(
        name=name,
        factor=cube(factor),
        feature_maps=maps,
        kernels=normal.kernels
        if own.kernels is None
        else _kernels(own.kernels, count, "subsampled.kernels"),
        padding=(normal.padding if mirrored else (none,) * count)
        if own.padding is None
        else _each(own.padding, count, "subsampled.padding"),
        residuals=normal.residuals & fitting
        if own.residuals is None
        else _numbers(own.residuals, count, "subsampled.residuals", first=2),
        low_rank=normal.low_rank & fitting
        if own.low_rank is None
        else _numbers(own.low_rank, count, "subsampled.low_rank"),
        dropout=(normal.dropout if mirrored else (0.0,) * count)
        if own.dropout is None
        else _each(own.dropout, count, "subsampled.dropout"),
    )
