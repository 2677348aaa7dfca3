"""Layers that keep their weights, for good or for some epochs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from deepseg.config.settings import Count, Name, Settings
from deepseg.config.validation.validator_error import invalid


class Freeze(Settings):
    """Layers that keep their weights and batch-norm statistics, for good or for some epochs.

    Of several blocks that name a layer, the first that still holds decides.
    """

    layers: tuple[Name, ...] = Field(
        (),
        description="Addresses and ranges, such as `normal.1-3`, `sub1.2`, `fc.1`; `sub*.1` is "
        "the first layer of every subsampled pathway.",
    )
    stop_gradient: Name | tuple[Name, ...] = Field(
        (),
        description="Layers that learn while everything below them is frozen: `normal.4` freezes "
        "normal.1-3, `fc.1` all parallel pathways.",
    )
    tune: Annotated[str, Field(pattern=r"^(head|all|last:[1-9]\d{0,3})$")] = Field(
        "all",
        description="Short for the layers that learn: `head`, the FC pathway, or the network's own "
        "classifier; `last:2`, the last two convolutions of every other pathway too; `all`.",
    )
    until_epoch: Count | None = Field(
        None, description="Epochs for which this holds; later these layers learn. Default: all."
    )
    batch_norm: Literal["frozen", "statistics", "train"] = Field(
        "frozen",
        description="Batch normalisation of frozen layers: frozen, its statistics fixed and used; "
        "statistics, those of the batch, and still updated (as DeepMedic does); train, its weights "
        "learn too.",
    )
    dropout: bool = Field(False, description="Frozen layers drop voxels in training, too.")

    @model_validator(mode="after")
    def _stops_all_gradients(self) -> Freeze:
        if self.stop_gradient and self.batch_norm == "train":
            raise invalid(
                "freeze-contradiction",
                got="stop_gradient with batch_norm: train",
                expected="no layer below stop_gradient that learns",
                fix="remove one of the two, or put them into blocks of their own",
            )
        return self


FreezeBlocks: TypeAlias = Freeze | tuple[Freeze, ...]
