"""The training state in a model file, judged before a session goes on from it.

A checksum says that a file is as it was written; not that deepseg wrote it. Other programs remove
the optimiser to make files smaller, or put weights into them that were trained elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from torch import Tensor

from deepseg.errors import Problem
from deepseg.model.checkpoint import Checkpoint
from deepseg.training.optimization import STATE_KINDS

PARTS: dict[str, tuple[type, ...]] = {
    "session": (str,),
    "settings": (dict,),
    "epoch": (int,),
    "scores": (list,),
    "best": (int, float, NoneType),
    "optimizer": (dict,),
    "machine": (dict,),
}
OPTIONAL_PARTS: dict[str, tuple[type, ...]] = {
    "command": (str,),
    "subepoch": (int,),
    "watched": (list,),
    "end": (str,),
    "slowing": (int, float),
    "weights": (dict,),
    "anchors": (dict,),
    "unfinished": (dict,),
    "start": (dict, NoneType),
    "cases": (dict,),
}


def training_state_problems(model: Checkpoint) -> list[Problem]:
    """Parts of a model's training state that are not there, or do not fit its weights."""
    training = model.training or {}
    faults = [f"no {key!r}" for key in PARTS if key not in training]
    faults += [
        f"{key!r} of another type"
        for key, types in (PARTS | OPTIONAL_PARTS).items()
        if key in training and not isinstance(training[key], types)
    ]
    if not faults:
        faults += _optimizer_faults(training["optimizer"], model.weights)
        for part in ("weights", "anchors"):
            faults += _shape_faults(training.get(part, {}), model.weights, f"{part} of ")
    if not faults:
        return []
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return [
        Problem(
            code="training-state",
            got=f"a training state with {', '.join(faults[:3])}{more}",
            expected="optimiser and progress as deepseg writes them",
            fix="remove the file, and the session goes on from the one before it; or fine-tune "
            "its weights with -resetOptimizer in a session of another name",
            where=str(model.origin.file),
        )
    ]


def _optimizer_faults(state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[str]:
    kinds = STATE_KINDS.get(state.get("name", ""))
    by_weight, steps = state.get("state"), state.get("steps")
    if kinds is None or not isinstance(by_weight, dict) or not isinstance(steps, dict):
        yield "an 'optimizer' without its name, steps or state"
        return
    for name, tensors in by_weight.items():
        if name not in steps or set(tensors) != set(kinds):
            yield f"an 'optimizer' without {', '.join(kinds)} and steps of {name}"
            continue
        for kind in kinds:
            yield from _shape_faults({name: tensors[kind]}, weights, f"{kind} of ")


def _shape_faults(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor], title: str
) -> Iterator[str]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            yield f"{title}{name} that is no tensor"
        elif name not in weights or tensor.shape != weights[name].shape:
            yield f"{title}{name} of shape {tuple(tensor.shape)}"
