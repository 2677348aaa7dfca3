"""Losses: against their formulas in float64, against hand arithmetic, and against their laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deepseg.config.blocks.losses import ClassWeights, Loss
from deepseg.training.loss import (
    class_masks,
    class_weights,
    cross_entropy,
    dice_loss,
    iou_loss,
    loss,
)

CLASSES = 3
ONES = torch.ones(CLASSES)
WEIGHTS = torch.tensor([0.5, 2.0, 3.0])


def batch(seed, size=(2, 4, 3, 5), unknown=0.2):
    """Logits ``(N, K, X, Y, Z)`` and labels, some of them unknown."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (size[0], CLASSES, *size[1:]))
    labels = rng.integers(0, CLASSES, size)
    labels[rng.random(size) < unknown] = -1
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def rows(logits, labels):
    """Probabilities ``(voxels, K)`` in float64 and labels of the known voxels."""
    exponentials = np.exp(logits.double().numpy())
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    known = labels.numpy() >= 0
    return np.moveaxis(probabilities, 1, -1)[known], labels.numpy()[known]


def part(name, logits, labels, weights=ONES):
    """One part of the loss, as `loss` gives it."""
    only = Loss.model_validate({"cross_entropy": 0, "l1": 0, "l2": 0, name: 1})
    return float(loss(logits, labels, [], only, weights).total)


@pytest.mark.parametrize("seed", range(4))
def test_cross_entropy_is_its_formula(seed):
    logits, labels = batch(seed)
    p, y = rows(logits, labels)
    terms = [-WEIGHTS[c].item() * np.log(q[c] + 1e-6) for q, c in zip(p, y, strict=True)]
    expected = sum(terms) / len(y)  # the weights are not in the denominator
    assert part("cross_entropy", logits, labels, WEIGHTS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_dice_and_iou_are_their_formulas(seed):
    logits, labels = batch(seed)
    p, y = rows(logits, labels)
    dice, iou = [], []
    for c in range(CLASSES):
        true = y == c
        overlap = p[true, c].sum()
        dice.append((2 * overlap + 1e-5) / (p[:, c].sum() + true.sum() + 1e-5))
        iou.append((overlap + 1e-5) / (p[~true, c].sum() + true.sum() + 1e-5))
    assert part("dice", logits, labels) == pytest.approx(1 - np.mean(dice), rel=1e-5)
    assert part("iou", logits, labels) == pytest.approx(1 - np.mean(iou), rel=1e-5)


def test_the_parts_by_hand():
    # Two voxels, p = (3/4, 1/4) and (1/2, 1/2), of class 0 and class 1.
    probabilities = torch.tensor([[3 / 4, 1 / 2], [1 / 4, 1 / 2]]).view(1, 2, 2, 1, 1)
    labels = torch.tensor([0, 1]).view(1, 2, 1, 1)
    known = labels >= 0
    truth = class_masks(labels, known, 2)
    weights = torch.tensor([1.0, 3.0])
    # -(log 3/4 + 3 log 1/2) / 2 = (0.287682 + 2.079442) / 2
    entropy = cross_entropy(probabilities, labels, known, weights)
    assert entropy.item() == pytest.approx(1.183562, abs=1e-5)
    # class 0: 2 (3/4) / (5/4 + 1) = 2/3; class 1: 2 (1/2) / (3/4 + 1) = 4/7; mean 13/21
    assert dice_loss(probabilities, truth).item() == pytest.approx(8 / 21, abs=1e-5)
    # class 0: (3/4) / (1/2 + 1) = 1/2; class 1: (1/2) / (1/4 + 1) = 2/5; mean 9/20
    assert iou_loss(probabilities, truth).item() == pytest.approx(11 / 20, abs=1e-5)


def test_the_background_counts_as_a_class_of_its_own():
    labels = torch.zeros(1, 2, 1, 1, dtype=torch.int64)
    truth = class_masks(labels, labels >= 0, 2)
    all_wrong = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(1, 2, 2, 1, 1)
    assert dice_loss(all_wrong, truth).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["dice", "iou"])
def test_a_perfect_prediction_has_no_overlap_loss_even_where_a_class_is_absent(name):
    labels = torch.tensor([0, 1, 1, 0, -1, 0]).view(1, 2, 3, 1)  # no voxel of class 2
    logits = 200.0 * (F.one_hot(labels.clamp(min=0), CLASSES).movedim(-1, 1) - 1.0)
    assert part(name, logits, labels) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 13.815511), (1.0, 0.0)])
def test_the_logarithm_ends_at_a_millionth(probability, expected):
    probabilities = torch.tensor([probability, 1 - probability]).view(1, 2, 1, 1, 1)
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    result = cross_entropy(probabilities, labels, labels >= 0, torch.ones(2))
    assert result.item() == pytest.approx(expected, abs=1e-5)


ALL = Loss(
    cross_entropy=0.5, dice=2, iou=3, l1=0.01, l2=0.1,
    class_weights=ClassWeights(type="frequency"),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), more=st.integers(1, 4), axis=st.sampled_from([0, 2, 3, 4]))
def test_adding_unknown_voxels_changes_no_loss(seed, more, axis):
    logits, labels = batch(seed)
    extra = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)) * 5
    longer = torch.cat([logits, extra.narrow(axis, 0, min(more, extra.shape[axis]))], axis)
    unknown = torch.full((longer.shape[0], *longer.shape[2:]), -1)
    unknown[tuple(slice(n) for n in labels.shape)] = labels

    def everything(x, y):
        weights = class_weights(y, CLASSES, ALL.class_weights, epoch=0, epochs=5)
        return loss(x, y, [torch.ones(2)], ALL, weights)

    short, long = everything(logits, labels), everything(longer, unknown)
    assert long.total.item() == pytest.approx(short.total.item(), rel=1e-5)
    for name, value in short.parts.items():
        assert long.parts[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


def test_unknown_voxels_have_no_gradient():
    logits, labels = batch(3)
    logits.requires_grad_()
    loss(logits, labels, [], ALL, ONES).total.backward()
    gradients = logits.grad.movedim(1, -1)
    assert not gradients[labels < 0].any()
    assert gradients[labels >= 0].any(-1).all()


def test_a_batch_of_unknown_voxels_only_has_no_loss_and_no_gradient():
    logits = torch.randn(1, CLASSES, 2, 3, 1, requires_grad=True)
    labels = torch.full((1, 2, 3, 1), -1)
    weights = class_weights(labels, CLASSES, ALL.class_weights, epoch=0, epochs=5)
    result = loss(logits, labels, [], ALL, weights)
    result.total.backward()
    assert result.total.item() == 0
    assert not logits.grad.any()


def test_the_total_is_the_weighted_sum_of_all_parts_and_penalties():
    logits, labels = batch(1)
    kernels = [torch.tensor([[1.0, -2.0]]), torch.tensor([3.0])]
    result = loss(logits, labels, iter(kernels), ALL, WEIGHTS)
    parts = {name: value.item() for name, value in result.parts.items()}
    assert list(parts) == ["cross_entropy", "dice", "iou", "l1", "l2"]
    assert parts["l1"] == 1 + 2 + 3
    assert parts["l2"] == 1 + 4 + 9  # not halved
    expected = (
        0.5 * parts["cross_entropy"] + 2 * parts["dice"] + 3 * parts["iou"] + 0.01 * 6 + 0.1 * 14
    )
    assert result.total.item() == pytest.approx(expected, rel=1e-6)


def test_parts_of_weight_0_are_left_out():
    logits, labels = batch(1)
    only_dice = Loss(cross_entropy=0, dice=1, l1=0, l2=0)
    assert list(loss(logits, labels, [torch.ones(2)], only_dice, ONES).parts) == ["dice"]
    assert list(loss(logits, labels, [], Loss(), ONES).parts) == ["cross_entropy"]


def test_the_penalties_pull_kernels_towards_0():
    logits, labels = batch(1)
    kernel = torch.tensor([1.0, -2.0], requires_grad=True)
    loss(logits, labels, [kernel], Loss(l1=0.25, l2=0.5), ONES).total.backward()
    assert kernel.grad.tolist() == [0.25 + 2 * 0.5 * 1, -0.25 - 2 * 0.5 * 2]


def test_logits_of_half_precision_give_a_loss_of_full_precision():
    logits, labels = batch(1)
    half = loss(logits.half(), labels, [], Loss(dice=1), ONES)
    assert half.total.dtype == torch.float32
    whole = loss(logits.half().float(), labels, [], Loss(dice=1), ONES)
    assert half.total.item() == whole.total.item()


GIVEN = ClassWeights(type="given", weights=(0.5, 1, 3), fade=(2, 6))


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        pytest.param(0, [0.5, 1, 3], id="full before the fade"),
        pytest.param(2, [0.5, 1, 3], id="full in its first epoch"),
        pytest.param(3, [0.625, 1, 2.5], id="a quarter of the way"),
        pytest.param(5, [0.875, 1, 1.5], id="three quarters"),
        pytest.param(6, [1, 1, 1], id="1 in its last epoch"),
        pytest.param(9, [1, 1, 1], id="1 behind it"),
    ],
)
def test_given_weights_fade_linearly_to_1(epoch, expected):
    labels = torch.tensor([[[[0, 1, 2]]]])
    assert class_weights(labels, 3, GIVEN, epoch=epoch, epochs=10).tolist() == expected


@pytest.mark.parametrize(("epoch", "expected"), [(0, 3.0), (1, 2.5), (2, 2.0), (3, 1.5)])
def test_without_a_fade_the_weights_fade_over_all_epochs(epoch, expected):
    labels = torch.tensor([[[[0, 1, 2]]]])
    settings_ = ClassWeights(type="given", weights=(1, 1, 3))
    assert class_weights(labels, 3, settings_, epoch=epoch, epochs=4)[2].item() == expected


def test_frequency_weights_count_the_known_voxels_of_the_batch():
    labels = torch.tensor([0] * 6 + [1] * 2 + [-1] * 4).view(2, 3, 2, 1)
    weights = class_weights(labels, 3, ClassWeights(type="frequency"), epoch=0, epochs=4)
    # 8 known voxels, 3 classes: 8/3 per class
    assert weights.tolist() == pytest.approx([8 / 3 / 6, 8 / 3 / 2, 8 / 3 / 1e-6], rel=1e-5)
    last = class_weights(labels, 3, ClassWeights(type="frequency"), epoch=4, epochs=4)
    assert last.tolist() == [1, 1, 1]


def test_weights_by_frequency_give_every_present_class_the_same_say():
    labels = torch.tensor([0] * 9 + [1] * 3).view(1, 3, 4, 1)
    logits = torch.zeros(1, 2, 3, 4, 1, requires_grad=True)
    weights = class_weights(labels, 2, ClassWeights(type="frequency"), epoch=0, epochs=4)
    loss(logits, labels, [], Loss(l1=0, l2=0), weights).total.backward()
    pull = logits.grad[0, 1]
    assert pull[labels[0] == 0].sum().item() == pytest.approx(
        -pull[labels[0] == 1].sum().item(), rel=1e-5
    )


def test_without_class_weights_all_classes_weigh_1():
    labels = torch.tensor([[[[0, 1]]]])
    assert class_weights(labels, 4, None, epoch=3, epochs=9).tolist() == [1, 1, 1, 1]


def test_l2_sp_pulls_a_kernel_to_its_anchor_and_l2_leaves_it_alone():
    logits, labels = batch(3)
    new, old = torch.full((2, 3), 2.0), torch.full((5,), 3.0)
    settings = Loss(cross_entropy=1, l1=0.5, l2=0.25, l2_sp=0.125)
    result = loss(logits, labels, [new], settings, ONES, anchored=[(old, torch.ones(5))])
    parts = {name: float(value) for name, value in result.parts.items()}
    assert parts.pop("cross_entropy") > 0
    assert parts == {"l1": 6 * 2 + 5 * 3, "l2": 6 * 4, "l2_sp": 5 * 4}
    penalties = 0.5 * 27 + 0.25 * 24 + 0.125 * 20
    expected = float(result.parts["cross_entropy"]) + penalties
    assert float(result.total) == pytest.approx(expected)


def test_a_kernel_at_its_anchor_feels_nothing():
    logits, labels = batch(3)
    kernel = torch.full((5,), 3.0, requires_grad=True)
    settings = Loss(l1=0, l2=0.25, l2_sp=0.5)
    loss(
        logits, labels, [], settings, ONES, anchored=[(kernel, torch.full((5,), 3.0))]
    ).total.backward()
    assert kernel.grad.tolist() == [0] * 5


def test_the_focal_loss_is_the_mean_of_weighed_voxels():
    logits = torch.randn(2, 3, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(-1, 3, (2, 4, 3, 2), generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.0, 2.0, 0.5])
    focal = Loss(cross_entropy=0, focal=1, focal_power=1.5, l1=0, l2=0)
    p = logits.double().softmax(1).movedim(1, -1)[labels >= 0].numpy()
    y = labels[labels >= 0].numpy()
    chosen = p[range(len(y)), y]
    expected = -(weights.numpy()[y] * (1 - chosen) ** 1.5 * np.log(chosen + 1e-6)).mean()
    result = loss(logits, labels, [], focal, weights)
    assert result.total.item() == pytest.approx(expected, rel=1e-5)
    plain = loss(logits, labels, [], Loss(l1=0, l2=0), weights)
    power_0 = focal.model_copy(update={"focal_power": 0.0})
    assert torch.equal(loss(logits, labels, [], power_0, weights).total, plain.total)
