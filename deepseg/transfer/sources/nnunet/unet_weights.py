"""Weights of nnU-Net's two U-Nets by the names that a U-Net of our own gives them.

nnU-Net counts stages of its encoder from the image and those of its decoder from the bottom, and
its kernels go along Z, Y, X; our levels count from the bottom, and kernels go along X, Y, Z.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Int3
from deepseg.transfer.sources.nnunet.folder import PLANS, nnunet_folder

AXES: Int3 = (2, 1, 0)  # of X, Y and Z, where no plans say anything else
_STAGE = re.compile(r"encoder\.stages\.(\d+)\.")
_PATTERNS = (
    (r"encoder\.stem\.convs\.0\.(conv|norm)\.(\w+)", "level{top}.stem.{1}.{2}"),
    (
        r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(\w+)",
        "level{down}.encoder.{next}.{3}.{4}",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv(\d)\.(conv|norm)\.(\w+)",
        "level{down}.encoder.{next}.{4}{3}.{5}",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d\.conv\.(\w+)",
        "level{down}.encoder.{next}.skip.{3}",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d\.norm\.(\w+)",
        "level{down}.encoder.{next}.skip_norm.{3}",
    ),
    (r"decoder\.transpconvs\.(\d+)\.(\w+)", "level{up}.up.{2}"),
    (
        r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(\w+)",
        "level{up}.decoder.{next}.{3}.{4}",
    ),
    (r"decoder\.seg_layers\.(\d+)\.(\w+)", "level{up}.head.{2}"),
)


def is_nnunet(tensors: Mapping[str, Tensor]) -> bool:
    """True for names that the U-Nets of nnU-Net have, with or without words in front."""
    words = ("encoder.stages.0.", "decoder.transpconvs.0.")
    return all(any(word in name for name in tensors) for word in words)


def unet_weights(tensors: Mapping[str, Tensor], axes: Int3) -> dict[str, Tensor]:
    """The tensors by our names within a pathway, with kernels along X, Y, Z.

    >>> import torch
    >>> kernel = torch.zeros(8, 4, 1, 3, 5)  # along Z, Y, X
    >>> names = ("encoder.stages.1.0.convs.0.conv.weight", "decoder.transpconvs.0.bias")
    >>> weights = unet_weights({names[0]: kernel, names[1]: torch.zeros(4)}, (2, 1, 0))
    >>> {name: tuple(value.shape) for name, value in weights.items()}
    {'level0.encoder.1.conv.weight': (8, 4, 5, 3, 1), 'level1.up.bias': (4,)}

    Args:
        tensors: By nnU-Net's names; those that it stores a second time are left out.
        axes: Of the tensors' kernels, those of X, Y and Z, from 0.
    """
    stages = [int(match[1]) for match in map(_STAGE.search, tensors) if match is not None]
    top = max(stages, default=0)
    order = (0, 1, *(2 + axis for axis in axes))
    weights = {}
    for name, value in tensors.items():
        renamed = _level_name(name[max(name.find("encoder.st"), name.find("decoder."), 0) :], top)
        if renamed is not None and "decoder.encoder." not in name:
            weights[renamed] = value.permute(order).contiguous() if value.ndim == 5 else value
    return weights


def axes_of(file: Path) -> Int3:
    """The axes of kernels in a checkpoint: those of the plans beside it, or nnU-Net's usual ones.

    Args:
        file: In the folder of a fold, or anywhere else.
    """
    if not (file.parent.parent / PLANS).is_file():
        return AXES
    try:
        return nnunet_folder(file.parent).axes
    except DeepsegError:
        return AXES


def _level_name(name: str, top: int) -> str | None:
    """Our name of a tensor; None for one that no U-Net of ours has."""
    for pattern, form in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match is not None:
            numbers = [int(group) for group in match.groups() if group.isdigit()]
            first, second = (*numbers, 0, 0)[:2]
            places = {"top": top, "down": top - first, "up": first + 1, "next": second + 1}
            return form.format("", *match.groups(), **places)
    return None
