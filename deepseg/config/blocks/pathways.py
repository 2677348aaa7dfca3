"""Pathways in a model file, and their plan layer by layer, with every short form resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field

from deepseg.config.settings import Count, CubeOrBox, Fraction, Settings, cube
from deepseg.config.validation.validator_error import invalid
from deepseg.counts import counted
from deepseg.geometry.boxes import Int3
from deepseg.geometry.receptive_field import shrinkage

LayerNumber: TypeAlias = Annotated[int, Field(ge=1, le=1000, strict=True)]
Padding: TypeAlias = Literal["none", "zero", "mirror"]


class NormalPathway(Settings):
    """The pathway at full resolution."""

    feature_maps: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        description="Feature maps of each layer; the number of entries is the number of layers."
    )
    kernels: Count | tuple[CubeOrBox, ...] = Field(
        3,
        description="Kernel of every layer, or a list with one per layer; 3 means 3 x 3 x 3. One "
        "of even size sees further after a voxel than before it.",
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
    dropout: Fraction | tuple[Fraction, ...] = Field(
        0.0, description="Share of activations switched off before each convolution in training."
    )


class SubsampledPathways(Settings):
    """Pathways that see further at lower resolution. What is left out mirrors `normal`."""

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
    dropout: Fraction | tuple[Fraction, ...] | None = Field(None, description="As in normal.")


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
    dropout: Fraction | tuple[Fraction, ...] | None = Field(
        None,
        description="As in normal, the head included. Default: 0.5 before every layer but the "
        "first.",
    )


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


NO_FC = PathwayPlan("fc", (1, 1, 1), (), (), (), frozenset(), frozenset(), ())
"""No final classification pathway: an imported network has its own."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class _PerLayer:
    """Reader of the lists of one block, which hold a value per layer; refuses those that misfit.

    Attributes:
        block: ``normal``, ``subsampled`` or ``fc``.
        count: Layers.
    """

    block: str
    count: int

    def values(self, value: Value | tuple[Value, ...], key: str) -> tuple[Value, ...]:
        """One value per layer: a single one is repeated, a list must have the right length."""
        if not isinstance(value, tuple):
            return (value,) * self.count
        if len(value) != self.count:
            raise invalid(
                "list-length",
                got=f"{counted(len(value), 'entry', 'entries')} in {self.block}.{key}",
                expected=f"{self.count}, one per layer",
                fix=f"give {self.block}.{key} one entry per layer, or one value for all",
            )
        return value

    def kernels(self, value: CubeOrBox | tuple[CubeOrBox, ...]) -> tuple[Int3, ...]:
        """Size of each layer's kernel along X, Y and Z."""
        sizes: tuple[CubeOrBox, ...] = self.values(value, "kernels")
        return tuple(cube(size) for size in sizes)

    def residuals(self, numbers: Sequence[int]) -> frozenset[int]:
        """Numbers of layers that add an earlier input; the first layer has none to add."""
        return self._numbers(numbers, "residuals", 2, "; the first layer has nothing to add")

    def low_rank(self, numbers: Sequence[int]) -> frozenset[int]:
        """Numbers of layers whose kernel is replaced by three flat ones."""
        return self._numbers(numbers, "low_rank", 1, "")

    def _numbers(self, numbers: Sequence[int], key: str, first: int, hint: str) -> frozenset[int]:
        wrong = [number for number in numbers if not first <= number <= self.count]
        if wrong:
            raise invalid(
                "layer-number",
                got=f"layer {', '.join(map(str, wrong))} in {self.block}.{key}",
                expected=f"numbers from {first} to {self.count}",
                fix=f"count layers from 1 at the image{hint}",
            )
        return frozenset(numbers)


def normal_plan(block: NormalPathway) -> PathwayPlan:
    """Normal pathway with everything written out.

    >>> plan = normal_plan(NormalPathway(feature_maps=(30, 40), padding=("none", "zero")))
    >>> plan.kernels
    ((3, 3, 3), (3, 3, 3))
    >>> plan.shrink
    (2, 2, 2)
    """
    layers = _PerLayer("normal", len(block.feature_maps))
    return PathwayPlan(
        name="normal",
        factor=(1, 1, 1),
        feature_maps=block.feature_maps,
        kernels=layers.kernels(block.kernels),
        padding=layers.values(block.padding, "padding"),
        residuals=layers.residuals(block.residuals),
        low_rank=layers.low_rank(block.low_rank),
        dropout=layers.values(block.dropout, "dropout"),
    )


def fc_plan(block: FcPathway, *, classes: int) -> PathwayPlan:
    """Final classification pathway with everything written out, the head as its last layer.

    >>> fc_plan(FcPathway(feature_maps=(250, 250)), classes=5).feature_maps
    (250, 250, 5)
    >>> fc_plan(FcPathway(feature_maps=(250, 250)), classes=5).dropout
    (0.0, 0.5, 0.5)
    """
    layers = _PerLayer("fc", len(block.feature_maps) + 1)
    dropout = block.dropout
    if dropout is None:
        dropout = (0.0, *[0.5] * len(block.feature_maps))
    return PathwayPlan(
        name="fc",
        factor=(1, 1, 1),
        feature_maps=(*block.feature_maps, classes),
        kernels=layers.kernels(block.kernels),
        padding=layers.values(block.padding, "padding"),
        residuals=layers.residuals(block.residuals),
        low_rank=frozenset(),
        dropout=layers.values(dropout, "dropout"),
    )


def subsampled_plans(block: SubsampledPathways, normal: PathwayPlan) -> tuple[PathwayPlan, ...]:
    """Subsampled pathways with everything written out; what ``block`` leaves out is as in normal.

    >>> normal = normal_plan(NormalPathway(feature_maps=(30, 40)))
    >>> first, second = subsampled_plans(SubsampledPathways(factors=(3, 5)), normal)
    >>> second.name, second.factor, second.feature_maps
    ('sub2', (5, 5, 5), (30, 40))
    """
    pathways = zip(block.factors, _maps_per_pathway(block, normal), strict=True)
    return tuple(
        _subsampled_plan(block, normal, _Subsampling(f"sub{number}", cube(factor), maps))
        for number, (factor, maps) in enumerate(pathways, start=1)
    )


def _maps_per_pathway(
    block: SubsampledPathways, normal: PathwayPlan
) -> tuple[tuple[int, ...], ...]:
    """Feature maps of each pathway; the last list holds for all further ones."""
    feature_maps = block.feature_maps if block.feature_maps else (normal.feature_maps,)
    lists = tuple(maps for maps in feature_maps if isinstance(maps, tuple))
    if not lists:
        lists = (tuple(count for count in feature_maps if isinstance(count, int)),)
    pathways = len(block.factors)
    if len(lists) > pathways:
        raise invalid(
            "list-length",
            got=f"{counted(len(lists), 'list')} in subsampled.feature_maps",
            expected=f"at most {pathways}, one per entry of subsampled.factors",
            fix="remove a list or add a factor",
        )
    return lists + (lists[-1],) * (pathways - len(lists))


@dataclass(frozen=True)
class _Subsampling:
    """Name, factor and feature maps, in which subsampled pathways differ from each other."""

    name: str
    factor: Int3
    feature_maps: tuple[int, ...]


def _subsampled_plan(
    block: SubsampledPathways, normal: PathwayPlan, pathway: _Subsampling
) -> PathwayPlan:
    layers = _PerLayer("subsampled", len(pathway.feature_maps))
    mirrors_normal = layers.count == len(normal.feature_maps)
    if block.kernels is None and not mirrors_normal:
        raise invalid(
            "kernels-missing",
            got=f"{counted(layers.count, 'layer')} in {pathway.name}, "
            f"{len(normal.feature_maps)} in normal, no kernels",
            expected="subsampled.kernels where the number of layers differs",
            fix="add subsampled.kernels",
        )
    no_padding: Padding = "none"
    layer_numbers = frozenset(range(1, layers.count + 1))
    return PathwayPlan(
        name=pathway.name,
        factor=pathway.factor,
        feature_maps=pathway.feature_maps,
        kernels=normal.kernels if block.kernels is None else layers.kernels(block.kernels),
        padding=(normal.padding if mirrors_normal else (no_padding,) * layers.count)
        if block.padding is None
        else layers.values(block.padding, "padding"),
        residuals=normal.residuals & layer_numbers
        if block.residuals is None
        else layers.residuals(block.residuals),
        low_rank=normal.low_rank & layer_numbers
        if block.low_rank is None
        else layers.low_rank(block.low_rank),
        dropout=(normal.dropout if mirrors_normal else (0.0,) * layers.count)
        if block.dropout is None
        else layers.values(block.dropout, "dropout"),
    )
