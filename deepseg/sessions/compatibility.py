"""Settings of a session that must fit the model: judged together, before anything begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import sub

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.cases import Preparation, ZScore
from deepseg.config.model import ModelConfig
from deepseg.config.settings import cube
from deepseg.config.testing import Inference, TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.geometry.boxes import text
from deepseg.inference.metrics import FOREGROUND
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import Layout, layout
from deepseg.report.console import Console
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
    yield from _channel_misfits(config.preparation, model)
    plan = layout(model)
    yield from _problems(lambda: frozen_layers(plan, config.freeze, epoch=0))
    yield from _problems(lambda: plan.addresses(config.optimiser.by_layer))
    yield from absent_types(plan, config.optimiser)
    yield from metric_incompatibilities(config, model)
    if config.validation is not None and config.validation.volumes is not None:
        save, key = config.validation.volumes.save, "validation.volumes.save"
        yield from _saving_misfits(save, model)
        yield from _variance_of_one(save, key, "ask for entropy only")


def testing_incompatibilities(
    config: TestConfig, models: Sequence[Checkpoint]
) -> Iterator[Problem]:
    """Settings of a test file that do not fit the models, which have the same classes."""
    model = models[0].config
    yield from _saving_misfits(config.save, model)
    for one in models:
        yield from _tile_misfits(config, one.config)
        yield from _overlap_misfits(config.inference, one)
        yield from _preparation_misfits(config.preparation, one.preparation)
    if len(models) == 1 and not config.inference.mirror:
        fix = "give several models or inference.mirror, or ask for entropy only"
        yield from _variance_of_one(config.save, "save", fix)
    for name in config.postprocess:
        if name not in model.classes[1:]:
            yield Problem(
                code="class-unknown",
                got=f"{name!r} in postprocess",
                expected=f"classes of the model: {', '.join(model.classes[1:])}",
                fix="correct the name" + did_you_mean(name, model.classes[1:]),
            )
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


def wanted_feature_maps(plan: Layout, settings: SavedResults) -> dict[str, slice]:
    """Which maps of which layers are to be written; never more than the layer has.

    Raises:
        DeepsegError: ``layer-unknown``.
    """
    outputs = {layer.address: layer.outputs for layer in plan}
    return {
        address: slice(0, outputs[address])
        if which == "all"
        else slice(*(min(number, outputs[address]) for number in which))
        for pattern, which in settings.feature_maps.items()
        for address in plan.addresses([pattern])
    }


def wanted_probabilities(classes: Sequence[str], settings: SavedResults) -> list[int]:
    """Labels of the classes whose probability maps are to be written.

    Raises:
        DeepsegError: ``class-unknown``.
    """
    if isinstance(settings.probabilities, bool):
        return list(range(len(classes))) if settings.probabilities else []
    known = list(classes)
    unknown = [
        one
        for one in settings.probabilities
        if (one not in known if isinstance(one, str) else one >= len(known))
    ]
    if unknown:
        raise DeepsegError(
            *(
                Problem(
                    code="class-unknown",
                    got=f"{one!r} in save.probabilities",
                    expected=f"names of classes ({', '.join(known)}) or their labels",
                    fix="name classes of the model" + did_you_mean(str(one), known),
                )
                for one in unknown
            )
        )
    return [known.index(one) if isinstance(one, str) else one for one in settings.probabilities]


def preparation_for(config: TestConfig, model: Checkpoint, console: Console) -> Preparation:
    """How cases are prepared: as the model says; the test file decides only where it does not."""
    if model.preparation is not None:
        return model.preparation
    if config.preparation is not None:
        return config.preparation
    console.warn(
        "the model does not say how its cases were prepared: they are used as they are; say "
        "otherwise with preparation in the test file"
    )
    return Preparation(z_score="none")


def _preparation_misfits(
    asked: Preparation | None, learnt: Preparation | None
) -> Iterator[Problem]:
    if asked is not None and learnt is not None and asked != learnt:
        yield Problem(
            code="preparation-differs",
            got=f"preparation {asked.model_dump(mode='json')}",
            expected=f"what the model learnt with, {learnt.model_dump(mode='json')}",
            fix="remove preparation from the test file: the model applies its own",
        )


def _channel_misfits(preparation: Preparation, model: ModelConfig) -> Iterator[Problem]:
    if isinstance(preparation.z_score, ZScore) and preparation.z_score.channels is not None:
        for name in preparation.z_score.channels:
            if name not in model.channels:
                yield Problem(
                    code="channel-unknown",
                    got=f"channel {name!r} in preparation.z_score.channels",
                    expected=f"channels of the model: {', '.join(model.channels)}",
                    fix="correct the name" + did_you_mean(name, model.channels),
                )


def _saving_misfits(settings: SavedResults, model: ModelConfig) -> Iterator[Problem]:
    yield from _problems(lambda: wanted_probabilities(model.classes, settings))
    yield from _problems(lambda: wanted_feature_maps(layout(model), settings))


def _variance_of_one(settings: SavedResults, key: str, fix: str) -> Iterator[Problem]:
    if "variance" in settings.uncertainty:
        yield Problem(
            code="variance-of-one",
            got=f"{key}.uncertainty with variance, and one answer per case",
            expected="several answers, between which there can be variance",
            fix=fix,
        )


def _tile_misfits(config: TestConfig, model: ModelConfig) -> Iterator[Problem]:
    smallest = model.smallest_segment
    if config.tile is not None and min(map(sub, cube(config.tile), smallest)) < 0:
        yield Problem(
            code="segment-too-small",
            got=f"tile of {text(cube(config.tile))} voxels",
            expected=f"at least {text(smallest)}, the receptive field",
            fix="enlarge the tile, or leave it out",
        )


def _overlap_misfits(own: Inference, model: Checkpoint) -> Iterator[Problem]:
    """Tiles overlap where there are any: by a setting, or because the model learnt so."""
    if own.overlap and own.tiling is None and model.config.context_alignment != "deepmedic":
        yield Problem(
            code="overlap-without-tiles",
            got=f"overlap {own.overlap:g} with {model.origin}, for which nothing depends on tiles",
            expected="overlap with tiling: deepmedic only",
            fix="add tiling: deepmedic, or remove overlap",
        )


def _problems(wish: Callable[[], object]) -> tuple[Problem, ...]:
    try:
        wish()
    except DeepsegError as error:
        return error.problems
    return ()
