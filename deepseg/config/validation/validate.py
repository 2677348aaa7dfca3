"""From a config file to a judged model: every reader of configs starts here.

`read_yaml` and `read_cfg` give a `Document`: plain values that know their lines. `validate` turns
it into a pydantic model, or says everything that is wrong with it at once. Nothing here knows what
the keys mean.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError, ValidationInfo

from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.files.document import Document, Path_
from deepseg.config.files.yaml_file import read_yaml
from deepseg.config.validation.validation_errors import problems_of
from deepseg.config.validation.validator_error import invalid
from deepseg.errors import DeepsegError, Problem

__all__ = [
    "ConfigPath",
    "Document",
    "Path_",
    "invalid",
    "problems_of",
    "read_cfg",
    "read_yaml",
    "validate",
]

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], document: Document) -> Model:
    """The values of ``document`` as ``model``; relative paths count from the document's folder.

    Raises:
        DeepsegError: Every problem of `problems_of` in the order of the file, or ``config-empty``.
    """
    if not document.values:
        raise DeepsegError(_empty(model, document))
    try:
        return model.model_validate(document.values, context={"folder": document.file.parent})
    except ValidationError as error:
        raise DeepsegError(*problems_of(error, document, model)) from None


def _empty(model: type[BaseModel], document: Document) -> Problem:
    needed = [name for name, field in model.model_fields.items() if field.is_required()]
    first = next(iter(needed), next(iter(model.model_fields)))
    return Problem(
        code="config-empty",
        got="a file without keys",
        expected=f"the keys {', '.join(needed)}" if needed else "at least one key",
        fix=f"begin with the key {first!r}, or give the path of another file",
        where=str(document.file),
    )


def _resolved(value: object, info: ValidationInfo) -> object:
    """``value`` as an absolute path, if it is one at all."""
    if not isinstance(value, str | Path):
        return value
    folder = Path() if info.context is None else info.context["folder"]
    try:
        written = Path(value).expanduser()
    except RuntimeError:
        raise invalid(
            "config-path",
            got=repr(str(value)),
            expected="a path, where '~' is the home folder of a known user",
            fix="write the whole path",
        ) from None
    # Symbolic links stay as they are: what they point to often has a name that tells nothing.
    return Path(os.path.normpath((folder / written).absolute()))


ConfigPath: TypeAlias = Annotated[Path, BeforeValidator(_resolved)]
"""A path in a config file: relative to the folder of that file, absolute, or with ``~``."""
