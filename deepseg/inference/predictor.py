"""The way from arrays or a case to a segmentation.

A predictor holds one model, or several whose probabilities are averaged. It prepares a case as the
training cases of each model were prepared, predicts it in boxes that fit the memory, and gives
labels and maps on the case's own grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from deepseg.config.cases import Preparation
from deepseg.config.files.document import Document, KeyPath
from deepseg.config.model import ModelConfig
from deepseg.config.testing import ComponentRule, Inference
from deepseg.config.validation.validate import validate
from deepseg.data.cases.case import Case
from deepseg.data.images.resampling import resample
from deepseg.data.preparation import channel_bytes
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.geometry.boxes import Box, Int3
from deepseg.inference import memory
from deepseg.inference.averaging import mirrorings
from deepseg.inference.boxwise.boxes import bounding_box
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.cohort_differences import (
    CaseTraits,
    Comparison,
    applied_preparation,
    listed_traits,
    preparation_problems,
)
from deepseg.inference.components import Cleaning, cleaned
from deepseg.inference.ensemble import Member, predict_mean, views
from deepseg.inference.image_input import (
    Image,
    Images,
    Placement,
    case_images,
    collected,
    image_traits,
    placed_twice,
)
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.inference.loaded_case import LoadedCase, load_case, prepare_case, unique
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.prediction import Prediction, RequestedMaps
from deepseg.inference.requests import (
    Classes,
    FeatureMaps,
    averages_scores,
    component_problems,
    mirrored_axes,
    model_differences,
    overlap_problems,
    requested_maps,
    tile_problems,
    tiling_problems,
    window_grid,
)
from deepseg.inference.segmentation import Segmentation
from deepseg.inference.tilewise import predict
from deepseg.model.arithmetic import arithmetic
from deepseg.model.checkpoint import Checkpoint, read_checkpoint
from deepseg.model.devices import PRECISIONS, chosen_device

TOO_LITTLE = "{} memory is not enough: the smallest boxes are taken, and more memory is used"
UNKNOWN_PREPARATION = (
    "the model does not say how its cases were prepared: they are used as they are; say otherwise "
    "with preparation"
)
NO_FEATURE_MAPS: FeatureMaps = MappingProxyType({})

Model: TypeAlias = Path | str | Checkpoint
Settings = TypeVar("Settings", bound=BaseModel)


@dataclass(frozen=True)
class Tiles:
    """Tiles of feature maps and of DeepMedic's tiling.

    Attributes:
        size: Voxels along X, Y, Z; None for those of each model.
        batch_size: Tiles of feature maps that are computed together.
    """

    size: Int3 | None = None
    batch_size: int = 10


@dataclass(frozen=True)
class Listener:
    """Receives warnings, and sees how far a prediction is.

    Attributes:
        warn: Called with a line that a person should read.
        progress: Called with the name of a case and its number of boxes; gives a context manager
            whose value is called with the number of boxes just done.
    """

    warn: Callable[[str], None]
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


PYTHON_WARNINGS = Listener(
    warn=lambda line: warnings.warn(line, stacklevel=2),
    progress=lambda _name, _boxes: nullcontext(lambda _done: None),
)


class Predictor:
    """Segments cases by one model, or by the mean of several.

    Args:
        models: A `.save`, or a checkpoint that was loaded; or several with the same channels and
            classes.
        settings: The block ``inference`` of a test file, as an object or as a mapping with its
            keys, such as ``{"mirror": ["x"], "memory": "4 GB"}``.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``, or a device of torch.
        preparation: Of cases, for models that do not say how theirs were prepared; and
            ``{"roi": "nonzero"}``, for cases without the ROI that training cases had.
        postprocess: Rules for components by name of the class, such as
            ``{"lesion": {"min_ml": 0.1}}``.
        tiles: Their size, where there are any.
        listener: Receives warnings, and sees how far a prediction is.
        limits: Sizes and shares by which a case is cut into boxes.

    Attributes:
        members: The models, ready to predict.

    Raises:
        DeepsegError: Everything that is wrong with files, or with settings for these models.
    """

    def __init__(
        self,
        models: Model | Sequence[Model],
        settings: Inference | Mapping[str, Any] | None = None,
        *,
        device: str | torch.device = "auto",
        preparation: Preparation | Mapping[str, Any] | None = None,
        postprocess: Mapping[str, ComponentRule | Mapping[str, Any]] | None = None,
        tiles: Tiles = Tiles(),
        listener: Listener = PYTHON_WARNINGS,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._settings = _validated(Inference, settings, "settings")
        self._tiles, self._listener, self._limits = tiles, listener, limits
        rules = {
            name: _validated(ComponentRule, rule, f"postprocess {name}")
            for name, rule in (postprocess or {}).items()
        }
        checkpoints = _checkpoints(models)
        configured = (
            None if preparation is None else _validated(Preparation, preparation, "preparation")
        )
        raise_if_any(_setting_problems(checkpoints, self._settings, tiles, rules, configured))
        self.config: ModelConfig = checkpoints[0].config
        self._rules = {
            self.config.classes.index(name): Cleaning(**rule.model_dump())
            for name, rule in rules.items()
        }
        self._device = chosen_device(device) if isinstance(device, str) else device
        self.members = tuple(
            self._member(checkpoint, self._preparation(checkpoint, configured))
            for checkpoint in checkpoints
        )
        self._averages_scores = averages_scores(self._settings, checkpoints)
        self._comparisons = [
            Comparison(
                model=str(checkpoint.origin),
                cohort=checkpoint.cohort,
                preparation=member.preparation,
                accepted=self._settings.accept,
                key="accept",
            )
            for checkpoint, member in zip(checkpoints, self.members, strict=True)
        ]

    def segment(
        self,
        images: Images | Case | LoadedCase,
        *,
        affine: Any = None,
        spacing_mm: float | Sequence[float] | None = None,
        roi: Image | None = None,
        probabilities: Classes = False,
        uncertainty: Sequence[str] = (),
        feature_maps: FeatureMaps = NO_FEATURE_MAPS,
    ) -> Segmentation:
        """Segment a case.

        Args:
            images: An array ``(C, X, Y, Z)`` with the channels in the model's order; or one image
                per channel in this order, or by name of the channel, None for a missing one: an
                array ``(X, Y, Z)``, a nibabel image, or the name of a file. Or a case of a list.
                Intensities are as in the training cases' files: they are prepared here.
            affine: ``(4, 4)``, voxel index to RAS millimetres, of arrays.
            spacing_mm: Sides of the voxels of arrays, if there is no affine.
            roi: Region of interest, true or above 0 inside, as a single image; None for everywhere.
            probabilities: All (True), or names or labels of classes whose maps are requested.
            uncertainty: ``entropy``, ``variance`` or both.
            feature_maps: Layers of the first model, such as ``{"normal.3": "all"}`` or
                ``{"fc.1": (0, 4)}``.

        Returns:
            Labels and requested maps on the grid of the images.

        Raises:
            DeepsegError: Everything that is wrong with images and requests.
        """
        problems: list[Problem] = []
        with collected(problems):
            requested = requested_maps(
                self.config,
                probabilities=probabilities,
                uncertainty=uncertainty,
                feature_maps=feature_maps,
                predictions=sum(len(mirrorings(member.mirror)) for member in self.members),
            )
        with collected(problems):
            loaded = self._loaded(images, Placement(affine, spacing_mm), roi)
        raise_if_any(problems)
        return self._segmentation(loaded, requested)

    def load(self, case: Case, *, scratch: Path | None = None) -> LoadedCase:
        """Read a case and prepare it for every model.

        Args:
            case: Of a list of cases.
            scratch: Folder for the channels of a large case; None to hold all in memory.
        """
        disk = scratch if scratch is not None and self.is_large(case) else None
        return load_case(case, self._preparations, self.config.channels, scratch=disk)

    def is_large(self, case: Case) -> bool:
        """The channels of a case, in all their preparations, take too much of the memory."""
        needed = sum(
            channel_bytes(case, preparation, self.config.channels)
            for preparation in unique(self._preparations)
        )
        return needed > self._limits.channels_share * memory.left(self._settings.memory_bytes)

    @property
    def _preparations(self) -> list[Preparation]:
        return [member.preparation for member in self.members]

    def _member(self, checkpoint: Checkpoint, preparation: Preparation) -> Member:
        network = checkpoint.network().to(self._device).eval()
        config, tiling = checkpoint.config, self._settings.tiling
        size = config.segment_sizes["inference"] if self._tiles.size is None else self._tiles.size
        is_imported = network.layout.is_imported
        is_deepmedic = (config.context_alignment if tiling is None else tiling) == "deepmedic"
        is_tiled = is_imported or is_deepmedic
        dtype = PRECISIONS[self._settings.precision]
        return Member(
            network=network,
            boxwise=None if is_imported else BoxwiseNetwork(network, dtype),
            preparation=preparation,
            tile=size if is_tiled else None,
            feature_map_tile=size,
            splitter=SplitOnOutOfMemory(
                self._listener.warn, smallest_edge=self._limits.smallest_edge
            ),
            limits=self._limits,
            windows=window_grid(self._settings, checkpoint),
            mirror=mirrored_axes(self._settings, checkpoint.config),
            dtype=dtype,
        )

    def _preparation(self, checkpoint: Checkpoint, configured: Preparation | None) -> Preparation:
        """Preparation of cases for a model, with a warning if nobody tells."""
        accepted = self._settings.accept
        preparation = applied_preparation(configured, checkpoint.preparation, accepted)
        if preparation is not None:
            return preparation
        self._listener.warn(f"{checkpoint.origin}: {UNKNOWN_PREPARATION}")
        return Preparation(z_score="none")

    def _loaded(
        self, images: Images | Case | LoadedCase, placement: Placement, roi: Image | None
    ) -> LoadedCase:
        channels = self.config.channels
        if isinstance(images, Case | LoadedCase):
            if roi is not None or not placement.is_empty:
                raise DeepsegError(placed_twice("a place or a roi beside a case that has its own"))
            if isinstance(images, LoadedCase):
                return images
            self._compare(listed_traits(images, channels))
            return self.load(images)
        source = case_images(
            images, channels, placement=placement, roi=roi, warn=self._listener.warn
        )
        self._compare(image_traits(source, channels))
        return prepare_case(source, self._preparations, channels)

    def _compare(self, case: CaseTraits) -> None:
        """Refuse a case that is not like the training cases, or warn of it.

        Raises:
            DeepsegError: ``roi-missing`` or ``channel-lacking``.
        """
        problems = [p for comparison in self._comparisons for p in comparison.problems([case])]
        raise_if_any(dict.fromkeys(problems))
        warnings = [w for comparison in self._comparisons for w in comparison.warnings([case])]
        for warning in dict.fromkeys(warnings):
            self._listener.warn(warning)

    def _segmentation(self, case: LoadedCase, requested: RequestedMaps) -> Segmentation:
        with arithmetic(self._settings.precision):
            prediction = self._prediction(case, requested)
            feature_maps = self._feature_maps(case, requested)
        grid, classes, back = case.source.geometry, self.config.classes, case.turn.inverse
        labels = cleaned(prediction.labels, self._rules, voxel_ml=grid.voxel_ml, roi=case.roi)
        return Segmentation(
            labels=back.copied(labels),
            probabilities={
                classes[label]: back.copied(values)
                for label, values in prediction.probabilities.items()
            },
            uncertainty={
                name: back.copied(values) for name, values in prediction.uncertainty.items()
            },
            feature_maps={address: back.copied(maps) for address, maps in feature_maps.items()},
            geometry=grid,
            header=case.source.header,
        )

    def _prediction(self, case: LoadedCase, requested: RequestedMaps) -> Prediction:
        grid = case.grid
        prediction = Prediction(grid.shape, len(self.config.classes), requested)
        region = bounding_box(case.roi, Box.whole(grid.shape))
        if region is None:
            return prediction
        predict_mean(
            views(self.members, case.prepared, grid),
            region,
            requested,
            averages_scores=self._averages_scores,
            memory=self._memory_beside(requested.bytes_of(grid.shape)),
            put=prediction.put,
            progress=partial(self._listener.progress, case.name),
        )
        prediction.clear_outside(case.roi)
        return prediction

    def _memory_beside(self, result: int) -> int:
        """Bytes for computing, beside those of the ``result``."""
        limit = self._settings.memory
        free = memory.left(self._settings.memory_bytes) - result
        if free < memory.LEAST:
            share = "half of the free" if limit is None else f"{limit} of"
            self._listener.warn(TOO_LITTLE.format(share))
        return free

    def _feature_maps(
        self, case: LoadedCase, requested: RequestedMaps
    ) -> dict[str, NDArray[np.float32]]:
        """``(maps, X, Y, Z)`` by address, of the first model and with the axes of its cases."""
        if not requested.feature_maps:
            return {}
        member, prepared, grid = self.members[0], case.prepared[0], case.grid
        result = predict(
            member.network,
            prepared,
            tile=member.feature_map_tile,
            batch_size=self._tiles.batch_size,
            feature_maps=requested.feature_maps,
            with_probabilities=False,
            splitter=member.splitter,
        )
        if prepared.geometry == grid:
            return dict(result.feature_maps)
        return {
            address: np.asarray(resample(maps, prepared.geometry, grid, order=1), np.float32)
            for address, maps in result.feature_maps.items()
        }


def _checkpoints(models: Model | Sequence[Model]) -> list[Checkpoint]:
    """The models, read where they are files."""
    sequence = [models] if isinstance(models, str | Path | Checkpoint) else list(models)
    checkpoints: list[Checkpoint] = []
    problems: list[Problem] = []
    for model in sequence:
        with collected(problems):
            checkpoint = model if isinstance(model, Checkpoint) else read_checkpoint(model)
            checkpoints.append(checkpoint)
    raise_if_any(problems)
    if not checkpoints:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="no model",
                expected="a .save or a checkpoint",
                fix="give one, or several",
            )
        )
    return checkpoints


def _setting_problems(
    checkpoints: Sequence[Checkpoint],
    settings: Inference,
    tiles: Tiles,
    rules: Mapping[str, ComponentRule],
    preparation: Preparation | None,
) -> Iterator[Problem]:
    yield from model_differences(checkpoints)
    for checkpoint in checkpoints:
        yield from preparation_problems(
            preparation,
            checkpoint.preparation,
            settings.accept,
            model=str(checkpoint.origin),
            fix="leave out preparation, for the model applies its own; or accept the difference "
            "with the setting 'accept: [preparation]'",
        )
        yield from tile_problems(tiles.size, checkpoint.config)
        yield from overlap_problems(settings, checkpoint.config, str(checkpoint.origin))
        yield from tiling_problems(settings, checkpoint.config, str(checkpoint.origin))
    yield from component_problems(rules, checkpoints[0].config.classes)


def _validated(
    model: type[Settings], values: Settings | Mapping[str, Any] | None, name: str
) -> Settings:
    """Settings as an object; ``name`` says where a mapping was given."""
    if isinstance(values, model):
        return values
    if not values:
        return model()
    if not isinstance(values, Mapping):
        raise DeepsegError(
            Problem(
                code="config-value",
                got=repr(values),
                expected=f"a {model.__name__}, or a mapping with its keys",
                fix="give such a mapping",
                where=name,
            )
        )
    places: dict[KeyPath, str] = {(key,): f"{name} {key}" for key in values}
    return validate(model, Document(Path(name), dict(values), places))
