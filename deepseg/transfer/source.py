"""An older model, wherever it comes from: its weights, and what is known of its layers.

Reading a file never runs anything from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseg.config.cases import Preparation
from deepseg.config.model import BatchNorm, ModelConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.model.checkpoint import (
    Checkpoint,
    Spacing,
    TrainingCohort,
    described_checkpoint,
    model_in,
    read_checkpoint,
)
from deepseg.model.layout import layout
from deepseg.transfer.first_common import WeightedLayer
from deepseg.transfer.sources import deepmedic
from deepseg.transfer.sources.device_folder import DeviceState, device_state
from deepseg.transfer.sources.graph_files import (
    digest_of_graph_file,
    float_weights,
    is_graph_file,
    kind_of_graph_file,
    read_graph,
    weighted_layers,
)
from deepseg.transfer.sources.nnunet.folder import is_nnunet_folder, nnunet_folder
from deepseg.transfer.sources.nnunet.unet_weights import axes_of, is_nnunet, unet_weights
from deepseg.transfer.sources.onnx_file import is_onnx_file, read_onnx_metadata
from deepseg.transfer.sources.tensor_bundle import looks_like_bundle, read_bundle
from deepseg.transfer.sources.tensor_files import (
    SAFETENSORS,
    is_tensor_file,
    read_tensors,
    safetensors_metadata,
)
from deepseg.transfer.sources.theano import refusal_of_theano_save

DESCRIPTION = "deepseg.model"  # where a file of another format holds that of a model
UNET = "unet1"  # the pathway of a U-Net
FOLDED = ".folded"  # how the names of weights end that were changed for inference
DEEPMEDIC_EPSILON = 1.17549435e-38  # the smallest normal float32, which DeepMedic adds to variances


@dataclass(frozen=True)
class Source:
    """An older model.

    Attributes:
        file: That was read.
        kind: ``deepseg model``, ``DeepMedic checkpoint``, ``TensorFlow checkpoint`` (of whatever
            model), ``safetensors``, ``torch state dict`` (and its entry of the file), TorchScript,
            ``numpy arrays``, ``ONNX`` or ``Keras``; of a model that deepseg has exported, as what.
        tensors: By our names, or, where the layers are not known, by those of the file.
        sha256: Of the file, or files, that hold the weights.
        config: Its settings; None for a file that holds named tensors only.
        preparation: How its training cases were prepared, where known.
        cohort: Its training cases, where known.
        is_random: It has learnt nothing.
        layers: Layers with weights in their order, of a file that describes a network.
        overrides: Settings that a model with these weights has to have, by key.
        device_steps: Steps that it was trained on a device, of a folder that was exported for it.
    """

    file: Path
    kind: str
    tensors: Mapping[str, Tensor]
    sha256: str
    config: ModelConfig | None
    preparation: Preparation | None = None
    cohort: TrainingCohort | None = None
    is_random: bool = False
    layers: tuple[WeightedLayer, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    device_steps: int | None = None

    @property
    def spacing_mm(self) -> Spacing | None:
        """Voxel size of its training cases, where known."""
        return None if self.cohort is None else self.cohort.spacing_mm


def read_source(file: Path, config: ModelConfig) -> Source:
    """Read an older model.

    Args:
        file: A `.save`, a session's folder (its best model), a TensorFlow checkpoint of DeepMedic
            (its prefix, or one of its files), a `.safetensors`, a state dict of torch, a folder of
            nnU-Net, a `.npz` of arrays, a file of ONNX or Keras, or a folder in which a device has
            trained (its latest state), or one of its states.
        config: Of the new model; a checkpoint of DeepMedic does not know its own layers and is
            read as one of this.

    Raises:
        DeepsegError: The file is missing, damaged, not understood, or belongs to another network.
    """
    on_device = device_state(file)
    if on_device is not None:
        return _of_device(on_device, file)
    if looks_like_bundle(file):
        return _deepmedic(file, config)
    if is_nnunet_folder(file):
        file = nnunet_folder(file).checkpoint
    named = read_named_tensors(file)
    if named is not None and config.unet is not None and is_nnunet(named.tensors):
        return _as_unet(named)
    description = None if named is None else description_in(file)
    if named is not None and description is not None:
        return _exported(named, description)
    if named is not None:
        return _as_deepmedic(named, config) if deepmedic.has_names(named.tensors) else named
    problem = refusal_of_theano_save(file)
    if problem is not None:
        raise DeepsegError(problem)
    return _save(model_in(file))


def _as_unet(named: Source) -> Source:
    """Weights of nnU-Net for a U-Net of our own."""
    weights = unet_weights(named.tensors, axes_of(named.file))
    return replace(
        named,
        kind="weights of nnU-Net, kernels turned to X, Y, Z",
        tensors={f"{UNET}.{name}": value for name, value in weights.items()},
    )


def read_named_tensors(file: Path) -> Source | None:
    """A file of weights as it is, without a model; None if it is not named like one.

    Raises:
        DeepsegError: The file is damaged or not understood.
    """
    if looks_like_bundle(file):
        tensors = {name: torch.from_numpy(array) for name, array in read_bundle(file).items()}
        return Source(file, "TensorFlow checkpoint", tensors, _sha256(_data_files(file)), None)
    if is_tensor_file(file):
        kind, tensors = read_tensors(file)
        return Source(file, kind, tensors, _sha256([file]), config=None)
    if is_graph_file(file):
        graph = read_graph(file)
        return Source(
            file,
            kind_of_graph_file(file),
            float_weights(graph),
            digest_of_graph_file(file),
            config=None,
            layers=tuple(weighted_layers(graph)),
        )
    return None


def _save(file: Path) -> Source:
    checkpoint = read_checkpoint(file, finite=False)
    return _of_checkpoint(checkpoint, file, "deepseg model", _sha256([file]))


def model_of_device(state: DeviceState) -> Checkpoint:
    """The model that was exported, with the weights that a device has left.

    Raises:
        DeepsegError: ``model-settings`` or ``weights-do-not-fit``.
    """
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in state.arrays.items()}
    return described_checkpoint(state.description, tensors, state.file)


def _of_device(state: DeviceState, file: Path) -> Source:
    source = _of_checkpoint(
        model_of_device(state), file, "deepseg model on a device", _sha256([state.file])
    )
    return replace(
        source,
        preparation=Preparation.model_validate(state.preparation),
        is_random=source.is_random and state.steps == 0,
        device_steps=state.steps,
    )


def _of_checkpoint(checkpoint: Checkpoint, file: Path, kind: str, sha256: str) -> Source:
    return Source(
        file=file,
        kind=kind,
        tensors=checkpoint.weights,
        sha256=sha256,
        config=checkpoint.config,
        preparation=checkpoint.preparation,
        cohort=checkpoint.cohort,
        is_random=checkpoint.is_random,
    )


def description_in(file: Path) -> str | None:
    """The description that deepseg has written into a file of another format; None without one."""
    if is_onnx_file(file):
        return read_onnx_metadata(file).get(DESCRIPTION)
    if file.suffix == SAFETENSORS:
        return safetensors_metadata(file).get(DESCRIPTION)
    return None


def _exported(named: Source, description: str) -> Source:
    """A model that deepseg has exported.

    Raises:
        DeepsegError: ``export-not-trainable`` for a network whose weights were folded.
    """
    if any(name.endswith(FOLDED) for name in named.tensors):
        raise DeepsegError(_not_trainable(named))
    tensors = {**named.tensors, **dict(_windows(named.tensors, description))}
    try:
        checkpoint = described_checkpoint(description, tensors, named.file)
    except DeepsegError as error:
        is_unfitting = all(problem.code == "weights-do-not-fit" for problem in error.problems)
        if is_unfitting and is_onnx_file(named.file):  # a U-Net's head, whose name is lost
            raise DeepsegError(_not_trainable(named)) from error
        raise
    kind = f"deepseg model, exported as {named.kind}"
    return _of_checkpoint(checkpoint, named.file, kind, named.sha256)


def _not_trainable(named: Source) -> Problem:
    return Problem(
        code="export-not-trainable",
        got="a network that was exported to be run, without -trainable: weights are folded "
        "together, and their names are lost",
        expected="one with weights of its own for every layer",
        fix="export it again with -trainable, or use its .save",
        where=str(named.file),
    )


def _windows(tensors: Mapping[str, Tensor], description: str) -> Iterator[tuple[str, Tensor]]:
    """Windows of batch statistics that are full of those of a file that has no windows."""
    settings = json.loads(description).get("model", {}).get("batch_norm")
    if not isinstance(settings, dict) or settings.get("statistics") != "window":
        return
    length = int(settings["length"])
    for name, value in tensors.items():
        norm, _, role = name.rpartition(".running_")
        if norm.endswith(".norm") and f"{norm}.steps" not in tensors:
            yield f"{norm}.window_{role}", value.repeat(length, 1)
            yield f"{norm}.steps", torch.tensor(length)


def _deepmedic(file: Path, config: ModelConfig) -> Source:
    return _imported(file, read_bundle(file), _sha256(_data_files(file)), config)


def _as_deepmedic(named: Source, config: ModelConfig) -> Source:
    """Arrays that somebody exported from DeepMedic by its own names."""
    arrays = {name: tensor.numpy() for name, tensor in named.tensors.items()}
    return _imported(named.file, arrays, named.sha256, config)


def _imported(
    file: Path, arrays: Mapping[str, NDArray[Any]], sha256: str, config: ModelConfig
) -> Source:
    try:
        tensors = deepmedic.weights(arrays, layout(config))
    except DeepsegError as error:
        raise error.at(str(file)) from error
    overrides = _deepmedic_settings(config, tensors)
    return Source(
        file=file,
        kind="DeepMedic checkpoint",
        tensors=tensors,
        sha256=sha256,
        config=config.model_copy(update=overrides),
        overrides=overrides,
    )


def settings_for(source: Source, config: ModelConfig) -> ModelConfig:
    """The new model's settings, with those that belong to the source's weights."""
    return config.model_copy(update=dict(source.overrides))


def _deepmedic_settings(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings without which DeepMedic's weights compute something else.

    They were trained with its alignment of context, its window of batch-norm statistics and no more
    than rounding added to variances.
    """
    changes: dict[str, Any] = {"context_alignment": "deepmedic"}
    windows = [tensor for name, tensor in tensors.items() if name.endswith(".norm.window_mean")]
    if isinstance(config.batch_norm, BatchNorm) and windows:
        changes["batch_norm"] = BatchNorm(
            statistics="window", length=windows[0].shape[0], epsilon=DEEPMEDIC_EPSILON
        )
    return changes


def _data_files(prefix: Path) -> list[Path]:
    stem = prefix.name.removesuffix(".index").split(".data-")[0]
    return sorted(prefix.parent.glob(f"{stem}.data-*"))


def _sha256(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of all files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
