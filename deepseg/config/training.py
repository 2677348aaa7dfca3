"""What a train file says: cases, sampling, augmentation, loss, optimiser, schedule, validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.model import Count, Name, Settings
from deepseg.config.validation.validate import ConfigPath
from deepseg.config.validation.validator_error import invalid

NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
EpochNumber: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Metric: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
SamplingType: TypeAlias = Literal["foreground_background", "uniform", "whole_image", "per_class"]


class Sampling(Settings):
    """Around which voxels segments are cut."""

    type: SamplingType = Field(
        "per_class",
        description="foreground_background: half the segments around labelled voxels; uniform: "
        "anywhere in the ROI; whole_image: anywhere in the image, ROI or not; per_class: equally "
        "often around each class.",
    )
    proportions: tuple[NotNegative, ...] | None = Field(
        None,
        description="Share of each category: [foreground, background], or one per class. "
        "Default: equal.",
    )

    @model_validator(mode="after")
    def _proportions_fit(self) -> Sampling:
        if self.proportions is None:
            return self
        if self.type in ("uniform", "whole_image"):
            raise invalid(
                "proportions-unused",
                got=f"proportions for {self.type} sampling, which has one category",
                expected="proportions only for foreground_background and per_class",
                fix="remove proportions or change the type",
            )
        if sum(self.proportions) <= 0:
            raise invalid(
                "proportions-empty",
                got="proportions that are all 0",
                expected="at least one above 0",
                fix="give the categories you want a share above 0",
            )
        if self.type == "foreground_background" and len(self.proportions) != 2:
            raise invalid(
                "list-length",
                got=f"{len(self.proportions)} proportions",
                expected="2: foreground, background",
                fix="give two numbers",
            )
        return self


class Gaussian(Settings):
    """A normally distributed number."""

    mean: float = Field(description="Mean.")
    deviation: NotNegative = Field(description="Standard deviation; 0 always gives the mean.")


class IntensityAugmentation(Settings):
    """I becomes (I + shift) * scale, drawn per segment and channel, the same in all pathways."""

    shift: Gaussian = Field(Gaussian(mean=0, deviation=0), description="Added first.")
    scale: Gaussian = Field(Gaussian(mean=1, deviation=0), description="Multiplied then.")


Turns: TypeAlias = tuple[NotNegative, NotNegative, NotNegative, NotNegative]


class Rotate90Augmentation(Settings):
    """Rotation by multiples of 90 degrees in each plane, from its first towards its second axis.

    Four weights per plane: for 0, 90, 180 and 270 degrees.
    """

    xy: Turns = Field((1, 0, 0, 0), description="In the plane of X and Y.")
    yz: Turns = Field((1, 0, 0, 0), description="In the plane of Y and Z.")
    xz: Turns = Field((1, 0, 0, 0), description="In the plane of X and Z.")


class AffineAugmentation(Settings):
    """A random rotation and scaling about the middle of the segment."""

    probability: Share = Field(0.5, description="Share of segments that are transformed.")
    max_rotation: tuple[NotNegative, NotNegative, NotNegative] = Field(
        (45.0, 45.0, 45.0), description="Largest angle in degrees about the axes X, Y, Z."
    )
    max_scaling: Fraction = Field(0.1, description="0.1 scales by 0.9 to 1.1.")


class ElasticAugmentation(Settings):
    """A random smooth displacement."""

    probability: Share = Field(0.5, description="Share of segments that are transformed.")
    grid: Positive = Field(12.0, description="Voxels between the points that are displaced.")
    displacement: NotNegative = Field(2.0, description="Standard deviation in voxels.")


class Augmentation(Settings):
    """Random changes of training segments; what is left out is off."""

    intensity: IntensityAugmentation | None = Field(None, description="Shift and scale.")
    reflect: tuple[Share, Share, Share] = Field(
        (0.0, 0.0, 0.0), description="Probability of a mirror image along X, Y, Z."
    )
    rotate90: Rotate90Augmentation | None = Field(None, description="Quarter turns.")
    affine: AffineAugmentation | None = Field(None, description="Rotation and scaling.")
    elastic: ElasticAugmentation | None = Field(None, description="Smooth deformation.")


class TrainingPart(Settings):
    """What the network learns from."""

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


class SavedResults(Settings):
    """What is written for every case."""

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
        "and of the one behind the last, such as `{normal.3: [0, 4], sub*.1: all}`.",
    )
    uncertainty: tuple[Literal["entropy", "variance"], ...] = Field(
        (),
        description="Maps of doubt: entropy of the class probabilities, from 0 to 1; variance "
        "between the answers of several models and mirror images.",
    )
    pictures: bool = Field(True, description="A picture of three slices of the result.")
    segmentation_suffix: Name = Field("Segm", description="Ends the name of a segmentation file.")
    probability_suffix: Name = Field(
        "ProbMapClass", description="Ends the name of a probability map, before its class number."
    )


class VolumeValidation(Settings):
    """Validation by segmenting whole cases."""

    every: Count = Field(5, description="Epochs from one to the next.")
    batch_size: Count = Field(10, description="Tiles computed together.")
    save: SavedResults = Field(
        SavedResults(segmentation=False, pictures=False), description="What is written each time."
    )


class ValidationPart(Settings):
    """How progress is judged, on cases that are never trained on."""

    cases: CasesConfig = Field(description="The labelled cases.")
    samples: SampleValidation | None = Field(
        SampleValidation(), description="On random segments; null for none."
    )
    volumes: VolumeValidation | None = Field(
        VolumeValidation(), description="On whole cases; null for none."
    )


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
    """What training makes small: a weighted sum, each part 0 to leave it out."""

    cross_entropy: NotNegative = Field(1.0, description="Weight of the cross-entropy.")
    dice: NotNegative = Field(0.0, description="Weight of 1 - mean soft Dice of all classes.")
    iou: NotNegative = Field(
        0.0, description="Weight of 1 - mean soft intersection over union of all classes."
    )
    class_weights: ClassWeights | None = Field(None, description="For the cross-entropy.")
    l1: NotNegative = Field(1e-6, description="Times the sum of absolute kernel weights.")
    l2: NotNegative = Field(1e-4, description="Times the sum of squared kernel weights.")
    l2_sp: NotNegative = Field(
        0.0,
        description="Times the sum of squared differences from the weights that the session began "
        "with, of kernels that were not random there; l2 then acts on the other kernels only.",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Loss:
        if self.cross_entropy == self.dice == self.iou == 0:
            raise invalid(
                "loss-empty",
                got="weight 0 for cross_entropy, dice and iou",
                expected="at least one above 0",
                fix="give one of them a weight, such as cross_entropy: 1",
            )
        return self


WeightType: TypeAlias = Literal["Conv", "BatchNorm", "PReLU", "Bias"]
_BY_TYPE = (
    "Settings of their own for weights of a type: Conv, BatchNorm, PReLU, Bias; such as "
    "`{BatchNorm: {weight_decay: 0}}`. What is left out is as for all."
)
_BY_LAYER = (
    "Settings of their own for layers, such as `{head: {learning_rate: 0.1}, sub1.*: {…}}`; they "
    "win over those of a type, later ones over earlier ones."
)


class Rates(Settings):
    """What is different for some of the weights."""

    learning_rate: Positive | None = Field(
        None, description="Initial learning rate; the schedule changes it as it changes the others."
    )
    weight_decay: NotNegative | None = Field(
        None, description="Share of the weights taken off per step, times the learning rate."
    )


class RatesWithMomentum(Rates):
    """What is different for some of the weights, where there is momentum."""

    momentum: Share | None = Field(
        None, description="Share of the last step kept in the next; it stays as it is."
    )


class WithMomentum(Settings):
    """What SGD and RMSprop share."""

    learning_rate: Positive = Field(1e-3, description="Initial learning rate.")
    weight_decay: NotNegative = Field(
        0.0, description="Share of the weights taken off per step, times the learning rate."
    )
    by_type: dict[WeightType, RatesWithMomentum] = Field({}, description=_BY_TYPE)
    by_layer: dict[Name, RatesWithMomentum] = Field({}, description=_BY_LAYER)
    momentum: Share = Field(0.6, description="Share of the last step kept in the next.")
    nesterov: bool = Field(True, description="Look ahead along the momentum.")
    normalised_momentum: bool = Field(
        False, description="Multiply steps by 1 - momentum, so that momentum keeps their size."
    )


class Rmsprop(WithMomentum):
    """RMSprop as DeepMedic defines it."""

    name: Literal["rmsprop"] = "rmsprop"
    rho: Fraction = Field(0.9, description="Memory of squared gradients.")
    epsilon: Positive = Field(1e-4, description="Added under the root.")


class Sgd(WithMomentum):
    """Gradient descent as DeepMedic defines it."""

    name: Literal["sgd"]


class Adam(Settings):
    """Adam in the form with a fixed epsilon; doi:10.48550/arXiv.1412.6980, end of section 2."""

    name: Literal["adam"]
    learning_rate: Positive = Field(1e-3, description="Initial learning rate.")
    weight_decay: NotNegative = Field(
        0.0, description="Share of the weights taken off per step, times the learning rate."
    )
    by_type: dict[WeightType, Rates] = Field({}, description=_BY_TYPE)
    by_layer: dict[Name, Rates] = Field({}, description=_BY_LAYER)
    beta1: Fraction = Field(0.9, description="Memory of gradients.")
    beta2: Fraction = Field(0.999, description="Memory of squared gradients.")
    epsilon: Positive = Field(1e-8, description="Added to the root.")


class AdamW(Settings):
    """Adam with decoupled weight decay; doi:10.48550/arXiv.1711.05101."""

    name: Literal["adamw"]
    learning_rate: Positive = Field(1e-3, description="Initial learning rate.")
    beta1: Fraction = Field(0.9, description="Memory of gradients.")
    beta2: Fraction = Field(0.999, description="Memory of squared gradients.")
    epsilon: Positive = Field(1e-8, description="Added to the root.")
    weight_decay: NotNegative = Field(
        0.01, description="Share of the weights taken off per step, times the learning rate."
    )
    by_type: dict[WeightType, Rates] = Field({}, description=_BY_TYPE)
    by_layer: dict[Name, Rates] = Field({}, description=_BY_LAYER)


Optimiser: TypeAlias = Annotated[Rmsprop | Sgd | Adam | AdamW, Field(discriminator="name")]


class Constant(Settings):
    """The learning rate stays."""

    type: Literal["constant"]


class Predefined(Settings):
    """The learning rate falls behind given epochs."""

    type: Literal["predefined"]
    epochs: tuple[EpochNumber, ...] = Field(
        description="Epochs, counted from 0, after which the learning rate is divided."
    )
    divide_by: Positive = Field(2.0, description="Divisor.")


class Poly(Settings):
    """lr (1 - x)^power, x from 0 after `wait` epochs to 1 after the last."""

    type: Literal["poly"] = "poly"
    wait: NotNegative | None = Field(
        None, description="Epochs at the initial rate. Default: a third of all."
    )
    power: Positive = Field(0.9, description="Exponent.")


class Exponential(Settings):
    """The learning rate falls by the same factor every epoch; momentum moves linearly."""

    type: Literal["exponential"]
    wait: NotNegative | None = Field(
        None, description="Epochs at the initial rate. Default: a third of all."
    )
    final_learning_rate: Positive | None = Field(
        None, description="Learning rate after the last epoch. Default: 1/256 of the initial one."
    )
    final_momentum: Share | None = Field(
        None, description="Momentum after the last epoch. Default: unchanged."
    )


class Plateau(Settings):
    """The learning rate falls when validation stops getting better."""

    type: Literal["plateau"]
    patience: Count = Field(5, description="Epochs without improvement to wait.")
    divide_by: Positive = Field(2.0, description="Divisor.")
    min_improvement: NotNegative = Field(0.0, description="Smaller gains do not count.")
    min_learning_rate: NotNegative = Field(0.0, description="Never falls below this.")


class Cosine(Settings):
    """Half a cosine from the initial rate to the final one; doi:10.48550/arXiv.1608.03983."""

    type: Literal["cosine"]
    wait: NotNegative = Field(0.0, description="Epochs at the initial rate.")
    final_learning_rate: NotNegative = Field(0.0, description="Rate after the last epoch.")


Schedule: TypeAlias = Annotated[
    Constant | Predefined | Poly | Exponential | Plateau | Cosine, Field(discriminator="type")
]


Precision: TypeAlias = Literal["float32", "bfloat16"]


class Steps(Settings):
    """How gradients become steps."""

    accumulate: Count = Field(
        1,
        description="Batches whose gradients are averaged for one step. As if batches were larger, "
        "but each is normalised by its own statistics.",
    )
    clip_norm: Positive | None = Field(
        None,
        description="Longer gradients, of all weights together, are shortened to this length. "
        "Default: none are.",
    )
    warm_up: NotNegative = Field(
        0.0,
        description="Epochs in which the learning rate rises to that of the schedule, by the same "
        "amount every sub-epoch.",
    )
    average: Fraction | None = Field(
        None,
        description="Memory of a moving average of the weights, such as 0.999; the average is what "
        "is validated and saved. Default: none.",
    )


class Checkpoints(Settings):
    """Model files kept beside `last.save` and `best.save`."""

    every: Count | None = Field(None, description="Keep also the file of every N-th epoch.")
    name: Name = Field(
        "epoch-{epoch:04d}",
        description="Name of these files: {epoch} counts from 1, {score} is what `best` is chosen "
        "by, such as `{epoch:03d}-{score:.3f}`.",
    )
    seconds: NotNegative = Field(
        60.0,
        description="After so many seconds, the end of a sub-epoch is kept too: in `running.save`, "
        "from which the session goes on if it is stopped in the middle of an epoch.",
    )
    best: Metric | None = Field(
        None,
        description="What `best.save` is chosen by, named as in metrics.jsonl, such as "
        "`validation_volumes/dice/lesion` or `validation_samples/loss`. Default: `dice/mean` of "
        "volumes, or of samples if no volumes are validated.",
    )

    @model_validator(mode="after")
    def _names_files(self) -> Checkpoints:
        try:
            names = {self.name.format(epoch=epoch, score=0.5) for epoch in (1, 2)}
        except (LookupError, ValueError, AttributeError):
            names = set()
        if len(names) != 2:
            raise invalid(
                "checkpoint-name",
                got=f"the name {self.name!r}",
                expected="a file name with {epoch}, and perhaps {score}",
                fix="write it as in {epoch:03d}-{score:.3f}",
            )
        return self


class EarlyStopping(Settings):
    """Training ends when it has stopped getting better."""

    patience: Count = Field(10, description="Scores in a row without improvement.")
    min_improvement: NotNegative = Field(0.0, description="Smaller gains do not count.")
    metric: Metric | None = Field(None, description="Default: that of `best.save`.")


class StopAt(Settings):
    """Training ends when it is good enough."""

    metric: Metric = Field(description="Named as in metrics.jsonl.")
    value: float = Field(description="To be reached; losses and distances from above.")


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
    until_epoch: Count | None = Field(
        None, description="Epochs for which this holds; later these layers learn. Default: all."
    )
    batch_norm: Literal["frozen", "statistics", "train"] = Field(
        "frozen",
        description="Batch normalisation of frozen layers: frozen, its statistics fixed and used; "
        "statistics, those of the batch, and gathered on (as DeepMedic does); train, its weights "
        "learn too.",
    )
    dropout: bool = Field(False, description="Whether frozen layers drop voxels in training.")

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
    training: TrainingPart = Field(description="What the network learns from.")
    validation: ValidationPart | None = Field(None, description="How progress is judged.")
    preparation: Preparation = Field(
        Preparation(), description="What happens to a case before it is cut into segments."
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
        "Weights, statistics, loss and optimiser stay in float32.",
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
    workers: Annotated[int, Field(ge=0, le=64, strict=True)] = Field(
        1, description="Processes that cut segments while the network computes."
    )
    cache: ConfigPath | None = Field(
        None, description="Folder for prepared cases. Default: `cache` in the session's folder."
    )
    tensorboard: bool = Field(False, description="Also write TensorBoard event files.")

    @property
    def folder(self) -> Path:
        """The session's own folder."""
        return self.output / self.name

    @model_validator(mode="after")
    def _has_scores(self) -> TrainConfig:
        own = None if self.early_stopping is None else self.early_stopping.metric
        if self.early_stopping is not None and own is None and self.validation is None:
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
