"""Base of all config models, and the values that several of them hold: names, counts, shares."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deepseg.config.validation.validator_error import invalid
from deepseg.geometry.boxes import Int3

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Count3: TypeAlias = tuple[Count, Count, Count]
CubeOrBox: TypeAlias = Count | Count3
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
EpochNumber: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Precision: TypeAlias = Literal["float32", "bfloat16"]


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
