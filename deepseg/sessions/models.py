"""Models as sessions hold them: settings, weights, and how their cases were prepared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from deepseg.config.cases import Preparation
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.geometry.context import NetworkGeometry
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.randomness import Purpose, torch_seed
from deepseg.storage.save_file import SaveFile, read_save

NEW = "new, from "  # begins the origin of weights that are in no file


@dataclass(frozen=True)
class Model:
    """A model, wherever it comes from.

    Attributes:
        config: Its settings.
        weights: By address.
        preparation: How its training cases were prepared; None if it saw none.
        spacing_mm: Voxel size of its training cases; None if it saw none.
        training: State from which a session continues, or None.
        provenance: Where the weights come from.
        origin: In words, for people.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    preparation: Preparation | None
    spacing_mm: tuple[float, float, float] | None
    training: dict[str, Any] | None
    provenance: dict[str, Any]
    origin: str

    @property
    def is_random(self) -> bool:
        """Whether it has learnt nothing, itself or as another model."""
        return self.provenance.keys() == {"initialised"}

    @property
    def geometry(self) -> NetworkGeometry:
        """How the network looks at the image."""
        return layout(self.config).geometry(self.config.context_alignment)

    def network(self) -> Network:
        """The network with these weights, on the CPU."""
        network = Network(self.config, rng=torch.Generator())
        network.load_state_dict(self.weights)
        return network


def misfits(config: ModelConfig, weights: Mapping[str, Tensor]) -> list[Problem]:
    """Weights that are not those of the network that ``config`` describes."""
    network = Network(config, rng=torch.Generator())
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in weights.items() if isinstance(t, Tensor)}
    return [
        Problem(
            code="weights-do-not-fit",
            got=f"{name} of shape {found.get(name, 'absent')}",
            expected=f"shape {wanted.get(name, 'absent')}",
            fix="use the file that belongs to this model",
        )
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]


def broken(weights: Mapping[str, Tensor]) -> list[Problem]:
    """Weights that are infinite or undefined."""
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


def fresh(config: ModelConfig, *, seed: int, origin: str) -> Model:
    """A model that has learnt nothing yet."""
    rng = torch.Generator().manual_seed(torch_seed(seed, Purpose.INITIALISATION))
    return Model(
        config=config,
        weights=dict(Network(config, rng=rng).state_dict()),
        preparation=None,
        spacing_mm=None,
        training=None,
        provenance={"initialised": f"seed {seed}"},
        origin=origin,
    )


def read_model(path: Path | str) -> Model:
    """The model in a `.save`.

    Raises:
        DeepsegError: The file is missing, damaged, newer, not a `.save`, or its settings and
            weights do not belong together.
    """
    path = Path(path)
    save = read_save(path)
    try:
        config = ModelConfig.model_validate(save.model)
        preparation = (
            None if save.preparation is None else Preparation.model_validate(save.preparation)
        )
    except ValidationError as error:
        raise DeepsegError(
            Problem(
                code="model-settings",
                got=f"settings that this deepseg does not understand: {error.errors()[0]['msg']}",
                expected="settings of a model",
                fix="use the deepseg that wrote the file",
                where=str(path),
            )
        ) from error
    problems = misfits(config, save.weights) or broken(save.weights)
    if problems:
        raise DeepsegError(*problems).at(str(path))
    return Model(
        config=config,
        weights=dict(save.weights),
        preparation=preparation,
        spacing_mm=None if save.spacing_mm is None else _triple(save.spacing_mm),
        training=None if save.training is None else dict(save.training),
        provenance=dict(save.provenance),
        origin=str(path),
    )


def given_model(typed: Path | None, configured: Path | None, *, seed: int) -> Model:
    """The model that a session is about: in a `.save`, or a fresh one from a model file.

    Args:
        typed: On the command line; wins, unless it only describes the architecture of the `.save`
            that the config file names, as DeepMedic's ``-model`` does.
        configured: In the config file.
        seed: Of a fresh model's weights.

    Raises:
        DeepsegError: ``model-not-given``, or what is wrong with the file.
    """
    path = typed
    if typed is None or (not _holds_weights(typed) and _holds_weights(configured)):
        path = configured
    if path is None:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="no model",
                expected="a .save or a model file",
                fix="add -model FILE, or model: FILE to the config file",
            )
        )
    if _holds_weights(path):
        return read_model(path)
    return fresh(load(ModelConfig, path).config, seed=seed, origin=f"{NEW}{path}")


def given_models(
    typed: Sequence[Path], configured: Sequence[Path], *, seed: int
) -> tuple[Model, ...]:
    """The models that a session asks, one or several; several have to be `.save` files.

    Args:
        typed: On the command line; win, unless that is one model file that only describes the
            architecture of the `.save` files in the config file.
        configured: In the config file.
        seed: Of a fresh model's weights.

    Raises:
        DeepsegError: ``models-differ`` in channels or classes, or what is wrong with a file.
    """
    only_describes = len(typed) == 1 and not _holds_weights(typed[0])
    paths = configured if only_describes or not typed else typed
    if len(paths) < 2:
        first = typed[0] if typed else None
        return (given_model(first, configured[0] if configured else None, seed=seed),)
    models = tuple(read_model(path) for path in paths)
    raise_if_any(_other_questions(models))
    return models


def _other_questions(models: Sequence[Model]) -> Iterator[Problem]:
    first = models[0]
    for model in models[1:]:
        for what, own, wanted in (
            ("channels", model.config.channels, first.config.channels),
            ("classes", model.config.classes, first.config.classes),
        ):
            if own != wanted:
                yield Problem(
                    code="models-differ",
                    got=f"{what} {', '.join(own)}",
                    expected=f"{', '.join(wanted)}, as in {first.origin}",
                    fix="average models of the same task only",
                    where=model.origin,
                )


def _holds_weights(path: Path | None) -> bool:
    return path is not None and (path.suffix == ".save" or path.is_dir())


def to_save(model: Model) -> SaveFile:
    """What a `.save` of ``model`` holds."""
    return SaveFile(
        model=model.config.model_dump(mode="json"),
        weights=model.weights,
        preparation=None
        if model.preparation is None
        else model.preparation.model_dump(mode="json"),
        spacing_mm=model.spacing_mm,
        training=model.training,
        provenance=model.provenance,
    )


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
