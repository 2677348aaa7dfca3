"""What training makes small: cross-entropy, soft Dice, soft intersection over union, penalties.

Probabilities are ``(N, K, X, Y, Z)``, labels ``(N, X, Y, Z)`` int64. Voxels with label -1 are
unknown and count nowhere. Sums run over the batch (the parts of all ranks) and space; formulas and
constants are DeepMedic's, so a training file means the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.config.blocks.losses import ClassWeights, Loss
from deepseg.training.distributed import SINGLE_RANK, Ranks

LOG_FLOOR = 1e-6  # keeps the logarithm finite
OVERLAP_FLOOR = 1e-5  # keeps an absent class at an overlap of 1


@dataclass(frozen=True)
class LossParts:
    """The loss of one batch.

    Attributes:
        total: What is differentiated: all parts and penalties, weighted.
        parts: Each part before weighting, for people to read.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def loss(
    logits: Tensor,
    labels: Tensor,
    kernels: Iterable[Tensor],
    settings: Loss,
    weights: Tensor,
    *,
    anchored: Sequence[tuple[Tensor, Tensor]] = (),
    ranks: Ranks = SINGLE_RANK,
) -> LossParts:
    """The weighted sum of all parts that `settings` asks for.

    Args:
        logits: ``(N, K, X, Y, Z)``.
        labels: ``(N, X, Y, Z)``, -1 where unknown.
        kernels: Convolution weights that L1 and L2 make small.
        settings: Weights of the parts.
        weights: ``(K,)`` class weights of the cross-entropy, from `class_weights`.
        anchored: Further convolution weights, each with the place to which L2-SP pulls it instead
            of L2; doi:10.48550/arXiv.1802.01483.
        ranks: Those that have the other parts of the batch.
    """
    probabilities = logits.float().softmax(1)
    known = labels >= 0
    parts = {}
    if settings.cross_entropy:
        parts["cross_entropy"] = cross_entropy(probabilities, labels, known, weights, ranks)
    if settings.dice or settings.iou:
        truth = one_hot(labels, known, probabilities.shape[1])
        masked = probabilities * known.unsqueeze(1)
        if settings.dice:
            parts["dice"] = dice_loss(masked, truth, ranks)
        if settings.iou:
            parts["iou"] = iou_loss(masked, truth, ranks)
    kernels = list(kernels)
    every = [*kernels, *(kernel for kernel, _ in anchored)]
    if settings.l1 and every:
        parts["l1"] = torch.stack([kernel.abs().sum() for kernel in every]).sum()
    if settings.l2 and kernels:
        parts["l2"] = torch.stack([kernel.square().sum() for kernel in kernels]).sum()
    if anchored:
        parts["l2_sp"] = torch.stack([(k - anchor).square().sum() for k, anchor in anchored]).sum()
    factors = settings.model_dump()
    total = torch.stack([factors[name] * part for name, part in parts.items()]).sum()
    return LossParts(total, {name: part.detach() for name, part in parts.items()})


def cross_entropy(
    probabilities: Tensor,
    labels: Tensor,
    known: Tensor,
    weights: Tensor,
    ranks: Ranks = SINGLE_RANK,
) -> Tensor:
    """``-sum w[y] log(p[y] + 1e-6) / voxels``; weights do not enter the denominator."""
    own = probabilities.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    losses = -(own + LOG_FLOOR).log() * weights[labels.clamp(min=0)] * known
    total, voxels = ranks.summed(losses.sum(), known.sum())
    return total / voxels.clamp(min=1)


def dice_loss(probabilities: Tensor, truth: Tensor, ranks: Ranks = SINGLE_RANK) -> Tensor:
    """``1 - mean over classes of 2 sum(py) / (sum p + sum y)``; doi:10.1109/3DV.2016.79."""
    overlap, predicted, true = ranks.summed(*_sums(probabilities, truth))
    return 1 - ((2 * overlap + OVERLAP_FLOOR) / (predicted + true + OVERLAP_FLOOR)).mean()


def iou_loss(probabilities: Tensor, truth: Tensor, ranks: Ranks = SINGLE_RANK) -> Tensor:
    """``1 - mean over classes of sum(py) / (sum p(1 - y) + sum y)``."""
    overlap, predicted, true = ranks.summed(*_sums(probabilities, truth))
    union = predicted - overlap + true
    return 1 - ((overlap + OVERLAP_FLOOR) / (union + OVERLAP_FLOOR)).mean()


def one_hot(labels: Tensor, known: Tensor, classes: int) -> Tensor:
    """``(N, K, X, Y, Z)`` float32; unknown voxels are 0 for every class."""
    return F.one_hot(labels.clamp(min=0), classes).movedim(-1, 1) * known.unsqueeze(1).float()


def _sums(probabilities: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    axes = (0, 2, 3, 4)
    return (probabilities * truth).sum(axes), probabilities.sum(axes), truth.sum(axes)


def class_weights(
    labels: Tensor,
    classes: int,
    settings: ClassWeights | None,
    *,
    epoch: int,
    epochs: int,
    ranks: Ranks = SINGLE_RANK,
) -> Tensor:
    """``(K,)``: weights of the cross-entropy in an epoch, counted from 0.

    Full weights until the first epoch of ``fade``, 1 from the last on, linear in between. Weights
    by frequency are ``voxels / K / voxels of the class``, of the known voxels in the batch.
    """
    ones = torch.ones(classes, device=labels.device)
    if settings is None:
        return ones
    if settings.weights is not None:
        full = torch.tensor(settings.weights, device=labels.device)
    else:
        own = torch.bincount(labels[labels >= 0].flatten(), minlength=classes)
        (counts,) = ranks.summed(own)
        full = (counts.sum() / classes) / (counts + LOG_FLOOR)
    first, last = (0, epochs) if settings.fade is None else settings.fade
    faded = (min(max(epoch, first), last) - first) / (last - first)
    return full * (1 - faded) + ones * faded
