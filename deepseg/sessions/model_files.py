"""The models that a session is about: named on the command line or in its config file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.inference.requests import model_differences
from deepseg.model.checkpoint import Checkpoint, Origin, model_in, new_checkpoint, read_checkpoint


def session_model(typed: Path | None, configured: Path | None, *, seed: int) -> Checkpoint:
    """The model that a session is about: in a `.save`, or a new one from a model file.

    Args:
        typed: On the command line; wins, unless it only describes the architecture of the `.save`
            that the config file names, as DeepMedic's ``-model`` does. A session's folder means
            its best model.
        configured: In the config file.
        seed: Of a new model's weights.

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
        return read_checkpoint(model_in(path))
    return new_checkpoint(load(ModelConfig, path).config, seed=seed, origin=Origin(path))


def session_models(
    typed: Sequence[Path], configured: Sequence[Path], *, seed: int
) -> tuple[Checkpoint, ...]:
    """The models that a session applies, one or several; several have to be `.save` files.

    Args:
        typed: On the command line; win, unless that is one model file that only describes the
            architecture of the `.save` files in the config file.
        configured: In the config file.
        seed: Of a new model's weights.

    Raises:
        DeepsegError: ``models-differ`` in channels or classes, or what is wrong with a file.
    """
    only_describes = len(typed) == 1 and not _holds_weights(typed[0])
    paths = configured if only_describes or not typed else typed
    if len(paths) < 2:
        first = typed[0] if typed else None
        return (session_model(first, configured[0] if configured else None, seed=seed),)
    models = tuple(read_checkpoint(model_in(path)) for path in paths)
    raise_if_any(model_differences(models))
    return models


def _holds_weights(path: Path | None) -> bool:
    return path is not None and (path.suffix == ".save" or path.is_dir())
