"""An older model, wherever it comes from: weights under our names and what is known of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deepseg.config.model import BatchNorm, ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import Layout
from deepseg.storage.save_file import read_save
from deepseg.transfer.sources import deepmedic
from deepseg.transfer.sources.tensor_bundle import looks_like_bundle, read_bundle
from deepseg.transfer.sources.theano import refusal_of_theano_save

DEEPMEDIC_EPSILON = 1.17549435e-38  # the smallest normal float32, which DeepMedic adds to variances


@dataclass(frozen=True)
class Source:
    """An older model.

    Attributes:
        file: As the user named it.
        kind: ``deepseg model`` or ``DeepMedic checkpoint``.
        tensors: By our names.
        sha256: Of the file, or files, that hold the weights.
    """

    file: Path
    kind: str
    tensors: Mapping[str, Tensor]
    sha256: str


def read_source(file: Path, layout: Layout) -> Source:
    """Read an older model.

    Args:
        file: A `.save`, or a TensorFlow checkpoint of DeepMedic (its prefix, or one of its files).
        layout: Of the new network; a checkpoint of DeepMedic does not know its own layers.

    Raises:
        DeepsegError: The file is missing, damaged, not understood, or belongs to another network.
    """
    if looks_like_bundle(file):
        arrays = read_bundle(file)
        try:
            tensors = deepmedic.weights(arrays, layout)
        except DeepsegError as error:
            raise error.at(str(file)) from error
        return Source(file, "DeepMedic checkpoint", tensors, _sha256(_data_files(file)))
    problem = refusal_of_theano_save(file)
    if problem is not None:
        raise DeepsegError(problem)
    weights = read_save(file).weights
    return Source(file, "deepseg model", weights, _sha256([file]))


def settings_for(source: Source, config: ModelConfig) -> ModelConfig:
    """The new model's settings, where the source's weights need some of their own.

    Weights of DeepMedic were trained with its alignment of context, its window of batch-norm
    statistics and no more than rounding added to variances; with others they compute something
    else.
    """
    if source.kind != "DeepMedic checkpoint":
        return config
    changes: dict[str, object] = {"context_alignment": "deepmedic"}
    windows = [t for name, t in source.tensors.items() if name.endswith(".norm.window_mean")]
    if isinstance(config.batch_norm, BatchNorm) and windows:
        changes["batch_norm"] = BatchNorm(
            statistics="window", length=windows[0].shape[0], epsilon=DEEPMEDIC_EPSILON
        )
    return config.model_copy(update=changes)


def _data_files(prefix: Path) -> list[Path]:
    stem = prefix.name.removesuffix(".index").split(".data-")[0]
    return sorted(prefix.parent.glob(f"{stem}.data-*"))


def _sha256(files: Sequence[Path]) -> str:
    """Of the contents of all files, one behind the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
