"""``-export``: a model as a file that other programs run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.exports.onnx_export import export_onnx
from deepseg.exports.options import (
    ExportOptions,
    Kind,
    export_kind,
    options_without_meaning,
    segment_size,
)
from deepseg.exports.safetensors_file import export_safetensors
from deepseg.exports.train_step.folder import write_train_step
from deepseg.model.checkpoint import Checkpoint, read_checkpoint
from deepseg.report.console import Console
from deepseg.sessions.model_files import DESCRIPTIONS
from deepseg.transfer.new_parts import untrained_words

Exporter: TypeAlias = Callable[[Checkpoint, Path | None, ExportOptions], Sequence[Path]]
EXPORTERS: dict[Kind, Exporter] = {
    "onnx": export_onnx,
    "safetensors": export_safetensors,
    "train-step": write_train_step,
}


def export(
    path: Path | str,
    kind: str,
    *,
    trainable: bool = False,
    train: str | None = None,
    batch: int | None = None,
    segment: int | Sequence[int] | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
) -> Path:
    """Write a model as a file that other programs run; it is verified before it gets its name.

    Args:
        path: A `.save`, or the folder of a session, whose best model is taken.
        kind: ``onnx`` (a network for inference runtimes), ``safetensors`` (its weights with its
            settings) or ``train-step`` (a folder that trains without torch).
        trainable: Of an ONNX file: keep batch normalisation as nodes, and the names of all
            weights, so that it can be trained again.
        train: Of a train step: layers that learn, such as ``head``, ``fc.2,head`` or ``all``.
        batch: Of a train step: segments in it.
        segment: Voxels of a segment along X, Y, Z, or one number for all of them. Default: those
            of the model.
        out: Where to write. Default: beside the model, under its name.
        quiet: Print warnings and errors only.

    Returns:
        The file or folder written.

    Raises:
        DeepsegError: An unknown kind, a model that cannot be exported, a package that is missing,
            a result that differs from torch's, or ``out`` exists.
    """
    console = Console(quiet=quiet)
    exporter = EXPORTERS[export_kind(kind)]
    size = None if segment is None else segment_size(segment)
    options = ExportOptions(trainable=trainable, train=train, batch=batch, segment=size)
    raise_if_any(options_without_meaning(export_kind(kind), options))
    model = _exported_model(Path(path), console)
    if export_kind(kind) != "safetensors":
        raise_if_any(_preparation_problems(model))
    files = exporter(model, None if out is None else Path(out), options)
    for file in files:
        console.say(f"written to {file}")
    return files[0]


def _preparation_problems(model: Checkpoint) -> Iterator[Problem]:
    """The problem of a preparation that programs beside an exported network do not know."""
    if model.preparation is not None and model.preparation.nnunet is not None:
        yield Problem(
            code="export-preparation",
            got=f"cases that are prepared {model.preparation.summary}",
            expected="a preparation that the exported files can describe",
            fix="export its weights: -export MODEL safetensors",
            where=str(model.origin),
        )


def _exported_model(path: Path, console: Console) -> Checkpoint:
    """The model, with a warning for one that its users can do nothing with.

    Raises:
        DeepsegError: ``export-source`` for a file without weights, or what is wrong with the file.
    """
    if path.suffix in DESCRIPTIONS:
        raise DeepsegError(
            Problem(
                code="export-source",
                got="a file of settings, which holds no weights",
                expected="a .save, or the folder of a training session",
                fix="build and train the model first (-newModel, -train)",
                where=str(path),
            )
        )
    model = read_checkpoint(path)
    untrained = untrained_words(model)
    if untrained is not None:
        console.warn(f"{model.origin}: {untrained}")
    elif model.preparation is None:
        console.warn(f"{model.origin}: the model does not say how its cases were prepared")
    return model
