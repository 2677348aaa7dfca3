"""The loss of a training session, and the weights of the classes in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from deepseg.config.settings import EpochNumber, Name, NotNegative, Settings
from deepseg.config.validation.validator_error import invalid


class ClassWeights(Settings):
    """Weights of the classes in the cross-entropy, fading to 1 over some epochs."""

    type: Literal["frequency", "given"] = Field(
        description="frequency: by the share of each class in the batch; given: as in weights."
    )
    weights: tuple[NotNegative, ...] | None = Field(
        None, description="One per class, for type given."
    )
    fade: tuple[EpochNumber, EpochNumber] | None = Field(
        None,
        description="Epochs between which the weights go linearly to 1. Default: from the first "
        "to the last.",
    )

    @model_validator(mode="after")
    def _fits(self) -> ClassWeights:
        if (self.type == "given") != (self.weights is not None):
            raise invalid(
                "class-weights",
                got=f"type {self.type} {'with' if self.weights else 'without'} weights",
                expected="weights with type given, and only there",
                fix="add or remove weights",
            )
        if self.fade is not None and self.fade[0] >= self.fade[1]:
            raise invalid(
                "class-weights",
                got=f"fade from epoch {self.fade[0]} to {self.fade[1]}",
                expected="a first epoch before the last",
                fix="swap or change the two numbers",
            )
        return self


class Loss(Settings):
    """Loss that training makes small: a weighted sum, in which a weight of 0 leaves a term out."""

    cross_entropy: NotNegative = Field(1.0, description="Weight of the cross-entropy.")
    dice: NotNegative = Field(0.0, description="Weight of 1 - mean soft Dice of all classes.")
    iou: NotNegative = Field(
        0.0, description="Weight of 1 - mean soft intersection over union of all classes."
    )
    focal: NotNegative = Field(
        0.0,
        description="Weight of the focal loss: the cross-entropy of each voxel times (1 - p)^power "
        "of the probability p of its class; doi:10.1109/ICCV.2017.324.",
    )
    focal_power: NotNegative = Field(2.0, description="Power of the focal loss.")
    custom: dict[Name, NotNegative] = Field(
        {},
        description="Weights of losses that a Python program has registered with "
        "`deepseg.register_loss`, such as `{tversky: 0.5}`.",
    )
    class_weights: ClassWeights | None = Field(
        None, description="For the cross-entropy and the focal loss."
    )
    deep_supervision: bool | tuple[NotNegative, ...] = Field(
        False,
        description="Scores of all levels of a U-Net count in training, each half as much as those "
        "of the level above; or the weights of the levels below the finest, such as [0.5, 0.25]. "
        "Weights are divided by their sum, the finest level's 1 included.",
    )
    l1: NotNegative = Field(1e-6, description="Times the sum of absolute kernel weights.")
    l2: NotNegative = Field(1e-4, description="Times the sum of squared kernel weights.")
    l2_sp: NotNegative = Field(
        0.0,
        description="Times the sum of squared differences from the weights that the session began "
        "with, of kernels that were not random there; l2 then acts on the other kernels only.",
    )

    def weights_of_levels(self, count: int) -> tuple[float, ...]:
        """Weights of the levels below the finest of ``count`` in all, finer first.

        >>> Loss(deep_supervision=True).weights_of_levels(3)
        (0.5, 0.25)
        """
        match self.deep_supervision:
            case True:
                return tuple(0.5**n for n in range(1, count))
            case False:
                return ()
            case weights:
                return weights

    @model_validator(mode="after")
    def _has_a_data_term(self) -> Loss:
        weights = (self.cross_entropy, self.dice, self.iou, self.focal, *self.custom.values())
        if not any(weights):
            raise invalid(
                "loss-empty",
                got="weight 0 for cross_entropy, dice, iou and focal",
                expected="at least one above 0",
                fix="give one of them a weight, such as cross_entropy: 1",
            )
        return self
