"""``safetensors``: the weights of a model by name, everything else as metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.errors import DeepsegError, Problem
from deepseg.exports.destination import destination, make_folder, raise_if_there
from deepseg.exports.options import ExportOptions
from deepseg.model.checkpoint import Checkpoint
from deepseg.storage.atomic import write_bytes
from deepseg.transfer.source import DESCRIPTION


def export_safetensors(
    model: Checkpoint, out: Path | None, _options: ExportOptions
) -> Sequence[Path]:
    """Write the weights of a model, with its settings, preparation and provenance as metadata.

    Args:
        model: That is exported.
        out: File, folder, or None for a file beside the model.

    Returns:
        The file.

    Raises:
        DeepsegError: ``file-exists`` or ``safetensors-extra-missing``.
        OutputNotWritable: ``output-not-writable``.
    """
    assert model.origin.file is not None
    file = destination(out, model.origin.file, suffix=".safetensors")
    raise_if_there([file])
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="safetensors-extra-missing",
                got="no package safetensors",
                expected="the package, to write this file",
                fix="pip install 'deepseg-pathways[safetensors]'",
            )
        ) from error
    weights = {name: value.contiguous() for name, value in model.weights.items()}
    make_folder(file)
    write_bytes(file, save(weights, {"format": "pt", DESCRIPTION: model.description()}))
    return (file,)
