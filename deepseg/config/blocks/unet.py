"""A U-Net of our own in a model file, level by level from the bottom.

Level 0 is the coarsest: a U-Net that gets another level on top keeps the names of all others. How
its layers are computed is known in `deepseg.model.unet`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from deepseg.config.blocks.imported import (
    Border,
    ImportedNetwork,
    network_geometry,
    read_from_save,
)
from deepseg.config.settings import Count, CubeOrBox, Settings, cube
from deepseg.config.validation.validator_error import invalid
from deepseg.geometry.boxes import Int3, mul, text
from deepseg.geometry.context import PathwayGeometry

Preset: TypeAlias = Literal["plain", "residual"]
UnetNorm: TypeAlias = Literal["instance", "batch", "group", "none"]
UnetActivation: TypeAlias = Literal["relu", "leaky_relu", "prelu", "gelu"]

_UPPER = {"stride", "decoder"}  # keys of levels that have one below


class UnetLevel(Settings):
    """A level of a U-Net: layers of one resolution, going down and coming up."""

    feature_maps: Count = Field(description="Feature maps of its layers.")
    kernel: CubeOrBox = Field(3, description="Kernel of its convolutions.")
    stride: CubeOrBox = Field(
        2,
        description="Voxels of this level for one of the level below, along each axis; not for the "
        "lowest one.",
    )
    encoder: Count | None = Field(
        None,
        description="Convolutions on the way down (residual blocks with the preset residual). "
        "Default: 2.",
    )
    decoder: Count | None = Field(
        None,
        description="Convolutions on the way up; not for the lowest level. Default: 2, and 1 with "
        "the preset residual.",
    )


class UnetPathway(Settings):
    """A U-Net as a pathway, alone or beside others; nnU-Net's plans fit its presets."""

    levels: tuple[UnetLevel, ...] = Field(
        min_length=2, description="From the coarsest, level 0, to the one of the image."
    )
    preset: Preset = Field(
        "plain",
        description="Blocks on the way down: convolutions (nnU-Net's PlainConvUNet), or residual "
        "blocks after a stem (its ResidualEncoderUNet).",
    )
    norm: UnetNorm = Field("instance", description="Normalisation after each convolution.")
    groups: Count = Field(8, description="Groups of maps for the norm `group`.")
    activation: UnetActivation = Field("leaky_relu", description="Non-linearity after it.")
    padding: Literal["same", "valid"] = Field(
        "same",
        description="Zeros around the input of a convolution, or none: `valid` predicts only what "
        "is seen whole.",
    )
    margin: Border | tuple[Border, Border, Border] = Field(
        0, description="Voxels of each border of its image that are computed and thrown away."
    )
    network: ImportedNetwork | None = Field(
        None,
        description="Written into the `.save` by deepseg.",
        json_schema_extra={"is_stored_only": True},
    )

    @field_validator("network", mode="before")
    @classmethod
    def _comes_from_a_save(cls, value: object, info: ValidationInfo) -> object:
        return read_from_save(value, info, place="unet")

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The lowest level without the keys that it cannot have."""
        values: dict[str, Any] = dump(self)
        first, *upper = values["levels"]
        lowest = {key: value for key, value in first.items() if key not in _UPPER}
        return values | {"levels": [lowest, *upper]}

    @model_validator(mode="after")
    def _fits(self) -> UnetPathway:
        if self.levels[0].model_fields_set & _UPPER:
            raise invalid(
                "unet-levels",
                got="stride or decoder in the first level",
                expected="levels from the bottom: nothing is below the first",
                fix="put the coarsest level first, and remove its stride and decoder",
            )
        for number, level in enumerate(self.levels):
            if self.padding == "same" and not all(n % 2 for n in cube(level.kernel)):
                raise invalid(
                    "unet-levels",
                    got=f"a kernel of {text(cube(level.kernel))} in level {number}",
                    expected="odd numbers with padding: same, which keeps sizes",
                    fix="make it odd, such as 3",
                )
            if self.norm == "group" and level.feature_maps % self.groups:
                raise invalid(
                    "unet-levels",
                    got=f"{level.feature_maps} feature maps in level {number} and {self.groups} "
                    "groups",
                    expected="a multiple of groups",
                    fix="change feature_maps or groups",
                )
            if self.preset == "residual" and self.padding == "valid" and self._skips(number):
                raise invalid(
                    "unet-levels",
                    got=f"a kernel of {text(cube(level.kernel))} in level {number} and a stride of "
                    f"{text(self.stride_to(number))} to it",
                    expected="kernels that are not smaller than the stride, with preset: residual "
                    "and padding: valid",
                    fix="choose a larger kernel or padding: same",
                )
        return self

    def _skips(self, level: int) -> bool:
        """True if the kernel of a level leaves voxels of the level above unread."""
        kernel = cube(self.levels[level].kernel)
        return any(k < s for k, s in zip(kernel, self.stride_to(level), strict=True))

    def encoder_blocks(self, level: int) -> int:
        """Blocks of a level on the way down."""
        blocks = self.levels[level].encoder
        return 2 if blocks is None else blocks

    def decoder_blocks(self, level: int) -> int:
        """Blocks of a level on the way up."""
        blocks = self.levels[level].decoder
        return (1 if self.preset == "residual" else 2) if blocks is None else blocks

    def stride_to(self, level: int) -> Int3:
        """Voxels of the level above for one of ``level``.

        >>> levels = ({"feature_maps": 8}, {"feature_maps": 4, "stride": (2, 2, 1)})
        >>> UnetPathway(levels=levels).stride_to(0), UnetPathway(levels=levels).stride_to(1)
        ((2, 2, 1), (1, 1, 1))
        """
        above = level + 1
        return cube(self.levels[above].stride) if above < len(self.levels) else (1, 1, 1)

    @property
    def factor_of_bottom(self) -> Int3:
        """Image voxels for one of the coarsest level.

        >>> levels = ({"feature_maps": 8}, {"feature_maps": 4}, {"feature_maps": 4})
        >>> UnetPathway(levels=levels).factor_of_bottom
        (4, 4, 4)
        """
        factor = (1, 1, 1)
        for level in range(len(self.levels)):
            factor = mul(factor, self.stride_to(level))
        return factor

    @property
    def content(self) -> ImportedNetwork:
        """The network; it has to be laid out before."""
        assert self.network is not None, "the network of a U-Net was not laid out"
        return self.network

    @property
    def geometry(self) -> PathwayGeometry:
        """The image voxels that it reads."""
        return network_geometry(self.content, self.margin)
