"""The loss: cross-entropy, focal loss, soft Dice and IoU, registered losses, penalties.

Probabilities are ``(N, K, X, Y, Z)``, labels ``(N, X, Y, Z)`` int64. Voxels with label -1 are
unlabelled and count nowhere. Sums run over the batch (the parts of all ranks) and space; formulas
and constants are DeepMedic's, so a training file means the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.config.blocks.losses import ClassWeights, Loss
from deepseg.training.distributed import SINGLE_RANK, Ranks
from deepseg.training.loss_registry import registered_value

LOG_FLOOR = 1e-6  # keeps the logarithm finite
FEW_CLASSES = 256  # that are compared with every voxel; of more, voxels are added up one by one
OVERLAP_FLOOR = 1e-5  # keeps an absent class at an overlap of 1


@dataclass(frozen=True)
class LossParts:
    """The loss of one batch.

    Attributes:
        total: Differentiated by training: all parts and penalties, weighted.
        parts: Each part before weighting, for people to read.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def loss(
    logits: Tensor,
    labels: Tensor,
    kernels: Iterable[Tensor],
    settings: Loss,
    weights: Tensor | None,
    *,
    anchored: Sequence[tuple[Tensor, Tensor]] = (),
    levels: Sequence[tuple[Tensor, Tensor]] = (),
    ranks: Ranks = SINGLE_RANK,
) -> LossParts:
    """The weighted sum of all parts that ``settings`` asks for.

    One voxel, whose class has half of the probability, and a kernel of one weight:

    >>> logits, labels = torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    >>> settings = Loss(cross_entropy=0, dice=1, l1=0, l2=0.01)
    >>> result = loss(logits, labels, [torch.tensor([3.0])], settings, torch.ones(2))
    >>> round(result.total.item(), 3), sorted(result.parts)
    (0.757, ['dice', 'l2'])

    Args:
        logits: ``(N, K, X, Y, Z)``.
        labels: ``(N, X, Y, Z)``, -1 where there is none.
        kernels: Convolution weights that L1 and L2 make small.
        settings: Weights of the parts.
        weights: ``(K,)`` class weights of the cross-entropy, from `class_weights`; None for 1.
        anchored: Further convolution weights, each with the place to which L2-SP pulls it instead
            of L2; doi:10.48550/arXiv.1802.01483.
        levels: Logits and labels of the coarser levels of a U-Net, finer first, which count with
            the weights of ``settings``, as in doi:10.48550/arXiv.1409.5185.
        ranks: Those that have the other parts of the batch.
    """
    factors = {**settings.model_dump(), **settings.custom}
    parts = _data_parts(logits, labels, settings, weights, ranks)
    terms = _weighted(parts, factors)
    if levels:
        scored = [_data_parts(*level, settings, weights, ranks) for level in levels]
        coarser = torch.stack([torch.stack(_weighted(part, factors)).sum() for part in scored])
        shares = torch.tensor(settings.weights_of_levels(1 + len(levels)), device=coarser.device)
        data = torch.stack(terms).sum() + (shares * coarser).sum()
        terms = [data / (1 + shares.sum())]
        parts["deep_supervision"] = coarser.mean()
    penalties = _penalties(kernels, settings, anchored)
    total = torch.stack([*terms, *_weighted(penalties, factors)]).sum()
    parts |= penalties
    return LossParts(total, {name: part.detach() for name, part in parts.items()})


def _data_parts(
    logits: Tensor, labels: Tensor, settings: Loss, weights: Tensor | None, ranks: Ranks
) -> dict[str, Tensor]:
    """The parts of the loss that depend on the labels."""
    probabilities = logits.float().softmax(1)
    mask = labels >= 0
    parts = {}
    if settings.cross_entropy:
        parts["cross_entropy"] = cross_entropy(probabilities, labels, mask, weights, ranks)
    if settings.focal:
        parts["focal"] = focal_loss(
            probabilities, labels, mask, weights, power=settings.focal_power, ranks=ranks
        )
    if settings.dice or settings.iou:
        truth = class_masks(labels, mask, probabilities.shape[1])
        masked = probabilities * mask.unsqueeze(1)
        if settings.dice:
            parts["dice"] = dice_loss(masked, truth, ranks)
        if settings.iou:
            parts["iou"] = iou_loss(masked, truth, ranks)
    for name, factor in settings.custom.items():
        if factor:
            parts[name] = custom_loss(name, logits.float(), labels, ranks)
    return parts


def _weighted(parts: Mapping[str, Tensor], factors: Mapping[str, float]) -> list[Tensor]:
    return [part if factors[name] == 1 else factors[name] * part for name, part in parts.items()]


def _penalties(
    kernels: Iterable[Tensor], settings: Loss, anchored: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The parts of the loss that depend on the weights alone."""
    parts = {}
    kernels = list(kernels)
    all_kernels = [*kernels, *(kernel for kernel, _ in anchored)]
    if settings.l1 and all_kernels:
        parts["l1"] = _sum_of_absolutes(all_kernels)
    if settings.l2 and kernels:
        parts["l2"] = _sum_of_squares(kernels)
    if anchored:
        parts["l2_sp"] = _sum_of_squares([kernel - anchor for kernel, anchor in anchored])
    return parts


def _sum_of_absolutes(tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].device.type == "cpu":
        return torch.stack([tensor.abs().sum() for tensor in tensors]).sum()
    return torch.stack(torch._foreach_norm(list(tensors), 1)).sum()  # all at once


def _sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].device.type == "cpu":
        return torch.stack([tensor.square().sum() for tensor in tensors]).sum()
    norms = torch.stack(torch._foreach_norm(list(tensors), 2))
    return norms.dot(norms)


def cross_entropy(
    probabilities: Tensor,
    labels: Tensor,
    mask: Tensor,
    weights: Tensor | None,
    ranks: Ranks = SINGLE_RANK,
) -> Tensor:
    """``-sum w[y] log(p[y] + 1e-6) / voxels``; weights do not enter the denominator.

    Args:
        probabilities: ``(N, K, X, Y, Z)``.
        labels: ``(N, X, Y, Z)``.
        mask: ``(N, X, Y, Z)`` bool, the voxels that count.
        weights: ``(K,)``, or None for 1.
        ranks: Those that have the other parts of the batch.

    >>> p = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1, 1)
    >>> y = torch.ones(1, 1, 1, 1, dtype=torch.int64)
    >>> loss_of_voxel = cross_entropy(p, y, y >= 0, torch.tensor([1.0, 2.0]))
    >>> round(loss_of_voxel.item(), 3)  # -2 log 0.75
    0.575
    """
    gains, _ = _voxel_gains(probabilities, labels, weights)
    return _mean(gains, mask, ranks)


def focal_loss(
    probabilities: Tensor,
    labels: Tensor,
    mask: Tensor,
    weights: Tensor | None,
    *,
    power: float,
    ranks: Ranks = SINGLE_RANK,
) -> Tensor:
    """``-sum w[y] (1 - p[y])^power log(p[y] + 1e-6) / voxels``; doi:10.1109/ICCV.2017.324.

    Arguments are those of `cross_entropy`. Voxels that are predicted well count less:

    >>> p = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1, 1)
    >>> y = torch.ones(1, 1, 1, 1, dtype=torch.int64)
    >>> loss_of_voxel = focal_loss(p, y, y >= 0, torch.ones(2), power=2)
    >>> round(loss_of_voxel.item(), 4)  # -0.25^2 log 0.75
    0.018
    """
    gains, p_of_label = _voxel_gains(probabilities, labels, weights)
    return _mean(gains * (1 - p_of_label).pow(power), mask, ranks)


def _voxel_gains(
    probabilities: Tensor, labels: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``(N, X, Y, Z)`` negative cross-entropy of every voxel, and the probability of its class."""
    indices = labels.clamp(min=0)
    p_of_label = probabilities.gather(1, indices.unsqueeze(1)).squeeze(1)
    gains = (p_of_label + LOG_FLOOR).log()
    return (gains if weights is None else gains * weights[indices]), p_of_label


def _mean(gains: Tensor, mask: Tensor, ranks: Ranks) -> Tensor:
    """Mean of ``-gains`` over the voxels that count, of all ranks together."""
    total, voxels = ranks.all_reduce_sum((gains * mask).sum(), mask.sum())
    return total / voxels.clamp(min=1).neg()


def dice_loss(probabilities: Tensor, truth: Tensor, ranks: Ranks = SINGLE_RANK) -> Tensor:
    """``1 - mean over classes of 2 sum(py) / (sum p + sum y)``; doi:10.1109/3DV.2016.79.

    Both arguments are ``(N, K, X, Y, Z)``. Half of the probability on one voxel of one class:

    >>> half, truth = torch.full((1, 1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1, 1)
    >>> round(dice_loss(half, truth).item(), 3)  # 1 - 2 * 0.5 / (0.5 + 1)
    0.333
    """
    overlap, predicted, true = ranks.all_reduce_sum(*_sums(probabilities, truth))
    return 1 - ((2 * overlap + OVERLAP_FLOOR) / (predicted + true + OVERLAP_FLOOR)).mean()


def iou_loss(probabilities: Tensor, truth: Tensor, ranks: Ranks = SINGLE_RANK) -> Tensor:
    """``1 - mean over classes of sum(py) / (sum p(1 - y) + sum y)``.

    Both arguments are ``(N, K, X, Y, Z)``.

    >>> half, truth = torch.full((1, 1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1, 1)
    >>> round(iou_loss(half, truth).item(), 3)
    0.5
    """
    overlap, predicted, true = ranks.all_reduce_sum(*_sums(probabilities, truth))
    union = predicted - overlap + true
    return 1 - ((overlap + OVERLAP_FLOOR) / (union + OVERLAP_FLOOR)).mean()


def custom_loss(name: str, logits: Tensor, labels: Tensor, ranks: Ranks = SINGLE_RANK) -> Tensor:
    """A registered loss; of several ranks, the mean of their parts by labelled voxels.

    Args:
        name: Under which it was registered.
        logits: ``(N, K, X, Y, Z)``.
        labels: ``(N, X, Y, Z)``.
        ranks: Those that have the other parts of the batch.

    Raises:
        DeepsegError: ``loss-value``.
    """
    if ranks.world_size == 1:
        return registered_value(name, logits, labels)
    voxels = (labels >= 0).sum().float()
    # A part without labels takes part in the sum, but its value means nothing.
    value = registered_value(name, logits, labels) * voxels if voxels else logits.sum() * 0
    total, count = ranks.all_reduce_sum(value, voxels)
    return total / count.clamp(min=1)


def class_masks(labels: Tensor, mask: Tensor, classes: int) -> Tensor:
    """``(N, K, X, Y, Z)`` float32; voxels outside the mask are 0 for every class.

    >>> labels = torch.tensor([0, 1, -1]).view(1, 3, 1, 1)
    >>> class_masks(labels, labels >= 0, 2).flatten(1).tolist()
    [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]]
    """
    return F.one_hot(labels.clamp(min=0), classes).movedim(-1, 1) * mask.unsqueeze(1).float()


def label_counts(labels: Tensor, classes: int, *, names: Tensor | None = None) -> Tensor:
    """``(K,)`` int64: voxels of each class; negative labels count nowhere.

    Nothing here makes the host wait for a GPU, unlike ``bincount``.

    >>> label_counts(torch.tensor([[0, 2, 2], [-1, 1, 0]]), 3).tolist()
    [2, 1, 2]

    Args:
        labels: Of any shape.
        classes: Number K of classes.
        names: ``(K,)``, the numbers from 0, where they lie on the device already.
    """
    labels = labels.flatten()
    if classes <= FEW_CLASSES:
        names = torch.arange(classes, device=labels.device) if names is None else names
        return (labels == names.unsqueeze(-1)).sum(-1)
    bins = torch.where(labels < 0, classes, labels)
    counts = labels.new_zeros(classes + 1)
    return counts.scatter_add_(0, bins, torch.ones_like(bins))[:classes]


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

    >>> settings = ClassWeights(type="given", weights=(1.0, 5.0), fade=(0, 4))
    >>> labels = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    >>> [class_weights(labels, 2, settings, epoch=e, epochs=9).tolist() for e in (0, 2, 4)]
    [[1.0, 5.0], [1.0, 3.0], [1.0, 1.0]]

    Full weights until the first epoch of ``fade``, 1 from the last on, linear in between. Weights
    by frequency are ``voxels / K / voxels of the class``, of the labelled voxels in the batch.
    """
    equal = torch.ones(classes, device=labels.device)
    if settings is None:
        return equal
    if settings.weights is not None:
        full = torch.tensor(settings.weights, device=labels.device)
    else:
        (counts,) = ranks.all_reduce_sum(label_counts(labels, classes))
        full = (counts.sum() / classes) / (counts + LOG_FLOOR)
    first, last = (0, epochs) if settings.fade is None else settings.fade
    faded = (min(max(epoch, first), last) - first) / (last - first)
    return full * (1 - faded) + equal * faded
