"""What a test file says: which cases are segmented, what is written and how it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.model import Count, CubeOrBox, Name, Settings
from deepseg.config.reading import ConfigPath
from deepseg.config.training import SavedResults


class TestConfig(Settings):
    """A testing session."""

    name: Name = Field("test", description="Name of the session and of its folder.")
    output: ConfigPath = Field(description="Folder that holds the session's folder.")
    model: ConfigPath | None = Field(None, description="The `.save` to segment with.")
    cases: CasesConfig = Field(description="The cases; labels are optional and only scored.")
    save: SavedResults = Field(SavedResults(), description="What is written for every case.")
    groups: dict[Name, Annotated[tuple[Count, ...], Field(min_length=1)]] = Field(
        {},
        description="Classes that are also scored together, such as `{whole: [1, 2, 3, 4]}`; "
        "`foreground`, all labels above 0, always is.",
    )
    batch_size: Count = Field(10, description="Tiles computed together.")
    tile: CubeOrBox | None = Field(
        None, description="Tile in voxels. Default: segments.inference of the model."
    )
    preparation: Preparation | None = Field(
        None,
        description="Only for models that do not store how their cases were prepared, such as "
        "imported ones.",
    )
    keep_going: bool = Field(
        False, description="Go on with the other cases when one fails; the exit code is then 3."
    )

    __test__ = False  # its name starts like a test's, and pytest would collect it

    @property
    def folder(self) -> Path:
        """The session's own folder."""
        return self.output / self.name
