"""Settings of a session that must fit the model: judged together, before anything begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.cases import Preparation, ZScore
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.counts import counted
from deepseg.data.images.dicom.segmentation_object import missing_extra
from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.inference.cohort_differences import (
    Comparison,
    applied_preparation,
    preparation_differs,
    preparation_problems,
)
from deepseg.inference.metric_registry import unregistered_metrics
from deepseg.inference.metrics import FOREGROUND
from deepseg.inference.requests import (
    class_problems,
    component_problems,
    layer_problems,
    mirrored_axes,
    overlap_problems,
    tile_problems,
    tiling_problems,
    variance_problems,
)
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import layout
from deepseg.sessions.cohort import inherited_preparation
from deepseg.training.batch_statistics import single_value_problems
from deepseg.training.freezing import frozen_layers
from deepseg.training.loss_registry import unknown_losses
from deepseg.training.model_selection import metric_incompatibilities
from deepseg.training.parameter_groups import absent_types
from deepseg.training.weight_rules import frozen_problems

SIDES = {"left": "right", "l": "r", "lh": "rh", "lt": "rt"}
SIDES |= {right: left for left, right in SIDES.items()}


def training_incompatibilities(config: TrainConfig, checkpoint: Checkpoint) -> Iterator[Problem]:
    """Settings of a train file that do not fit the model."""
    model = checkpoint.config
    sampling, weights = config.training.sampling, config.loss.class_weights
    per_class = {
        "training.sampling.proportions": sampling.proportions
        if sampling.type == "per_class"
        else None,
        "loss.class_weights.weights": None if weights is None else weights.weights,
    }
    for key, values in per_class.items():
        if values is not None and len(values) != len(model.classes):
            yield Problem(
                code="list-length",
                got=f"{counted(len(values), 'entry', 'entries')} in {key}",
                expected=f"{len(model.classes)}, one per class: {', '.join(model.classes)}",
                fix="give one entry per class of the model, the background first",
            )
    yield from _supervision_problems(config, model)
    yield from _channel_problems(config.preparation, model)
    yield from _training_preparation_problems(config, checkpoint)
    plan = layout(model)
    freeze_problems = list(_problems(lambda: frozen_layers(plan, config.freeze, epoch=0)))
    yield from freeze_problems
    rule_problems = list(_problems(lambda: plan.addresses(config.optimiser.by_layer)))
    yield from rule_problems
    yield from absent_types(plan, config.optimiser)
    if not freeze_problems and not rule_problems:
        yield from frozen_problems(list(checkpoint.weights), plan, config)
    if not freeze_problems:
        yield from single_value_problems(config, model)
    yield from metric_incompatibilities(config, model)
    yield from unknown_losses(config.loss.custom)
    if config.validation is not None and config.validation.volumes is not None:
        metrics = config.validation.volumes.metrics
        yield from unregistered_metrics(metrics, key="validation.volumes.metrics")
        save, key = config.validation.volumes.save, "validation.volumes.save"
        yield from _saving_problems(save, model)
        if save.dicom_seg:
            yield Problem(
                code="config-value",
                got=f"{key}.dicom_seg in a train file",
                expected="DICOM-SEG of tests only",
                fix="remove it, and write it in a test file",
            )
        yield from variance_problems(
            save.uncertainty, key=f"{key}.uncertainty", fix="ask for entropy only"
        )


def _supervision_problems(config: TrainConfig, model: ModelConfig) -> Iterator[Problem]:
    """Deep supervision of a model that has no scores of coarser levels, or of other ones."""
    weights = config.loss.deep_supervision
    if not weights:
        return
    levels = 0 if model.unet is None else len(model.unet.content.auxiliary)
    if not levels:
        yield Problem(
            code="deep-supervision",
            got="loss.deep_supervision for a model without scores of coarser levels",
            expected="a U-Net of three levels or more",
            fix="remove it, or give the model a block unet",
        )
    elif isinstance(weights, tuple) and len(weights) != levels:
        yield Problem(
            code="deep-supervision",
            got=f"{counted(len(weights), 'weight')} in loss.deep_supervision",
            expected=f"{levels}, one for each level below the finest that has scores",
            fix="give one for each, or deep_supervision: true",
        )


def training_warnings(config: TrainConfig) -> Iterator[str]:
    """Settings of a train file that are allowed and hardly meant."""
    blocks = (config.freeze,) if isinstance(config.freeze, Freeze) else config.freeze
    for block in blocks:
        if block.until_epoch is not None and block.until_epoch >= config.epochs:
            yield (
                f"freeze.until_epoch {block.until_epoch} is not before the last of {config.epochs} "
                "epochs: these layers stay frozen to the end; lower it, or leave it out"
            )


def testing_incompatibilities(
    config: TestConfig, models: Sequence[Checkpoint]
) -> Iterator[Problem]:
    """Settings of a test file that do not fit the models, which have the same classes."""
    model = models[0].config
    yield from _saving_problems(config.save, model)
    for checkpoint in models:
        yield from tile_problems(config.tile_size, checkpoint.config)
        yield from overlap_problems(config.inference, checkpoint.config, str(checkpoint.origin))
        yield from tiling_problems(config.inference, checkpoint.config, str(checkpoint.origin))
        yield from preparation_problems(
            config.preparation,
            checkpoint.preparation,
            config.inference.accept,
            model=str(checkpoint.origin),
            fix="remove preparation from the test file, for the model applies its own; or accept "
            "the difference with 'inference.accept: [preparation]'",
        )
    if len(models) == 1 and not mirrored_axes(config.inference, models[0].config):
        fix = "give several models or inference.mirror, or ask for entropy only"
        yield from variance_problems(config.save.uncertainty, key="save.uncertainty", fix=fix)
    yield from unregistered_metrics(config.metrics, key="metrics")
    if config.save.dicom_seg:
        yield from missing_extra("save.dicom_seg")
    yield from component_problems(config.postprocess, model.classes)
    last = len(model.classes) - 1
    for name, labels in config.groups.items():
        if max(labels) > last:
            yield Problem(
                code="class-unknown",
                got=f"labels {list(labels)} in group {name!r}",
                expected=f"labels from 1 to {last}",
                fix="name labels of the model",
            )
    for name in sorted({FOREGROUND, *model.classes} & config.groups.keys()):
        yield Problem(
            code="name-twice",
            got=f"group {name!r}, which is also a class",
            expected=f"names that differ from those of the classes and from {FOREGROUND}",
            fix="rename the group",
        )


def untrained_problems(models: Sequence[Checkpoint]) -> Iterator[Problem]:
    """Model files without weights, of which a test would make random networks."""
    for model in models:
        if model.origin.is_new and model.is_random:
            file = str(model.origin.file)
            yield Problem(
                code="model-untrained",
                got="a model file without weights, which makes a random network",
                expected="weights that have learnt",
                fix="give the .save of a training session, or its weights with -load; to see what "
                f"a random network does, build it first: -newModel {file} -out RANDOM.save",
                where=file,
            )


def preparation_for(config: TestConfig, model: Checkpoint) -> Preparation:
    """Preparation of cases: the model's; the test file decides only where the model has none."""
    preparation = applied_preparation(
        config.preparation, model.preparation, config.inference.accept
    )
    return Preparation(z_score="none") if preparation is None else preparation


def testing_comparison(config: TestConfig, model: Checkpoint) -> Comparison:
    """Compares cases of a test with those that the model has learnt from."""
    return Comparison(
        model=str(model.origin),
        cohort=model.cohort,
        preparation=preparation_for(config, model),
        accepted=config.inference.accept,
    )


def mirrored_sides(
    mirrored: Sequence[float], key: str, classes: Sequence[str], orientation: str | None
) -> Iterator[str]:
    """A warning about mirror images along left and right, where classes are sides.

    Args:
        mirrored: Above 0 along those of X, Y, Z that are mirrored.
        key: That asks for it.
        classes: Names of the classes.
        orientation: Where X, Y, Z grow to; None if that is unknown.

    >>> list(mirrored_sides((0.5, 0, 0), "reflect", ("background", "left", "right"), "ARS"))
    []
    >>> list(mirrored_sides((0, 1, 0), "reflect", ("air", "left", "right"), "ARS"))
    ['reflect mirrors y, from side to side, but left and right are on one side each: leave y out']
    """
    names = {name.lower() for name in classes}
    sides = [name for name in classes if _other_side(name) in names]
    for axis, share, letter in zip("xyz", mirrored, orientation or "RAS", strict=True):
        if sides and share > 0 and letter in "LR":
            yield (
                f"{key} mirrors {axis}, from side to side, but {' and '.join(sides)} are on one "
                f"side each: leave {axis} out"
            )


def _other_side(name: str) -> str | None:
    """``right_kidney`` for ``left_kidney``; None for a name without a side."""
    words = re.split(r"([^a-z]+)", name.lower())
    sides = [SIDES[word] for word in words if word in SIDES]
    return "".join(SIDES.get(word, word) for word in words) if sides else None


def _training_preparation_problems(config: TrainConfig, model: Checkpoint) -> Iterator[Problem]:
    """Cases that would be prepared otherwise than those from which the weights have learnt."""
    applied = inherited_preparation(config.preparation, model)
    if model.preparation is None or applied == model.preparation or "preparation" in config.accept:
        return
    yield preparation_differs(
        applied,
        model.preparation,
        model=str(model.origin),
        fix="write the same preparation into the train file; or accept the difference with "
        "'accept: [preparation]'",
    )


def _channel_problems(preparation: Preparation, model: ModelConfig) -> Iterator[Problem]:
    if isinstance(preparation.z_score, ZScore) and preparation.z_score.channels is not None:
        for name in preparation.z_score.channels:
            if name not in model.channels:
                yield Problem(
                    code="channel-unknown",
                    got=f"channel {name!r} in preparation.z_score.channels",
                    expected=f"channels of the model: {', '.join(model.channels)}",
                    fix="correct the name" + did_you_mean(name, model.channels),
                )


def _saving_problems(settings: SavedResults, model: ModelConfig) -> Iterator[Problem]:
    yield from class_problems(model.classes, settings.probabilities, key="save.probabilities")
    yield from layer_problems(layout(model), settings.feature_maps)


def _problems(function: Callable[[], object]) -> tuple[Problem, ...]:
    try:
        function()
    except DeepsegError as error:
        return error.problems
    return ()
