"""Base of all config models, and the values that several of them hold: names, counts, shares."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from deepseg.config.user_paths import user_path
from deepseg.config.validation.validator_error import invalid
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Int3

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Count3: TypeAlias = tuple[Count, Count, Count]
CubeOrBox: TypeAlias = Count | Count3
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
EpochNumber: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]


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


def absolute_path(value: object, info: ValidationInfo) -> object:
    """``value`` as an absolute path, if it is one at all."""
    if not isinstance(value, str | Path):
        return value
    folder = Path() if info.context is None else info.context["folder"]
    try:
        written = user_path(str(value), folder)
    except DeepsegError as error:
        (problem,) = error.problems
        raise invalid(
            "config-path", got=problem.got, expected=problem.expected, fix=problem.fix
        ) from None
    # Symbolic links stay as they are: what they point to often has a name that tells nothing.
    return Path(os.path.normpath((folder / written).absolute()))


ConfigPath: TypeAlias = Annotated[Path, BeforeValidator(absolute_path)]
"""A path in a config file: relative to its folder, absolute, or with ``~`` or variables."""


def cube(size: CubeOrBox) -> Int3:
    """Size along X, Y and Z, where a single number holds for all three.

    >>> cube(3)
    (3, 3, 3)
    >>> cube((5, 5, 1))
    (5, 5, 1)
    """
    return (size, size, size) if isinstance(size, int) else size


class Settings(BaseModel):
    """Base of everything users write: unknown keys are errors, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
