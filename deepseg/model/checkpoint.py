"""A model with everything that belongs to it, and the one reader and writer of its `.save` file.

A model is more than its weights: its settings, how the cases it was trained on were prepared and
what they were like, where its weights come from, and the state from which training continues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from deepseg.builtin import builtin_file
from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.context import NetworkGeometry
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.model.provenance import Provenance
from deepseg.randomness import Purpose, torch_seed
from deepseg.storage.save_file import SaveFile, read_save, write_save

Spacing: TypeAlias = tuple[float, float, float]
NO_WEIGHTS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class IntensityRange:
    """Intensities of a channel before normalisation, over several cases.

    Attributes:
        minimum: Of all voxels.
        low: Above it are nearly all voxels.
        high: Below it are nearly all voxels.
        mean: The mean of the cases' means.
        deviation: The mean of the cases' standard deviations.
    """

    minimum: float
    low: float
    high: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class TrainingCohort:
    """The cases that a model was trained on; None where a file does not tell.

    Attributes:
        spacing_mm: Voxel size that the network saw along X, Y, Z: that of the first case, if each
            keeps its own.
        orientations: Where X, Y, Z grow to, such as ``RAS``: every one that occurs, sorted.
        has_roi: Every case has a mask of the region of interest.
        missing_channels: Channels that some of the cases lack.
        foreground_share: Voxels that are not background, of all voxels.
        roi_share: Cases with a mask of the region of interest, of all cases.
        class_shares: Voxels of every class by its name, of all voxels.
        intensity: By name of the channel.
        images: Digests of the images of each case, by which it is known again; never its name.
        columns: Names of the columns of their table, channel by channel, for a model whose
            channels have no names.
    """

    spacing_mm: Spacing | None = None
    orientations: tuple[str, ...] | None = None
    has_roi: bool | None = None
    missing_channels: tuple[str, ...] | None = None
    foreground_share: float | None = None
    roi_share: float | None = None
    class_shares: Mapping[str, float] | None = None
    intensity: Mapping[str, IntensityRange] | None = None
    images: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Origin:
    """The file that a model comes from, and what it is of that file.

    Attributes:
        file: None for settings that were in no file.
        content: ``weights`` that the file holds; new ones for the ``settings`` in it; or new ones
            for the ``architecture`` of a model in it.

    >>> str(Origin(Path("A.save"), "weights")), str(Origin(Path("model.yaml"), "settings"))
    ('A.save', 'new, from model.yaml')
    """

    file: Path | None = None
    content: Literal["weights", "settings", "architecture"] = "settings"

    @property
    def is_new(self) -> bool:
        """The weights are in no file."""
        return self.content != "weights"

    def __str__(self) -> str:
        if self.file is None:
            return "new"
        match self.content:
            case "weights":
                return str(self.file)
            case "settings":
                return f"new, from {self.file}"
            case "architecture":
                return f"new, from the architecture of {self.file}"


@dataclass(frozen=True)
class Checkpoint:
    """A model, wherever it comes from.

    Attributes:
        config: Its settings.
        weights: Parameters and statistics by address, such as ``normal.3.conv.weight``.
        preparation: How its training cases were prepared; None if it saw none.
        cohort: Its training cases; None if it saw none.
        training: State from which a session continues, or None.
        provenance: Where the weights come from.
        origin: The file that it comes from.
    """

    config: ModelConfig
    weights: Mapping[str, Tensor]
    preparation: Preparation | None = None
    cohort: TrainingCohort | None = None
    training: Mapping[str, Any] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    origin: Origin = field(default_factory=Origin)

    @property
    def is_random(self) -> bool:
        """True if neither this model nor one that it was filled from was trained."""
        return self.provenance.is_random

    @property
    def spacing_mm(self) -> Spacing | None:
        """Voxel size of its training cases; None if it saw none."""
        return None if self.cohort is None else self.cohort.spacing_mm

    @property
    def geometry(self) -> NetworkGeometry:
        """Which voxels of the image the network reads, and which it predicts."""
        return layout(self.config).geometry(self.config.context_alignment)

    def network(self) -> Network:
        """A new network with these weights, on the CPU."""
        network = Network(self.config, rng=torch.Generator())
        network.load_state_dict(self.weights)
        return network

    def to_save(self) -> SaveFile:
        """The content of its file."""
        return SaveFile(
            model=self.config.model_dump(mode="json"),
            weights=self.weights,
            preparation=None
            if self.preparation is None
            else self.preparation.model_dump(mode="json"),
            spacing_mm=self.spacing_mm,
            cohort=None if self.cohort is None else _COHORT.dump_python(self.cohort, mode="json"),
            training=self.training,
            provenance=self.provenance.words(),
            lineage=self.provenance.record(),
        )

    def description(self) -> str:
        """Everything but its weights and the state of its training, as JSON."""
        save = self.to_save()
        parts = {
            key: value for key, value in vars(save).items() if key not in ("weights", "training")
        }
        return json.dumps(parts, allow_nan=False)

    def digest(self) -> str:
        """SHA-256 of settings and weights, in hexadecimal digits."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        for name, tensor in self.weights.items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def write(self, path: Path) -> Path:
        """Write it; ``path`` holds the old file or the new one, never half of one.

        Returns:
            ``path``.

        Raises:
            OutputNotWritable: The disk is full or the folder not writable.
        """
        return write_save(path, self.to_save())


_COHORT = TypeAdapter(TrainingCohort)


def new_checkpoint(
    config: ModelConfig,
    *,
    seed: int,
    origin: Origin | None = None,
    imported: Mapping[str, Tensor] = NO_WEIGHTS,
) -> Checkpoint:
    """A model that has learnt nothing yet, its weights drawn with ``seed``.

    Args:
        config: Its settings; files of imported pathways were read before.
        seed: Of the weights.
        origin: The file that it comes from.
        imported: Weights of imported networks that are in their files, by name.
    """
    rng = torch.Generator().manual_seed(torch_seed(seed, Purpose.INITIALISATION))
    return Checkpoint(
        config=config,
        weights={**Network(config, rng=rng).state_dict(), **imported},
        provenance=Provenance(seed=seed),
        origin=Origin() if origin is None else origin,
    )


FOLDS = "folds.json"  # the split of a cross-validation, in the folder of its sessions


def model_in(path: Path) -> Path:
    """The best model of a session's folder, or its last; any other path as it is.

    A model that ships with deepseg is its file.

    Raises:
        DeepsegError: ``builtin-unknown``; ``folds-model``, for the folder of a cross-validation.
    """
    path = builtin_file(path)
    if not path.is_dir():
        return path
    if (path / FOLDS).is_file():
        raise DeepsegError(
            Problem(
                code="folds-model",
                got="a session with folds, which has a model for each",
                expected="one model; -test and -segment take the mean of all",
                fix=f"name the folder of a fold, such as {path / 'fold-1'}",
                where=str(path),
            )
        )
    folders = (path / "models", path)
    files = [folder / name for folder in folders for name in ("best.save", "last.save")]
    return next((file for file in files if file.is_file()), path)


def read_checkpoint(path: Path | str, *, finite: bool = True) -> Checkpoint:
    """The model in a `.save`.

    Args:
        path: Of the file, or of a session's folder, whose best model is read, or else its last;
            or ``builtin:NAME`` for a model that ships with deepseg.
        finite: Refuse a file of which any weight is infinite or undefined; otherwise whatever takes
            weights from it looks at those that it takes (`non_finite_weights`).

    Returns:
        The model, with its preparation, cohort, training state and provenance.

    Raises:
        DeepsegError: The file is missing, damaged, newer, not a `.save`, or its settings and
            weights do not belong together.
    """
    path = model_in(Path(path))
    return _checkpoint(read_save(path), path, finite=finite)


def described_checkpoint(description: str, weights: Mapping[str, Tensor], path: Path) -> Checkpoint:
    """The model of a description, with weights that lie beside it in a file of another format.

    Args:
        description: Of `Checkpoint.description`.
        weights: By name; looked at by whatever takes weights from the model.
        path: Of the file, for messages.

    Raises:
        DeepsegError: ``model-settings`` or ``weights-do-not-fit``.
    """
    try:
        save = SaveFile(**{**json.loads(description), "weights": weights, "training": None})
    except (TypeError, ValueError) as error:
        raise DeepsegError(_not_understood(str(error))).at(str(path)) from error
    return _checkpoint(save, path, finite=False)


def _checkpoint(save: SaveFile, path: Path, *, finite: bool) -> Checkpoint:
    try:
        checkpoint = Checkpoint(
            config=ModelConfig.model_validate(save.model),
            weights=dict(save.weights),
            preparation=None
            if save.preparation is None
            else Preparation.model_validate(save.preparation),
            cohort=_cohort(save),
            training=None if save.training is None else dict(save.training),
            provenance=_provenance(save),
            origin=Origin(path, "weights"),
        )
    except ValidationError as error:
        raise DeepsegError(_not_understood(error.errors()[0]["msg"])).at(str(path)) from error
    problems = unfitting_weights(checkpoint.config, checkpoint.weights)
    if finite and not problems:
        problems = non_finite_weights(checkpoint.weights)
    if problems:
        raise DeepsegError(*problems).at(str(path))
    return checkpoint


def _not_understood(reason: str) -> Problem:
    return Problem(
        code="model-settings",
        got=f"settings that this deepseg does not understand: {reason}",
        expected="settings of a model",
        fix="use the deepseg that wrote the file",
    )


def _cohort(save: SaveFile) -> TrainingCohort | None:
    if save.cohort is not None:
        return _COHORT.validate_python(save.cohort)
    # Files of older versions tell the spacing only.
    record = {"spacing_mm": save.spacing_mm}
    return None if save.spacing_mm is None else _COHORT.validate_python(record)


def _provenance(save: SaveFile) -> Provenance:
    if save.lineage is not None:
        return Provenance.from_record(save.lineage)
    return Provenance.from_words(save.provenance)


def unfitting_weights(config: ModelConfig, weights: Mapping[str, Tensor]) -> list[Problem]:
    """Weights that are not those of the network that ``config`` describes."""
    network = Network(config, rng=torch.Generator())
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes = {
        name: tuple(value.shape) if isinstance(value, Tensor) else "none, as it is no tensor"
        for name, value in weights.items()
    }
    return [
        Problem(
            code="weights-do-not-fit",
            got=f"{name} of shape {shapes[name]}" if name in shapes else f"no {name}",
            expected=f"shape {expected[name]}" if name in expected else "no such weight",
            fix="use the file that belongs to this model",
        )
        for name in sorted(expected.keys() | shapes.keys())
        if expected.get(name) != shapes.get(name)
    ]


def non_finite_weights(weights: Mapping[str, Tensor]) -> list[Problem]:
    """Weights that are infinite or undefined.

    >>> (problem,) = non_finite_weights({"a": torch.zeros(2), "b": torch.tensor([1, torch.inf])})
    >>> problem.got
    'infinite or undefined numbers in b'
    """
    names = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if not names:
        return []
    return [
        Problem(
            code="weights-not-finite",
            got=f"infinite or undefined numbers in {', '.join(names[:3])}"
            + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            expected="finite numbers",
            fix="use an earlier file of the same session",
        )
    ]
