"""Imported pathways in a model file: networks of other programs, cut at inner tensors.

What a network consists of is found out when its file is read or its module built; the `.save` keeps
it, so that neither is needed any more.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from deepseg.config.blocks.optimisers import WeightType
from deepseg.config.settings import ConfigPath, Name, Settings
from deepseg.config.validation.validator_error import invalid
from deepseg.geometry.boxes import Int3, add, floor_div, maximum, mul, per_axis, sub
from deepseg.geometry.context import PathwayGeometry
from deepseg.geometry.size_rule import SizeRule

SOURCES = ("file", "module", "nnunet")
BELONGING = {"arguments": "module", "weights": "module", "fold": "nnunet"}
LARGE = 64  # steps of the size of an image in which border and middle are apart

TensorName: TypeAlias = Annotated[str, Field(min_length=1)]
Border: TypeAlias = Annotated[int, Field(ge=0, le=1000, strict=True)]
ImageChannel: TypeAlias = Annotated[int, Field(ge=0, le=1000, strict=True)]
ClassMap: TypeAlias = Annotated[int, Field(ge=0, le=1000, strict=True)]


class ImportedWeight(Settings):
    """A tensor of a layer."""

    name: str = Field(description="Within the pathway.")
    shape: tuple[int, ...] = Field(description="Along each axis.")
    type: WeightType = Field(description="As the optimiser calls it.")
    learns: bool = Field(description="False for running statistics.")


class ImportedLayer(Settings):
    """Nodes that share the name of their weights."""

    name: str = Field(description="Within the pathway.")
    operators: tuple[str, ...] = Field(description="Such as Conv.")
    nodes: tuple[str, ...] = Field(description="First outputs of its nodes.")
    weights: tuple[ImportedWeight, ...] = Field(description="Those not of an earlier layer.")
    below: tuple[str, ...] = Field(description="Layers whose results it reads, directly.")


class AttachPoint(Settings):
    """An inner tensor at which a network is cut; places and sizes in voxels of the image."""

    output: str = Field(description="Name of the tensor.")
    maps: int = Field(description="Feature maps.")
    stride: Int3 = Field(description="From one voxel to the next.")
    offset: tuple[float, float, float] = Field(description="Place of the first voxel.")
    loss: Int3 = Field(description="Image voxels that are not covered.")
    receptive_field: Int3 | None = Field(None, description="None if it is the whole image.")
    reach: tuple[Int3, Int3] | None = Field(
        None, description="Voxels that it sees before and after its place; None for all."
    )
    uses_statistics_of_image: bool = Field(False, description="Of all voxels of the image.")
    is_interpolated: bool = Field(False, description="Brought to full resolution linearly.")

    @property
    def begin(self) -> Int3:
        """First image voxel that the first voxel stands for, half a voxel late for even strides.

        >>> place = {"stride": (4, 2, 1), "offset": (0, 0.5, 8), "loss": (0, 0, 16)}
        >>> AttachPoint(output="y", maps=8, **place).begin
        (-1, 0, 8)
        """
        x, y, z = (
            math.ceil(o - (s - 1) / 2) for o, s in zip(self.offset, self.stride, strict=True)
        )
        return x, y, z

    @property
    def uncovered(self) -> tuple[Int3, Int3]:
        """Image voxels before and after those that it covers; 0 where borders are padded."""
        low = per_axis(lambda loss, first: max(first, 0) if loss else 0, self.loss, self.begin)
        high = per_axis(
            lambda loss, first: max(loss - first, 0) if loss else 0, self.loss, self.begin
        )
        return low, high

    def sees_whole(self, start: Int3, stop: Int3, size: Int3) -> bool:
        """True if what is used of it depends on no voxel beyond the image.

        Args:
            start: First image voxel that is used.
            stop: First one after those that are.
            size: Of the image.

        Voxels 4 apart that see 10 before and after: the margin must hold these, not fewer.

        >>> place = {"stride": (4, 4, 4), "offset": (0, 0, 0), "loss": (0, 0, 0)}
        >>> point = AttachPoint(output="y", maps=8, reach=((10,) * 3, (10,) * 3), **place)
        >>> point.sees_whole((12, 12, 12), (52, 52, 52), (64, 64, 64))
        True
        >>> point.sees_whole((9, 9, 9), (55, 55, 55), (64, 64, 64))
        False

        Voxel 53 lies between those at 52 and 56: interpolated, it depends on both.

        >>> linear = point.model_copy(update={"is_interpolated": True})
        >>> [p.sees_whole((12, 12, 12), (54, 54, 54), (64, 64, 64)) for p in (point, linear)]
        [True, False]
        """
        if self.reach is None or self.uses_statistics_of_image:
            return False
        first, last = self._voxels_used(start, stop)
        return all(
            offset + stride * i >= before and offset + stride * j + after <= n - 1
            for offset, stride, i, j, before, after, n in zip(
                self.offset, self.stride, first, last, *self.reach, size, strict=True
            )
        )

    def _voxels_used(self, start: Int3, stop: Int3) -> tuple[Int3, Int3]:
        """First and last voxel of it that stand for image voxels from ``start`` to ``stop``."""
        if not self.is_interpolated:
            first = floor_div(sub(start, self.begin), self.stride)
            return first, floor_div(sub(add(stop, -1), self.begin), self.stride)
        places = list(zip(start, stop, self.offset, self.stride, strict=True))
        x, y, z = (
            (math.floor((a - offset) / stride), math.ceil((b - 1 - offset) / stride))
            for a, b, offset, stride in places
        )
        return (x[0], y[0], z[0]), (x[1], y[1], z[1])


class ImportedNetwork(Settings):
    """A network as it was read from its file."""

    graph: dict[str, Any] = Field(description="Nodes and constants.")
    channels: int = Field(description="Of the image.")
    smallest: Int3 = Field(description="Voxels of the smallest image that is computed.")
    step: Int3 = Field(description="Voxels from one size that is computed to the next.")
    outputs: tuple[AttachPoint, ...] = Field(description="Where it is cut.")
    layers: tuple[ImportedLayer, ...] = Field(description="Nodes with weights.")
    sha256: str = Field(description="Of the file.")
    auxiliary: tuple[AttachPoint, ...] = Field(
        (), description="Further results, which deep supervision reads."
    )

    def shrink(self, margin: Int3) -> Int3:
        """Voxels by which its result is smaller than its image.

        Args:
            margin: Voxels of each border that are computed and thrown away.
        """
        low = maximum(*(point.uncovered[0] for point in self.outputs))
        high = maximum(*(point.uncovered[1] for point in self.outputs))
        # As everywhere, an odd voxel is taken off the end.
        pair = per_axis(lambda a, b: a + b if b - a in (0, 1) else 2 * max(a, b), low, high)
        return add(pair, mul(margin, 2))

    def sees_whole(self, shrink: Int3) -> bool:
        """True if no voxel of the result sees less in a part of an image than in all of it.

        Args:
            shrink: Voxels by which the result is smaller than the image.
        """
        low = floor_div(shrink, 2)
        size = add(self.smallest, mul(self.step, LARGE))
        stop = sub(size, sub(shrink, low))
        return all(point.sees_whole(low, stop, size) for point in self.outputs)

    @property
    def maps(self) -> int:
        """Feature maps of all attach points together."""
        return sum(point.maps for point in self.outputs)


def network_geometry(
    network: ImportedNetwork, margin: int | tuple[int, int, int]
) -> PathwayGeometry:
    """The image voxels that a network reads.

    Args:
        network: Laid out.
        margin: Voxels of each border that are computed and thrown away.
    """
    border = (margin,) * 3 if isinstance(margin, int) else margin
    return PathwayGeometry(
        factor=(1, 1, 1),
        shrink=network.shrink(border),
        sizes=SizeRule(network.smallest, network.step),
    )


def read_from_save(value: object, info: ValidationInfo, *, place: str) -> object:
    """A network as a `.save` holds it; in a file that a user writes there is none."""
    if value is not None and info.context is not None:
        raise invalid(
            "config-value",
            got=f"network in {place}",
            expected="keys such as file and output, or levels",
            fix="remove it: deepseg writes the network itself",
        )
    return value


class ImportedPathway(Settings):
    """A network of another program, cut at inner tensors, as a pathway."""

    file: ConfigPath | None = Field(
        None,
        description="File of ONNX (`.onnx`) or Keras (`.keras`, `.h5`, or `.json` with "
        "`.weights.h5` beside it); the `.save` holds all that is needed of it.",
    )
    module: Name | None = Field(
        None,
        description="Class of `monai.networks.nets` or `dynamic_network_architectures."
        "architectures`, such as `monai.networks.nets.UNet`, or a module that "
        "`deepseg.register_module` knows.",
    )
    arguments: dict[str, Any] = Field(
        {}, description="Arguments by which the class of `module` is made."
    )
    weights: ConfigPath | None = Field(
        None,
        description="Weights of `module`: a state dict or a checkpoint of torch, or a "
        "`.safetensors`. Without, a class begins with new ones.",
    )
    nnunet: ConfigPath | None = Field(
        None,
        description="Folder of a model that nnU-Net has trained, with `plans.json`, "
        "`dataset.json` and folders `fold_0`, …; or `fold_0` itself.",
    )
    fold: Annotated[int, Field(ge=0, strict=True)] | Literal["all"] | None = Field(
        None, description="Which fold of `nnunet`. Default: the only one, or 0."
    )
    output: TensorName | tuple[TensorName, ...] = Field(
        (),
        description="Where the network is cut: nodes, tensors or modules by the names that `-show` "
        "lists. Several are brought to full resolution and joined. Default: its output, without a "
        "closing softmax or sigmoid.",
    )
    ignore: tuple[TensorName, ...] = Field(
        (), description="Nodes, tensors or modules to leave out, such as those of a classifier."
    )
    channels: dict[Name, ImageChannel] = Field(
        {},
        description="Channel of the network's image, from 0, for channels of the model by name; "
        "weights of the model's other channels begin as zero. Default: by position, where there "
        "are as many.",
    )
    classes: dict[Name, ClassMap] = Field(
        {},
        description="With `fc: none`, map of the network's classifier, from 0, for classes of the "
        "model by name; weights of the model's other classes begin as zero. Default: by position, "
        "where there are as many.",
    )
    upsampling: Literal["repeat", "linear"] = Field(
        "repeat",
        description="How maps of a lower resolution are brought to the full one: each voxel "
        "repeated, as in subsampled pathways, or linearly interpolated.",
    )
    margin: Border | tuple[Border, Border, Border] = Field(
        0,
        description="Voxels of each border of its image that are computed and thrown away, where "
        "the network pads them.",
    )
    random: bool = Field(
        False, description="Take the topology alone and draw new weights, for comparison."
    )
    network: ImportedNetwork | None = Field(
        None,
        description="Written into the `.save` by deepseg.",
        json_schema_extra={"is_stored_only": True},
    )

    @model_validator(mode="after")
    def _has_a_single_source(self) -> ImportedPathway:
        present = [key for key in SOURCES if getattr(self, key) is not None]
        if len(present) != 1:
            raise invalid(
                "imported-source",
                got=" and ".join(present) if present else "an imported pathway without a network",
                expected=f"one of {', '.join(SOURCES)}",
                fix="keep one of the three",
            )
        for key, home in BELONGING.items():
            if home != present[0] and key in self.model_fields_set and getattr(self, key):
                raise invalid(
                    "imported-source",
                    got=f"{key} beside {present[0]}",
                    expected=f"{key} beside {home} only",
                    fix=f"remove {key}",
                )
        return self

    @field_validator("network", mode="before")
    @classmethod
    def _comes_from_a_save(cls, value: object, info: ValidationInfo) -> object:
        return read_from_save(value, info, place="an imported pathway")

    @property
    def origin(self) -> str:
        """The file, module or folder that it comes from.

        >>> ImportedPathway(module="monai.networks.nets.UNet").origin
        'monai.networks.nets.UNet'
        """
        return str(self.file or self.module or self.nnunet)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names at which the network is cut."""
        return (self.output,) if isinstance(self.output, str) else self.output

    @property
    def content(self) -> ImportedNetwork:
        """The network; its file has to be read before."""
        assert self.network is not None, "the file of an imported pathway was not read"
        return self.network

    @property
    def geometry(self) -> PathwayGeometry:
        """The image voxels that it reads."""
        return network_geometry(self.content, self.margin)
