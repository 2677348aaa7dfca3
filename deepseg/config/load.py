"""Reads a model, train or test file, in YAML or as DeepMedic's ``.cfg``, and judges it.

The kind of file follows from the model class that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from deepseg.config.deepmedic.old_models import training_keys
from deepseg.config.deepmedic.translate import (
    in_deepmedic_keys,
    in_deepmedic_words,
    text_in_deepmedic_keys,
    translate,
)
from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.files.document import Document
from deepseg.config.files.kind_of_file import FileKind, raise_if_of_another_kind
from deepseg.config.files.yaml_file import read_yaml
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.config.validation.validate import validate
from deepseg.errors import DeepsegError, Problem, ReportedByPeer, raise_if_any

Config = TypeVar("Config", ModelConfig, TrainConfig, TestConfig)

AnyConfig: TypeAlias = ModelConfig | TrainConfig | TestConfig

KINDS: dict[type[AnyConfig], FileKind] = {
    ModelConfig: "model",
    TrainConfig: "train",
    TestConfig: "test",
}


@dataclass(frozen=True)
class Loaded(Generic[Config]):
    """A config, and warnings about how its file was read."""

    config: Config
    warnings: tuple[str, ...]


def load(
    model: type[Config], file: Path, *, model_file: Path | str | None = None
) -> Loaded[Config]:
    """Config in ``file``: YAML by its ending ``.yaml`` or ``.yml``, DeepMedic's by ``.cfg``.

    Args:
        model: `ModelConfig`, `TrainConfig` or `TestConfig`.
        file: Relative paths inside it count from its folder.
        model_file: The file that describes the model, in which old versions of DeepMedic wrote
            batch sizes and optimiser; None for the one that a `.cfg` names.

    Raises:
        DeepsegError: Everything that is wrong with the file; ``config-file-type`` for another
            ending; ``config-kind`` for a file of another kind.
    """
    match file.suffix.lower():
        case ".yaml" | ".yml":
            document = read_yaml(file)
            raise_if_of_another_kind(document, KINDS[model])
            return Loaded(validate(model, document), ())
        case ".cfg":
            document = read_cfg(file)
            raise_if_of_another_kind(document, KINDS[model])
            carried = training_keys(document, None if model_file is None else Path(model_file))
            return _from_deepmedic(model, document, carried)
    raise DeepsegError(
        Problem(
            code="config-file-type",
            got=f"the ending {file.suffix!r}" if file.suffix else "a file name without an ending",
            expected=".yaml or .yml, or .cfg for a file of DeepMedic",
            fix=f"give the path of a {KINDS[model]} file, or rename it",
            where=str(file),
        )
    )


@contextmanager
def in_words_of(file: Path, model: type[AnyConfig]) -> Iterator[None]:
    """Let problems that arise while it is open speak of the keys of ``file``, if that is a `.cfg`.

    Args:
        file: The config file of a session.
        model: `TrainConfig` or `TestConfig`.
    """
    try:
        yield
    except DeepsegError as error:
        if file.suffix.lower() != ".cfg" or isinstance(error, ReportedByPeer):
            raise
        kind = KINDS[model]
        problems = (in_deepmedic_keys(problem, kind) for problem in error.problems)
        raise type(error)(*problems) from error


def wording_of(file: Path, model: type[AnyConfig]) -> Callable[[str], str]:
    """Function that lets warnings speak of the keys of ``file``, if that is a `.cfg`.

    Args:
        file: The config file of a session.
        model: `TrainConfig` or `TestConfig`.
    """
    if file.suffix.lower() != ".cfg":
        return lambda text: text
    return lambda text: text_in_deepmedic_keys(text, KINDS[model])


def _from_deepmedic(
    model: type[Config], document: Document, carried: Mapping[str, Any]
) -> Loaded[Config]:
    kind = KINDS[model]
    translation = translate(document, kind, carried=carried)
    problems = list(translation.problems)
    try:
        config = validate(model, translation.document)
    except DeepsegError as error:
        problems += [
            in_deepmedic_words(problem, translation.document, kind)
            for problem in error.problems
            if _is_independent(problem, translation.problems)
        ]
        raise DeepsegError(*problems) from None
    raise_if_any(problems)
    return Loaded(config, translation.warnings)


def _is_independent(problem: Problem, untranslated: Sequence[Problem]) -> bool:
    """True unless ``problem`` may be a consequence of keys that could not be translated."""
    return not untranslated or problem.code == "config-value"
