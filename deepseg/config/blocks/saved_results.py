"""Files that are written for every segmented case."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from deepseg.config.settings import Name, Settings
from deepseg.config.validation.validator_error import invalid

LabelFormat: TypeAlias = Literal["itksnap", "slicer", "bids"]


class SavedResults(Settings):
    """Files that are written for every case."""

    segmentation: bool = Field(True, description="The label of every voxel.")
    probabilities: bool | tuple[Name | Annotated[int, Field(ge=0, strict=True)], ...] = Field(
        False,
        description="Probability maps: of all classes, of none, or of the classes with these names "
        "or labels, such as `[0, oedema]`.",
    )
    feature_maps: dict[
        Name, tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | Literal["all"]
    ] = Field(
        {},
        description="Layers whose maps are written, with the number of the first map, from 0, "
        "and of the one after the last, such as `{normal.3: [0, 4], sub*.1: all}`.",
    )
    uncertainty: tuple[Literal["entropy", "variance"], ...] = Field(
        (),
        description="Uncertainty maps: entropy of the class probabilities, from 0 to 1; variance "
        "between the predictions of several models and mirror images.",
    )
    pictures: bool = Field(True, description="A picture of three slices of the result.")
    label_names: tuple[LabelFormat, ...] = Field(
        ("itksnap", "slicer", "bids"),
        description="Names and colours of the labels beside the segmentations, for other programs: "
        "`itksnap_labels.txt`, `slicer_labels.ctbl`, `dseg.tsv` with `dseg.json`.",
    )
    dicom_seg: bool = Field(
        False,
        description="Also a DICOM-SEG of every case whose images are DICOM series, named as the "
        "segmentation, with `.dcm`; needs the extra `dicom`.",
    )
    segmentation_suffix: Name = Field("Segm", description="Ends the name of a segmentation file.")
    probability_suffix: Name = Field(
        "ProbMapClass", description="Ends the name of a probability map, before its class number."
    )

    @model_validator(mode="after")
    def _no_result_has_the_name_of_another(self) -> SavedResults:
        endings = [("segmentation_suffix", self.segmentation_suffix)] * self.segmentation
        if self.probabilities:
            endings.append(("probability_suffix", f"{self.probability_suffix}0"))
        for key, ending in endings:
            for pattern, result in self._other_results(key):
                if re.fullmatch(pattern, ending, re.IGNORECASE):
                    raise invalid(
                        "name-twice",
                        got=f"{key} {getattr(self, key)!r}, with which a file is called as that of "
                        f"{result}",
                        expected="an ending of its own for every result",
                        fix=f"choose another {key}",
                    )
        return self

    def _other_results(self, key: str) -> Iterator[tuple[str, str]]:
        """Patterns of the endings of results that do not end with the suffix ``key``."""
        if self.probabilities and key == "segmentation_suffix":
            yield re.escape(self.probability_suffix) + self._label_pattern, "a probability map"
        for name in self.uncertainty:
            yield name, f"the map of {name}"
        if self.feature_maps:
            yield r".+_fm\d+", "a feature map"

    @property
    def _label_pattern(self) -> str:
        """The numbers of classes that have a probability map; any number where names stand."""
        if isinstance(self.probabilities, bool) or not all(
            isinstance(entry, int) for entry in self.probabilities
        ):
            return r"\d+"
        return f"({'|'.join(map(str, self.probabilities))})"
