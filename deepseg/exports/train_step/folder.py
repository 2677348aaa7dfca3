"""A folder that trains a model on a device: graphs, a state, their description and a program."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseg.config.blocks.freezing import Freeze
from deepseg.errors import DeepsegError, Problem
from deepseg.exports import on_device
from deepseg.exports.destination import destination, raise_if_there
from deepseg.exports.options import ExportOptions
from deepseg.exports.train_step.manifest import StepSettings, manifest
from deepseg.exports.train_step.onnx_file import onnx_content
from deepseg.exports.train_step.readme import readme
from deepseg.exports.train_step.selection import trained_layers
from deepseg.exports.train_step.step import inference, initial_state, training_step
from deepseg.exports.train_step.verification import verify
from deepseg.geometry.boxes import text
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.network import Network
from deepseg.storage.atomic import replacing_folder
from deepseg.training.freezing import freeze

BATCH = 4
LAYERS = "head"
PROGRAM = "device_train.py"


def write_train_step(model: Checkpoint, out: Path | None, options: ExportOptions) -> Sequence[Path]:
    """Write a folder that trains a model without deepseg and without torch.

    Args:
        model: With the weights from which training on the device begins.
        out: The folder; None for one beside the model, under its name.
        options: Layers that learn, batch and segment.

    Returns:
        The folder.

    Raises:
        DeepsegError: Layers, segment or operators that do not fit, a missing package, or a step
            that differs from torch's.
    """
    assert model.origin.file is not None
    folder = destination(out, model.origin.file, suffix="")
    raise_if_there([folder])
    network = model.network()
    settings = _settings(model, network, options)
    _freeze(network, settings)
    step = training_step(network, batch=settings.batch, segment=settings.segment)
    names = ", ".join(model.config.classes)
    words = {"classes": names, "channels": ", ".join(model.config.channels)}
    equal = np.ones(len(model.config.classes), np.float32)
    contents = {
        "train_step.onnx": onnx_content(step, defaults={"class_weights": equal}, metadata=words),
        "infer.onnx": onnx_content(
            inference(network, batch=1, segment=model.config.segment_sizes["inference"]),
            defaults={},
            metadata=words,
        ),
        "state.npz": _arrays(network),
        **program(),
        "README.md": readme(model, settings).encode(),
    }
    verify(network, settings, step, contents["train_step.onnx"])
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    record = manifest(model, network, settings, step, digests)
    contents["manifest.json"] = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    with replacing_folder(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
    return [folder]


def program() -> dict[str, bytes]:
    """The files of the program: ``device_train.py``, and its modules in a folder beside it.

    They import each other by the name of that folder, and so need nothing of deepseg.
    """
    place = Path(on_device.__file__).parent
    modules = {file.name: file.read_text("utf-8") for file in sorted(place.glob("*.py"))}
    return {
        name if name == PROGRAM else f"{place.name}/{name}": text.replace(
            on_device.__name__, place.name
        ).encode()
        for name, text in modules.items()
    }


def _settings(model: Checkpoint, network: Network, options: ExportOptions) -> StepSettings:
    words = LAYERS if options.train is None else options.train
    segment = model.config.segment_sizes["train"] if options.segment is None else options.segment
    problem = model.config.segment_size_problem(segment)
    if problem is not None:
        raise DeepsegError(
            Problem(problem.code, f"-segment {text(segment)}", problem.expected, problem.fix)
        )
    layers = trained_layers(words, network.layout)
    return StepSettings(words, layers, BATCH if options.batch is None else options.batch, segment)


def _freeze(network: Network, settings: StepSettings) -> None:
    """What does not learn keeps its statistics, and drops no voxels."""
    frozen = tuple(a for a in network.layout.order if a not in settings.layers)
    network.train()
    freeze(network, Freeze(layers=frozen))


def _arrays(network: Network) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **initial_state(network))
    return stream.getvalue()
