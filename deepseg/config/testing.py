"""Keys of a test file: cases to segment, files to write, scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.blocks.windows import Averaged, ImageAxis, Overlap
from deepseg.config.cases import AcceptedDifference, CasesConfig, Preparation
from deepseg.config.settings import ConfigPath, Count, CubeOrBox, Name, Precision, Settings, cube
from deepseg.config.validation.validator_error import invalid
from deepseg.geometry.boxes import Int3

_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def _memory(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(r"\d+(\.\d+)? ?[MG]i?B", value) is None:
        raise ValueError("a number with MB, GB, MiB or GiB, such as 2 GB")
    return value


class Inference(Settings):
    """Settings of the computation of whole cases."""

    precision: Precision = Field(
        "float32",
        description="Of the arithmetic; `bfloat16` is quicker where the processor has it, and "
        "changes labels of a few voxels. `tf32` is `float32` but for products on GPUs, whose "
        "factors are rounded to 10 bits.",
    )
    memory: Annotated[str, BeforeValidator(_memory)] | None = Field(
        None,
        description="What the command may use, such as `2 GB`, shared by the processes of "
        "`-devices N`. Default: half of what is free.",
    )
    tiling: Literal["global", "deepmedic"] | None = Field(
        None,
        description="`global`: the result does not depend on tiles, because context lies on one "
        "grid for the whole image. `deepmedic`: every tile has its own context and border. "
        "Default: as the model's `context_alignment`.",
    )

    mirror: tuple[ImageAxis, ...] = Field(
        (),
        description="Also segment the case mirrored along these axes, in every combination, and "
        "take the mean: `[x]` takes twice the time. Default: as `windows` of the model.",
    )
    overlap: Overlap = Field(
        0.0,
        description="Where models predict tile by tile: tiles share this part of their edge with "
        "the next, and voxels in the middle of a tile weigh more. For networks with padding in "
        "their pathways. Default: as `windows` of the model, where imported networks see further "
        "than their margin.",
    )
    average: Averaged | None = Field(
        None,
        description="What is averaged over windows, mirror images and models: `probabilities`, or "
        "`scores`, from which they follow at the end. Default: as `windows` of the models where "
        "all are predicted in windows, else probabilities.",
    )

    accept: tuple[AcceptedDifference, ...] = Field(
        (),
        description="Differences from the model's training cases that are accepted: `roi`, cases "
        "without one; `channels`, cases that lack one; `preparation`, cases prepared otherwise.",
    )

    @model_validator(mode="after")
    def _tiles_can_overlap(self) -> Inference:
        if self.overlap and self.tiling == "global":
            raise invalid(
                "overlap-without-tiles",
                got=f"overlap {self.overlap:g} with tiling: global, where nothing depends on tiles",
                expected="overlap with tiling: deepmedic only",
                fix="write tiling: deepmedic, or remove overlap",
            )
        return self

    @property
    def memory_bytes(self) -> int | None:
        """Memory in bytes; None where half of what is free is taken.

        >>> Inference(memory="1.5 GB").memory_bytes
        1500000000
        """
        if self.memory is None:
            return None
        number, unit = re.findall(r"[\d.]+|\w+", self.memory)
        return int(float(number) * _UNITS[unit])


class ComponentRule(Settings):
    """Rule for the connected components of a class."""

    keep: Literal["all", "largest"] = Field("all", description="All of them, or the largest only.")
    min_ml: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Components with less volume become background."
    )
    fill_holes: bool = Field(
        False, description="Background that the class encloses becomes part of it."
    )
    touching: Literal["faces", "edges", "corners"] = Field(
        "faces", description="What voxels of one component have in common at least."
    )


class TestConfig(Settings):
    """A testing session."""

    name: Name = Field("test", description="Name of the session and of its folder.")
    output: ConfigPath = Field(description="Folder that holds the session's folder.")
    model: ConfigPath | tuple[ConfigPath, ...] | None = Field(
        None,
        description="The `.save` to segment with; of several, the mean of their probabilities.",
    )
    cases: CasesConfig = Field(description="The cases; labels are optional and only scored.")
    save: SavedResults = Field(SavedResults(), description="What is written for every case.")
    groups: dict[Name, Annotated[tuple[Count, ...], Field(min_length=1)]] = Field(
        {},
        description="Classes that are also scored together, such as `{whole: [1, 2, 3, 4]}`; "
        "`foreground`, all labels above 0, always is.",
    )
    metrics: tuple[Name, ...] = Field(
        (),
        description="Metrics that a Python program has registered with `deepseg.register_metric`, "
        "measured beside all others.",
    )
    postprocess: dict[Name, ComponentRule] = Field(
        {}, description="Rules for the components of classes, such as `{lesion: {min_ml: 0.1}}`."
    )
    inference: Inference = Field(Inference(), description="How whole cases are computed.")
    batch_size: Count = Field(
        10, description="Tiles computed together where feature maps are written."
    )
    tile: CubeOrBox | None = Field(
        None,
        description="Tile in voxels, for feature maps and for `tiling: deepmedic`; window of "
        "imported networks. Default: segments.inference of the model.",
    )
    preparation: Preparation | None = Field(
        None,
        description="For models that do not store how their cases were prepared, such as imported "
        "ones; and `roi: nonzero`, for cases without the ROI that training cases had.",
    )
    keep_going: bool = Field(
        False, description="Go on with the other cases when one fails; the exit code is then 3."
    )

    report: bool = Field(
        True,
        description="Write `report.html`, one page with scores, slices of every case, settings and "
        "weights.",
    )

    __test__ = False  # its name starts like a test's, and pytest would collect it

    @property
    def tile_size(self) -> Int3 | None:
        """Tile along X, Y and Z."""
        return None if self.tile is None else cube(self.tile)

    @property
    def models(self) -> tuple[Path, ...]:
        """Model files: none, one or several."""
        if self.model is None:
            return ()
        return self.model if isinstance(self.model, tuple) else (self.model,)

    @property
    def folder(self) -> Path:
        """Folder of the session."""
        return self.output / self.name
