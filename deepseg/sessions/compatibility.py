"""Settings of a session that must fit the model: judged together, before anything begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.cases import Preparation, ZScore
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.inference.metrics import FOREGROUND
from deepseg.inference.requests import (
    class_problems,
    component_problems,
    layer_problems,
    overlap_problems,
    tile_problems,
    variance_problems,
)
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import layout
from deepseg.report.console import Console
from deepseg.training.batch_statistics import single_value_problems
from deepseg.training.freezing import frozen_layers
from deepseg.training.model_selection import metric_incompatibilities
from deepseg.training.parameter_groups import absent_types


def training_incompatibilities(config: TrainConfig, model: ModelConfig) -> Iterator[Problem]:
    """Settings of a train file that do not fit the model."""
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
                got=f"{len(values)} entries in {key}",
                expected=f"{len(model.classes)}, one per class: {', '.join(model.classes)}",
                fix="give one entry per class of the model, the background first",
            )
    yield from _channel_problems(config.preparation, model)
    plan = layout(model)
    yield from _problems(lambda: frozen_layers(plan, config.freeze, epoch=0))
    yield from _problems(lambda: plan.addresses(config.optimiser.by_layer))
    yield from absent_types(plan, config.optimiser)
    yield from single_value_problems(config, model)
    yield from metric_incompatibilities(config, model)
    if config.validation is not None and config.validation.volumes is not None:
        save, key = config.validation.volumes.save, "validation.volumes.save"
        yield from _saving_problems(save, model)
        yield from variance_problems(
            save.uncertainty, key=f"{key}.uncertainty", fix="ask for entropy only"
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
        yield from _preparation_problems(config.preparation, checkpoint.preparation)
    if len(models) == 1 and not config.inference.mirror:
        fix = "give several models or inference.mirror, or ask for entropy only"
        yield from variance_problems(config.save.uncertainty, key="save.uncertainty", fix=fix)
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


def preparation_for(config: TestConfig, model: Checkpoint, console: Console) -> Preparation:
    """Preparation of cases: the model's; the test file decides only where the model has none."""
    if model.preparation is not None:
        return model.preparation
    if config.preparation is not None:
        return config.preparation
    console.warn(
        "the model does not say how its cases were prepared: they are used as they are; say "
        "otherwise with preparation in the test file"
    )
    return Preparation(z_score="none")


def _preparation_problems(
    configured: Preparation | None, trained: Preparation | None
) -> Iterator[Problem]:
    """Problems of a preparation that differs from that of a model's training cases."""
    if configured is not None and trained is not None and configured != trained:
        yield Problem(
            code="preparation-differs",
            got=f"preparation {configured.model_dump(mode='json')}",
            expected=f"what the model learnt with, {trained.model_dump(mode='json')}",
            fix="remove preparation from the test file: the model applies its own",
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
