"""Settings of a prediction and requested maps, judged against the models that predict.

The same problems are found whether a test file or a call from Python asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from deepseg.config.model import ModelConfig
from deepseg.config.testing import Inference
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.geometry.boxes import Int3, text
from deepseg.inference.overlap import NO_WINDOWS, WindowGrid
from deepseg.inference.prediction import RequestedMaps
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.imported import inner_points
from deepseg.model.layout import Layout, layout

Classes: TypeAlias = bool | Sequence[str | int]
"""All classes, none, or those with these names or labels."""
FeatureMaps: TypeAlias = Mapping[str, tuple[int, int] | Literal["all"]]
"""Layers by address, where ``*`` stands for anything: the first map and the one after the last."""


def requested_maps(
    model: ModelConfig,
    *,
    probabilities: Classes,
    uncertainty: Sequence[str],
    feature_maps: FeatureMaps,
    predictions: int,
) -> RequestedMaps:
    """Maps that are requested of every case, by label, name and address.

    Args:
        model: Whose classes and layers they are.
        probabilities: Classes.
        uncertainty: Names.
        feature_maps: Layers.
        predictions: Models times mirror images, between which there can be variance.

    Raises:
        DeepsegError: ``class-unknown``, ``layer-unknown``, ``uncertainty-unknown``,
            ``variance-of-one``: all of them at once.
    """
    problems = [
        *class_problems(model.classes, probabilities, key="probabilities"),
        *layer_problems(layout(model), feature_maps),
        *uncertainty_problems(uncertainty),
    ]
    if predictions == 1:
        fix = "give several models or mirror, or ask for entropy only"
        problems += variance_problems(uncertainty, fix=fix)
    raise_if_any(problems)
    return RequestedMaps(
        probability_labels(model.classes, probabilities),
        tuple(uncertainty),
        feature_map_slices(layout(model), feature_maps),
    )


def probability_labels(classes: Sequence[str], probabilities: Classes) -> list[int]:
    """Labels of the classes whose probability maps are requested.

    >>> probability_labels(["background", "rim", "core"], ["core", 0])
    [2, 0]
    >>> probability_labels(["background", "rim", "core"], True)
    [0, 1, 2]
    """
    if isinstance(probabilities, bool):
        return list(range(len(classes))) if probabilities else []
    names = list(classes)
    return [names.index(entry) if isinstance(entry, str) else entry for entry in probabilities]


def class_problems(classes: Sequence[str], probabilities: Classes, *, key: str) -> list[Problem]:
    """Problems of classes that the model does not have.

    Args:
        classes: Of the model.
        probabilities: Requested classes.
        key: In which they were requested.
    """
    if isinstance(probabilities, bool):
        return []
    names = list(classes)
    return [
        Problem(
            code="class-unknown",
            got=f"{entry!r} in {key}",
            expected=f"names of classes ({', '.join(names)}) or their labels",
            fix="name classes of the model" + did_you_mean(str(entry), names),
        )
        for entry in probabilities
        if (entry not in names if isinstance(entry, str) else not 0 <= entry < len(names))
    ]


def feature_map_slices(plan: Layout, feature_maps: FeatureMaps) -> dict[str, slice]:
    """Requested maps of every requested layer; never more than the layer has.

    Raises:
        DeepsegError: ``layer-unknown``.
    """
    outputs = {layer.address: layer.outputs for layer in plan}
    points = inner_points(plan, plan.addresses(feature_maps))
    outputs |= {address: point.maps for address, point in points.items()}
    return {
        address: slice(0, outputs[address])
        if numbers == "all"
        else slice(*(min(number, outputs[address]) for number in numbers))
        for pattern, numbers in feature_maps.items()
        for address in plan.addresses([pattern])
    }


def layer_problems(plan: Layout, feature_maps: FeatureMaps) -> tuple[Problem, ...]:
    """Problems of layers that the model does not have."""
    try:
        inner_points(plan, plan.addresses(feature_maps))
    except DeepsegError as error:
        return error.problems
    return ()


def uncertainty_problems(uncertainty: Iterable[str]) -> Iterator[Problem]:
    """Problems of uncertainty maps that there are none of."""
    for name in uncertainty:
        if name not in ("entropy", "variance"):
            yield Problem(
                code="uncertainty-unknown",
                got=f"{name!r} in uncertainty",
                expected="entropy or variance",
                fix="correct the name" + did_you_mean(name, ("entropy", "variance")),
            )


def variance_problems(
    uncertainty: Iterable[str], *, fix: str, key: str = "uncertainty"
) -> Iterator[Problem]:
    """Problems of a variance where there is one prediction per case.

    Args:
        uncertainty: Requested names.
        fix: For the user.
        key: In which they were requested.
    """
    if "variance" in uncertainty:
        yield Problem(
            code="variance-of-one",
            got=f"{key} with variance, and one answer per case",
            expected="several answers, between which there can be variance",
            fix=fix,
        )


def model_differences(models: Sequence[Checkpoint]) -> Iterator[Problem]:
    """Problems of models that have other channels or classes than the first."""
    first = models[0]
    for model in models[1:]:
        for key, names, expected in (
            ("channels", model.config.channels, first.config.channels),
            ("classes", model.config.classes, first.config.classes),
            ("columns of channels", _columns(model), _columns(first) or _columns(model)),
        ):
            if names and names != expected:
                yield Problem(
                    code="models-differ",
                    got=f"{key} {', '.join(names)}",
                    expected=f"{', '.join(expected)}, as in {first.origin}",
                    fix="average models of the same task only",
                    where=str(model.origin),
                )


def _columns(model: Checkpoint) -> tuple[str, ...]:
    """Names of the columns of its training cases, where its channels have none."""
    return () if model.cohort is None else model.cohort.columns or ()


def tile_problems(tile: Int3 | None, model: ModelConfig) -> Iterator[Problem]:
    """Problems of a tile that is smaller than the receptive field."""
    problem = None if tile is None else model.segment_size_problem(tile)
    if tile is not None and problem is not None:
        is_small = problem.code == "segment-too-small"
        yield Problem(
            code=problem.code,
            got=f"tile of {text(tile)} voxels",
            expected=problem.expected,
            fix=f"{'enlarge the tile' if is_small else problem.fix}, or leave it out",
        )


def overlap_problems(settings: Inference, model: ModelConfig, origin: str) -> Iterator[Problem]:
    """Problems of an overlap where nothing depends on tiles.

    Args:
        settings: Of the prediction; tiles are asked for there, or the model was trained so.
        model: That predicts.
        origin: Of the model, for people.
    """
    has_tiles = bool(model.networks) or settings.tiling or model.context_alignment == "deepmedic"
    if settings.overlap and not has_tiles:
        yield Problem(
            code="overlap-without-tiles",
            got=f"overlap {settings.overlap:g} with {origin}, for which nothing depends on tiles",
            expected="overlap with tiling: deepmedic only",
            fix="add tiling: deepmedic, or remove overlap",
        )


def tiling_problems(settings: Inference, model: ModelConfig, origin: str) -> Iterator[Problem]:
    """Problems of ``tiling: global`` for a network whose layers depend on the size of a tile.

    Args:
        settings: Of the prediction.
        model: That predicts.
        origin: Of the model, for people.
    """
    if settings.tiling != "global" or model.context_alignment != "deepmedic":
        return
    uneven = layout(model).uneven_residuals
    if uneven:
        yield Problem(
            code="tiling-uneven",
            got=f"tiling: global with {origin}, whose residuals of {', '.join(uneven)} skip an odd "
            "number of voxels, so that DeepMedic's rounding depends on the size of a tile",
            expected="the tiles of DeepMedic",
            fix="remove tiling: global",
        )


def window_grid(settings: Inference, model: Checkpoint) -> WindowGrid:
    """Where the tiles of a model lie: by its own settings where it is predicted in windows.

    Args:
        settings: Of the prediction, which win.
        model: That predicts.
    """
    windows = model.config.windows
    is_chosen = "overlap" in settings.model_fields_set
    if not model.config.networks:
        return WindowGrid(settings.overlap)
    sees_whole = layout(model.config).sees_whole
    overlap = settings.overlap if is_chosen else 0.0 if sees_whole else windows.overlap
    if not overlap:
        return NO_WINDOWS
    pads_with_zeros = windows.beyond == "zero" and not sees_whole
    return WindowGrid(overlap, windows.places == "even", pads_with_zeros)


def mirrored_axes(settings: Inference, model: ModelConfig) -> tuple[int, ...]:
    """Axes along which cases are mirrored for a model, by its own settings or those that win.

    >>> model = {"channels": ["T1"], "classes": ["background", "lesion"], "segments": {"train": 9}}
    >>> model = ModelConfig.model_validate(model | {"normal": {"feature_maps": [2]}})
    >>> mirrored_axes(Inference(mirror=("z",)), model), mirrored_axes(Inference(), model)
    ((2,), ())
    """
    is_chosen = "mirror" in settings.model_fields_set
    axes = settings.mirror if is_chosen else model.windows.mirror
    return tuple("xyz".index(axis) for axis in axes)


def averages_scores(settings: Inference, models: Sequence[Checkpoint]) -> bool:
    """True if scores are averaged, by the settings or where all models are predicted in windows."""
    if settings.average is not None:
        return settings.average == "scores"
    return all(
        bool(model.config.networks)
        and window_grid(settings, model).overlap > 0
        and model.config.windows.average == "scores"
        for model in models
    )


def component_problems(names: Iterable[str], classes: Sequence[str]) -> Iterator[Problem]:
    """Problems of rules for the components of classes that the model does not have."""
    for name in names:
        if name not in classes[1:]:
            yield Problem(
                code="class-unknown",
                got=f"{name!r} in postprocess",
                expected=f"classes of the model: {', '.join(classes[1:])}",
                fix="correct the name" + did_you_mean(name, classes[1:]),
            )
