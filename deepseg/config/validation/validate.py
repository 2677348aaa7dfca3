"""Plain values of a config file as a pydantic model, or all that is wrong with them at once.

Nothing here knows what the keys mean.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from deepseg.config.files.document import Document
from deepseg.config.validation.validation_errors import problems_of
from deepseg.errors import DeepsegError, Problem

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], document: Document) -> Model:
    """Values of ``document`` as ``model``; relative paths count from the document's folder.

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
