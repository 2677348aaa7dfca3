"""Keys about the cases of a session: where their files are and how they are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from deepseg.config.blocks.nnunet_preparation import NnunetPreparation
from deepseg.config.settings import ConfigPath, Name, Settings, absolute_path
from deepseg.config.validation.validator_error import invalid

AcceptedDifference: TypeAlias = Literal["roi", "channels", "preparation"]
"""Between cases and those that a model has learnt from."""


def _list_file(value: object, info: ValidationInfo) -> object:
    """An absolute path; beside ``bids``, the pattern of a file name as it is."""
    return value if info.data.get("bids") is not None else absolute_path(value, info)


ListFile: TypeAlias = Annotated[Path, BeforeValidator(_list_file)]


class CasesConfig(Settings):
    """Where the cases are: a table, a dataset folder, a BIDS tree, or one list file per channel."""

    table: ConfigPath | None = Field(
        None,
        description="CSV file with a row per case. Columns: `case`, `channel_NAME` for every "
        "channel, `labels`, `roi`, `weights_1`, `weights_2`, …; `split`, the `part` that a case "
        "belongs to; `patient`, whose cases `folds` keep together; paths relative to the table.",
    )
    dataset: ConfigPath | None = Field(
        None,
        description="Folder with a `dataset.json` in the layout of the Medical Segmentation "
        "Decathlon or nnU-Net.",
    )
    part: Literal["training", "validation", "test"] = Field(
        "training",
        description="Part of the dataset folder, or of a table with a column `split`, such as "
        "`participants.tsv` of a BIDS tree.",
    )
    bids: ConfigPath | None = Field(
        None,
        description="BIDS tree. `channels`, `labels` and `roi` are then what files are called, "
        "their suffix with entities where these decide: "
        "`{bids: DIR, channels: {T1: T1w, T1c: ce-gd_T1w}, labels: label-lesion_mask}`. Default: "
        "the names of the model's channels.",
    )
    participants: tuple[Name, ...] = Field(
        (), description="Participants of the BIDS tree, such as `[sub-01, sub-02]`. Default: all."
    )
    channels: dict[Name, ListFile] | tuple[ListFile, ...] | None = Field(
        None,
        description="One list file per channel, by channel name (or in the model's order): a path "
        "per line, `-` where a case lacks the channel.",
    )
    labels: ListFile | None = Field(None, description="List file of the label volumes.")
    roi: ListFile | None = Field(
        None, description="List file of the masks of the region of interest."
    )
    weight_maps: tuple[ConfigPath, ...] | None = Field(
        None, description="List files of sampling weights, one per category of the sampling type."
    )
    names: ConfigPath | None = Field(
        None, description="List file with the name of every case, used for result files."
    )
    label_map: dict[int, Annotated[int, Field(ge=0)] | Literal["ignore"]] = Field(
        {},
        description="Labels in the files → labels of the model, such as `{4: 3, 255: ignore}`; "
        "voxels to `ignore` are unlabelled and enter no loss and no score.",
    )
    only: ConfigPath | None = Field(
        None,
        description="List file with the names of the cases that are used, one per line; all others "
        "are left out. Default: all.",
    )
    nan: Literal["refuse", "replace"] = Field(
        "refuse",
        description="Voxels that are NaN or infinite: refuse the case, or read them as 0 with a "
        "warning.",
    )
    trust_arrays: bool = Field(
        False,
        description="Use the voxels as they are where the files of one case disagree about their "
        "place in space.",
    )
    allow_missing_classes: bool = Field(
        False, description="Go on where a class of the model has no voxel in any of the cases."
    )

    @model_validator(mode="after")
    def _has_a_single_origin(self) -> CasesConfig:
        present = [
            key
            for key in ("table", "dataset", "bids", "channels")
            if getattr(self, key) is not None and not (key == "channels" and self.bids is not None)
        ]
        if len(present) != 1:
            raise invalid(
                "cases-source",
                got=" and ".join(present) if present else "no source of cases",
                expected="exactly one of table, dataset, bids, channels",
                fix="keep one of the four",
            )
        if self.dataset is not None and self.part == "validation":
            raise invalid(
                "cases-source",
                got="part: validation beside dataset",
                expected="training or test, the parts of a dataset folder",
                fix="list the cases to validate on in a table",
            )
        lists = [k for k in ("labels", "roi", "weight_maps", "names") if getattr(self, k)]
        if self.bids is not None:
            lists = [key for key in lists if key in ("weight_maps", "names")]
            if isinstance(self.channels, tuple):
                raise invalid(
                    "cases-source",
                    got="channels without names beside bids",
                    expected="what the file of each channel is called, such as {T1: T1w}",
                    fix="name the channels",
                )
        if self.participants and self.bids is None:
            raise invalid(
                "cases-source",
                got=f"participants beside {present[0]}",
                expected="participants only beside bids",
                fix="remove participants",
            )
        if (self.channels is None or self.bids is not None) and lists:
            raise invalid(
                "cases-source",
                got=f"{', '.join(lists)} beside {present[0]}",
                expected=f"{', '.join(lists)} only beside channels",
                fix=f"put these files into the {present[0]}, or list the channels one by one",
            )
        return self


class ZScore(Settings):
    """Every channel becomes (I - mean) / deviation of the voxels inside the ROI.

    The cut-offs choose the voxels that the mean and deviation are taken from; they clip nothing.
    """

    cutoff_percentiles: (
        tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] | None
    ) = Field(None, description="Only voxels between these percentiles of the ROI.")
    cutoff_deviations: (
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None
    ) = Field(
        None, description="Only voxels within so many deviations below and above the ROI's mean."
    )
    above_mean: bool = Field(
        False,
        description="Only voxels above the mean of the whole image: a rough foreground where "
        "there is no ROI.",
    )
    channels: tuple[Name, ...] | None = Field(
        None, description="Channels to normalise. Default: all."
    )


_SIDES = ("RL", "AP", "SI")  # of the patient


def _orientation(letters: str) -> str:
    sides = {pair for pair in _SIDES for letter in letters if letter in pair}
    if len(letters) != 3 or len(sides) != 3:
        raise invalid(
            "orientation-unknown",
            got=repr(letters),
            expected="three letters that say where X, Y, Z grow to: one of R and L, one of A and "
            "P, one of S and I, such as RAS",
            fix="correct the letters, or leave the key out",
        )
    return letters


class Preparation(Settings):
    """Preparation of a case before it is cut into segments; stored in the model."""

    clip: tuple[float, float] | None = Field(
        None,
        description="Lowest and highest intensity, such as `[-160, 240]` for CT: values beyond "
        "become these, in all channels, before the normalisation. Default: as they are.",
    )
    z_score: ZScore | Literal["none"] = Field(
        ZScore(), description="Intensity normalisation, or none."
    )
    resample: (
        Annotated[float, Field(gt=0, le=100)]
        | tuple[
            Annotated[float, Field(gt=0, le=100)],
            Annotated[float, Field(gt=0, le=100)],
            Annotated[float, Field(gt=0, le=100)],
        ]
        | None
    ) = Field(
        None,
        description="Voxel size in mm to which every case is resampled; results are written in "
        "the case's own space.",
    )
    roi: Literal["nonzero"] | None = Field(
        None,
        description="Region of interest of cases that list none: `nonzero` is where any channel is "
        "not 0, with its holes. Default: the whole image.",
    )
    orientation: Annotated[str, AfterValidator(_orientation)] | None = Field(
        None,
        description="Where X, Y, Z of all cases grow to, such as `RAS`: cases with other axes are "
        "turned, and results turned back. Default: the model's, or as in most training cases.",
    )
    nnunet: NnunetPreparation | None = Field(
        None,
        description="Crop, normalise and resample as nnU-Net does; with `z_score: none`. Models "
        "that come from nnU-Net have it.",
    )

    @model_validator(mode="after")
    def _is_of_a_single_kind(self) -> Preparation:
        if self.nnunet is not None and (self.z_score != "none" or self.roi is not None):
            raise invalid(
                "config-value",
                got="nnunet beside z_score or roi",
                expected="nnunet with z_score: none and without roi",
                fix="write z_score: none, and remove roi",
            )
        return self

    @model_serializer(mode="wrap")
    def _without_nnunet(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Other preparations are written as by earlier versions, which read them."""
        values: dict[str, Any] = dump(self)
        if values.get("nnunet", True) is None:
            del values["nnunet"]
        return values

    @property
    def summary(self) -> str:
        """The settings in a line, without those that are off.

        >>> Preparation(z_score=ZScore(channels=("T1", "FLAIR")), resample=2).summary
        'z_score (channels T1 FLAIR), resample 2 x 2 x 2 mm'
        >>> Preparation(z_score="none", orientation="LPS").summary
        'z_score none, orientation LPS'
        """
        if isinstance(self.z_score, ZScore):
            options = self.z_score.model_dump(exclude_defaults=True).items()
            text = ", ".join(f"{key} {_words(value)}" for key, value in options)
            z_score = f"z_score ({text})" if text else "z_score"
        else:
            z_score = f"z_score {self.z_score}"
        words = [z_score] if self.nnunet is None else [_words_of_nnunet(self.nnunet)]
        if self.clip is not None:
            words.insert(0, f"clip {self.clip[0]:g} to {self.clip[1]:g}")
        if self.spacing_mm is not None:
            words.append(f"resample {' x '.join(f'{mm:g}' for mm in self.spacing_mm)} mm")
        if self.roi is not None:
            words.append(f"roi {self.roi}")
        if self.orientation is not None:
            words.append(f"orientation {self.orientation}")
        return ", ".join(words)

    @model_validator(mode="after")
    def _clips_between(self) -> Preparation:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise invalid(
                "clip-order",
                got=f"clip from {self.clip[0]:g} to {self.clip[1]:g}",
                expected="the lowest intensity, then a higher one",
                fix="swap or change the two numbers",
            )
        return self

    def normalises(self, channel: str) -> bool:
        """The z-score is taken of this channel.

        >>> Preparation(z_score=ZScore(channels=("T1",))).normalises("FLAIR")
        False
        """
        z_score = self.z_score
        return z_score != "none" and (z_score.channels is None or channel in z_score.channels)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size after resampling along X, Y, Z; None where cases keep their own.

        >>> Preparation(resample=1.5).spacing_mm
        (1.5, 1.5, 1.5)
        """
        if self.resample is None or isinstance(self.resample, tuple):
            return self.resample
        return (self.resample,) * 3


def _words_of_nnunet(preparation: NnunetPreparation) -> str:
    words = [f"{rule.channel} {rule.scheme}" for rule in preparation.channels]
    return " ".join(["as nnU-Net:", *words]) if words else "as nnU-Net"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(_words(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
