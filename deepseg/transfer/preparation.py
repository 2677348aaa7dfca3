"""The preparation of a new model's cases: that of the cases its first layers learnt from.

Kernels that read the image have learnt from intensities and voxels of one kind. Wherever such a
layer is taken over, the preparation of the older model goes along, in the names of the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepseg.config.cases import Preparation, ZScore
from deepseg.config.model import ModelConfig
from deepseg.model.checkpoint import TrainingCohort
from deepseg.transfer.map_selection import MapSelection, channels
from deepseg.transfer.matching import Matching
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source


@dataclass(frozen=True)
class CarriedPreparation:
    """The record of the older model's cases as the new model keeps it.

    Attributes:
        preparation: None if no first layer is taken over, or the older model saw no cases.
        cohort: The cases, likewise.
    """

    preparation: Preparation | None = None
    cohort: TrainingCohort | None = None

    def record(self) -> dict[str, Any] | None:
        """The preparation as a file holds it."""
        return None if self.preparation is None else self.preparation.model_dump(mode="json")

    @property
    def notes(self) -> tuple[str, ...]:
        """A line that says so."""
        if self.preparation is None:
            return ()
        return (
            "cases are prepared as for the older model, whose first layers are taken over: "
            f"{self.preparation.summary}",
        )


def carried_preparation(
    source: Source, config: ModelConfig, matching: Matching, rules: TransferRules
) -> CarriedPreparation:
    """The record that goes along with the first layers of ``source``, if any of them is taken over.

    Args:
        source: The older model.
        config: Of the new model.
        matching: Which layer fills which.
        rules: What the user asks for; ``spacing_mm`` is the voxel size of the new model.
    """
    takes_first = any(
        match.source is not None and match.target.reads_image for match in matching.layers
    ) or any(not layer.below for layer in matching.imported_sources)
    if source.config is None or not takes_first:
        return CarriedPreparation()
    selection = channels(config.channels, source.config.channels, rules.channels)
    renamed = _Channels(source.config.channels, config.channels, selection)
    preparation, cohort = source.preparation, source.cohort
    if preparation is not None:
        preparation = _renamed(preparation, renamed)
        if preparation.resample is not None and rules.spacing_mm is not None:
            preparation = preparation.model_copy(update={"resample": rules.spacing_mm})
    if cohort is not None:
        missing = cohort.missing_channels
        reads_alike = config.channels == source.config.channels and not rules.channels
        cohort = replace(
            cohort,
            spacing_mm=cohort.spacing_mm if rules.spacing_mm is None else rules.spacing_mm,
            missing_channels=None if missing is None else renamed.read_any(missing),
            columns=cohort.columns if reads_alike else None,
        )
    return CarriedPreparation(preparation, cohort)


@dataclass(frozen=True)
class _Channels:
    """Channels of two models, and how those of the new one are made of those of the older one."""

    old: Sequence[str]
    new: Sequence[str]
    selection: MapSelection

    def read_any(self, names: Sequence[str]) -> tuple[str, ...]:
        """New channels that are made of any of ``names``."""
        return tuple(
            channel
            for channel, factors in zip(self.new, self.selection.maps, strict=True)
            if any(self.old[index] in names for index in factors or {})
        )


def _renamed(preparation: Preparation, names: _Channels) -> Preparation:
    """The preparation with z-scores for those channels that are made of ones with z-scores."""
    z_score = preparation.z_score
    if preparation.nnunet is not None:
        rules = preparation.nnunet.channels
        copies = tuple(
            rule.model_copy(update={"channel": new})
            for rule in rules
            for new in names.read_any([rule.channel])
        )
        nnunet = preparation.nnunet.model_copy(update={"channels": copies})
        return preparation.model_copy(update={"nnunet": nnunet})
    if not isinstance(z_score, ZScore) or z_score.channels is None:
        return preparation
    channels_ = names.read_any(z_score.channels)
    changed = z_score.model_copy(update={"channels": channels_}) if channels_ else "none"
    return preparation.model_copy(update={"z_score": changed})
