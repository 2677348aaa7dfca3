"""Keys of a train file: cases, sampling, loss, optimiser, schedule, validation, and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.checkpoints import Checkpoints, EarlyStopping, StopAt
from deepseg.config.blocks.freezing import Freeze, FreezeBlocks
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Optimiser, Rmsprop, Steps
from deepseg.config.blocks.sampling import Sampling
from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.blocks.schedules import Cosine, Exponential, Plateau, Poly, Schedule
from deepseg.config.cases import AcceptedDifference, CasesConfig, Preparation
from deepseg.config.settings import ConfigPath, Count, Name, Precision, Settings
from deepseg.config.validation.validator_error import invalid


class TrainingSettings(Settings):
    """Cases and segments that the network learns from."""

    cases: CasesConfig = Field(description="The labelled cases.")
    sampling: Sampling = Field(Sampling(), description="Around which voxels segments are cut.")
    cases_per_subepoch: Count = Field(50, description="Random cases that one sub-epoch draws from.")
    segments_per_subepoch: Count = Field(1000, description="Segments of one sub-epoch.")
    batch_size: Count = Field(10, description="Segments of one step.")
    augmentation: Augmentation = Field(Augmentation(), description="Random changes.")


class SampleValidation(Settings):
    """Validation on random segments after every epoch, the same ones each time."""

    sampling: Sampling = Field(Sampling(type="uniform"), description="As in training.")
    cases: Count = Field(50, description="Random cases that the segments are drawn from.")
    segments: Count = Field(1000, description="Segments in all.")
    batch_size: Count = Field(50, description="Segments computed together.")


class VolumeValidation(Settings):
    """Validation by segmenting whole cases."""

    every: Count = Field(5, description="Epochs from one to the next.")
    batch_size: Count = Field(10, description="Tiles computed together.")
    save: SavedResults = Field(
        SavedResults(segmentation=False, pictures=False), description="What is written each time."
    )
    metrics: tuple[Name, ...] = Field(
        (),
        description="Metrics that a Python program has registered with `deepseg.register_metric`, "
        "measured beside the Dice.",
    )


class ValidationSettings(Settings):
    """Judgement of progress, on cases that are never trained on."""

    cases: CasesConfig = Field(description="The labelled cases.")
    samples: SampleValidation | None = Field(
        SampleValidation(), description="On random segments; null for none."
    )
    volumes: VolumeValidation | None = Field(
        VolumeValidation(), description="On whole cases; null for none."
    )


class TrainConfig(Settings):
    """A training session."""

    name: Name = Field("train", description="Name of the session and of its folder.")
    output: ConfigPath = Field(description="Folder that holds the session's folder.")
    model: ConfigPath | None = Field(
        None, description="A `.save`, or a model file from which a new model is made."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = Field(
        0, description="All randomness of the session follows from it."
    )
    training: TrainingSettings = Field(description="What the network learns from.")
    validation: ValidationSettings | None = Field(None, description="How progress is judged.")
    preparation: Preparation = Field(
        Preparation(), description="What happens to a case before it is cut into segments."
    )
    accept: tuple[AcceptedDifference, ...] = Field(
        (),
        description="Differences from the cases that the model has learnt from that are accepted: "
        "`preparation`; `roi`, cases without one; `channels`, cases that lack one.",
    )
    folds: Annotated[int, Field(ge=2, le=100, strict=True)] | None = Field(
        None,
        description="Cross-validation: the training cases are split into so many folds, and each "
        "is held out once from a model that is trained on the others, and segmented by it. "
        "Default: one model for all.",
    )
    epochs: Count = Field(35, description="Epochs in all, those of a continued session included.")
    subepochs: Count = Field(20, description="Sub-epochs of an epoch.")
    loss: Loss = Field(Loss(), description="What training makes small.")
    optimiser: Optimiser = Field(Rmsprop(), description="How weights follow the gradients.")
    schedule: Schedule = Field(Poly(), description="Learning rate over the epochs.")
    steps: Steps = Field(Steps(), description="How gradients become steps.")
    precision: Precision = Field(
        "float32",
        description="Of the arithmetic in steps; `bfloat16` is quicker where the processor has it. "
        "Weights, statistics, loss and optimiser stay in float32. `tf32` is `float32` but for "
        "products on GPUs, whose factors are rounded to 10 bits.",
    )
    freeze: FreezeBlocks = Field(
        Freeze(), description="Layers that are not trained; a list of blocks unfreezes in steps."
    )
    checkpoints: Checkpoints = Field(Checkpoints(), description="Which model files are kept.")
    early_stopping: EarlyStopping | None = Field(
        None, description="End when nothing gets better any more. Default: never."
    )
    stop_at: StopAt | None = Field(
        None, description="End when a metric reaches a value. Default: never."
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=64, strict=True)] = Field(
        "auto",
        description="Processes that cut segments while the network computes. `auto`: one beside a "
        "processor; beside a GPU, a core each of those that are left to its rank, eight at most.",
    )
    deterministic: bool = Field(
        False,
        description="On GPUs, equal bits in every run, for some of the speed; processors give them "
        "anyway.",
    )
    cache: ConfigPath | None = Field(
        None, description="Folder for prepared cases. Default: `cache` in the session's folder."
    )
    tensorboard: bool = Field(False, description="Also write TensorBoard event files.")
    report: bool = Field(
        True,
        description="Write `report.html` at the end, one page with curves, cases, settings and "
        "weights.",
    )

    @property
    def folder(self) -> Path:
        """Folder of the session."""
        return self.output / self.name

    @model_validator(mode="after")
    def _has_scores(self) -> TrainConfig:
        stopping = self.early_stopping
        if stopping is not None and stopping.metric is None and self.validation is None:
            raise invalid(
                "stopping-needs-validation",
                got="early_stopping without validation",
                expected="validation cases, or a metric of training",
                fix="add validation, or early_stopping.metric: training/loss",
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> TrainConfig:
        if isinstance(self.schedule, Plateau) and self.validation is None:
            raise invalid(
                "schedule-needs-validation",
                got="schedule plateau without validation",
                expected="validation cases to judge progress by",
                fix="add validation, or choose another schedule",
            )
        schedule = self.schedule
        wait = schedule.wait if isinstance(schedule, (Poly, Exponential, Cosine)) else None
        if wait is not None and wait >= self.epochs:
            raise invalid(
                "schedule-wait",
                got=f"wait of {wait:g} epochs of {self.epochs}",
                expected="fewer than epochs",
                fix="lower schedule.wait or raise epochs",
            )
        if self.training.batch_size > self.training.segments_per_subepoch:
            raise invalid(
                "batch-too-large",
                got=f"batch_size {self.training.batch_size} of "
                f"{self.training.segments_per_subepoch} segments_per_subepoch",
                expected="at least one whole batch in a sub-epoch",
                fix="lower training.batch_size or raise training.segments_per_subepoch",
            )
        return self
