"""Kinds of export, and the options that each of them understands; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.geometry.boxes import Int3

Kind: TypeAlias = Literal["onnx", "safetensors", "train-step"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SYNONYMS: dict[str, str] = {
    **dict.fromkeys(("on", "ort", "onnxruntime", "openvino", "tensorrt", "inference"), "onnx"),
    **dict.fromkeys(("st", "weights", "huggingface", "pytorch", "torch"), "safetensors"),
    **dict.fromkeys(("device", "ondevice", "train", "training", "onnxtrain"), "train-step"),
}
MEANINGFUL: dict[Kind, tuple[str, ...]] = {
    "onnx": ("trainable", "segment"),
    "safetensors": (),
    "train-step": ("train", "batch", "segment"),
}


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export; None, or False, where they are not given.

    Attributes:
        trainable: Keep batch normalisation as nodes of its own, and the names of all weights.
        train: Layers that learn on the device, such as ``head``, ``fc.2,head`` or ``all``.
        batch: Segments of a step.
        segment: Voxels of a segment along X, Y, Z.
    """

    trainable: bool = False
    train: str | None = None
    batch: int | None = None
    segment: Int3 | None = None


def export_kind(word: str) -> Kind:
    """The kind of export that a user names.

    >>> export_kind("onnx")
    'onnx'

    Raises:
        DeepsegError: ``export-kind``.
    """
    for kind in KINDS:
        if kind == word:
            return kind
    raise DeepsegError(
        Problem(
            code="export-kind",
            got=f"the kind {word!r}",
            expected=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}",
            fix="name one of them" + did_you_mean(word, KINDS, synonyms=SYNONYMS),
        )
    )


def options_without_meaning(kind: Kind, options: ExportOptions) -> Iterator[Problem]:
    """Options that an export of another kind would understand.

    >>> [problem.got for problem in options_without_meaning("safetensors", ExportOptions(batch=4))]
    ['-batch with safetensors']
    """
    for option, value in vars(options).items():
        if value in (None, False) or option in MEANINGFUL[kind]:
            continue
        kinds = [other for other, meaningful in MEANINGFUL.items() if option in meaningful]
        yield Problem(
            code="command-line",
            got=f"-{option} with {kind}",
            expected=f"-{option} with {' or '.join(kinds)}",
            fix=f"remove -{option}",
        )


def segment_size(words: int | str | Sequence[int | str]) -> Int3:
    """Size of a segment as people write it: one number, or three.

    >>> segment_size(25), segment_size("25,27,29"), segment_size(["25", "27", "29"])
    ((25, 25, 25), (25, 27, 29), (25, 27, 29))

    Raises:
        DeepsegError: ``command-line``.
    """
    parts = [words] if isinstance(words, int | str) else words
    texts = ",".join(map(str, parts)).split(",")
    sizes = [int(text) for text in texts if text.isdecimal() and len(text) < 6]
    if len(sizes) != len(texts) or len(sizes) not in (1, 3) or min(sizes) < 1:
        raise DeepsegError(
            Problem(
                code="command-line",
                got=f"-segment {' '.join(map(str, parts))}",
                expected="one number of voxels, or three",
                fix="correct it, such as -segment 25 or -segment 25,27,29",
            )
        )
    x, y, z = sizes * 3 if len(sizes) == 1 else sizes
    return x, y, z
