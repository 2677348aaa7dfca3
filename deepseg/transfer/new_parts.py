"""The weights of a model that no older model has filled: still as the seed of the model drew them.

A file does not say of every weight where it comes from. But its seed is known, so that the same
numbers can be drawn again: those that are equal were filled from nowhere, also in tensors of which
an older model has filled a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepseg.model.checkpoint import Checkpoint, new_checkpoint


def new_parts(model: Checkpoint) -> dict[str, Tensor]:
    """True where a weight is as the seed drew it, by name of the tensor; empty without a seed.

    Args:
        model: One that was not trained since it was made.

    Returns:
        For each tensor a bool tensor of its shape.
    """
    seed = model.provenance.seed
    if seed is None:
        return {}
    initial = new_checkpoint(model.config, seed=seed).weights
    return {name: weight == initial[name] for name, weight in model.weights.items()}


def untrained_words(model: Checkpoint) -> str | None:
    """Weights of ``model`` that have learnt nothing, in words; None if there are none."""
    if model.is_random:
        return "these weights are random, nothing has been learnt"
    layers = _drawn_layers(model)
    if not layers:
        return None
    return (
        f"weights of {', '.join(layers)} are random: no older model has filled them, and they have "
        "learnt nothing since; train the model first"
    )


def _drawn_layers(model: Checkpoint) -> tuple[str, ...]:
    """Layers with kernels that the seed drew, at least in part, and that were not trained since."""
    if model.provenance.trained_by or model.provenance.filled_from is None:
        return ()
    names = [
        name
        for name, is_new in new_parts(model).items()
        if is_new.ndim > 1 and model.weights[name][is_new].any()
    ]
    return tuple(dict.fromkeys(_layer(name) for name in names))


def _layer(name: str) -> str:
    """Address of the layer of a kernel.

    >>> _layer("fc.2.conv.weight"), _layer("imported1.head.weight")
    ('fc.2', 'imported1.head')
    """
    return name.removesuffix(".weight").removesuffix(".conv")


def with_new_parts(model: Checkpoint, *, seed: int) -> tuple[Checkpoint, tuple[str, ...]]:
    """``model`` with its new parts drawn with another seed, and the layers that they are in.

    A model that was trained since it was made stays as it is: nothing in it is new.

    Args:
        model: Filled from an older one, or random.
        seed: Of the weights that no older model has filled.
    """
    provenance = model.provenance
    if provenance.trained_by or provenance.seed in (None, seed):
        return model, ()
    drawn = new_checkpoint(model.config, seed=seed).weights
    weights = {
        name: torch.where(is_new, drawn[name], model.weights[name])
        for name, is_new in new_parts(model).items()
    }
    changed = replace(model, weights=weights, provenance=replace(provenance, seed=seed))
    return changed, _changed_layers(model.weights, weights)


def _changed_layers(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[str, ...]:
    names = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    return tuple(dict.fromkeys(".".join(name.split(".")[:-2]) for name in names))
