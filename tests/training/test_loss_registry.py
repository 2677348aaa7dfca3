"""Registered losses: by hand arithmetic, over ranks, and refused where they cannot be used."""

from dataclasses import dataclass

import pytest
import torch

import deepseg
from deepseg.config.blocks.losses import Loss
from deepseg.errors import DeepsegError
from deepseg.training import loss_registry
from deepseg.training.distributed import Ranks
from deepseg.training.loss import custom_loss, loss
from deepseg.training.loss_registry import unknown_losses


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(loss_registry, "_registered", {})
    deepseg.register_loss("square", lambda logits, _: logits[:, 1].square().mean())


def logits(*values):
    """Scores of class 1 along X, those of class 0 being 0."""
    scores = torch.tensor(values).view(1, 1, -1, 1, 1)
    return torch.cat([torch.zeros_like(scores), scores], 1).requires_grad_()


def labels(*values):
    return torch.tensor(values).view(1, -1, 1, 1)


def test_a_registered_loss_counts_with_its_weight_and_is_reported_without():
    settings = Loss(cross_entropy=0, l1=0, l2=0, custom={"square": 0.5})
    scores = logits(1.0, 3.0)
    result = loss(scores, labels(0, 1), [], settings, torch.ones(2))
    assert result.total.item() == pytest.approx(2.5)
    assert {name: part.item() for name, part in result.parts.items()} == {"square": 5.0}
    result.total.backward()
    assert scores.grad[:, 1].flatten().tolist() == [0.5, 1.5]  # 0.5 * 2x / 2 voxels


def test_a_weight_of_0_does_not_call_the_loss():
    deepseg.register_loss("broken", lambda *_: 1 / 0)
    settings = Loss(l1=0, l2=0, custom={"broken": 0})
    assert sorted(loss(logits(1.0), labels(0), [], settings, torch.ones(2)).parts) == [
        "cross_entropy"
    ]


@dataclass(frozen=True)
class OtherRank(Ranks):
    """One of two ranks; the other one has a value of 7 over 3 labelled voxels."""

    world_size: int = 2

    def all_reduce_sum(self, *tensors):
        value, voxels = tensors
        return value + 3 * 7, voxels + 3


def test_the_parts_of_ranks_count_by_their_labelled_voxels():
    assert (
        custom_loss("square", logits(1.0, 3.0), labels(0, -1), OtherRank()).item() == (5 + 21) / 4
    )


def test_a_part_without_labels_counts_for_nothing_whatever_its_value():
    deepseg.register_loss("square", lambda logits, _: logits.mean() * float("nan"))
    assert custom_loss("square", logits(1.0, 3.0), labels(-1, -1), OtherRank()).item() == 7


def test_an_unknown_loss_is_refused_with_the_names_that_there_are():
    (problem,) = unknown_losses(["square", "sqare"])
    assert str(problem) == (
        "[loss-unknown] got 'sqare' in loss.custom; expected a loss that this process has "
        "registered: square; fix: call deepseg.register_loss in the same Python process before "
        "deepseg.train; for several ranks, start your program by torchrun; did you mean 'square'?"
    )


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda logits, _: logits[:, 1], "a tensor of (1, 2, 1, 1)"),
        (lambda *_: 0.5, "0.5"),
        (lambda logits, _: logits.detach().mean(), "a value without a gradient"),
    ],
)
def test_anything_but_a_value_of_the_logits_is_refused(function, got):
    deepseg.register_loss("odd", function)
    with pytest.raises(DeepsegError) as error:
        custom_loss("odd", logits(1.0, 3.0), labels(0, 1))
    assert str(error.value) == (
        f"[loss-value] got {got} of the registered loss 'odd'; expected a single value, computed "
        "from the logits by operations of torch; fix: take the mean, and leave out detach, item "
        "and numpy"
    )


@pytest.mark.parametrize(
    ("name", "function", "got"),
    [("dice", abs, "'dice'"), ("my loss", abs, "'my loss'"), ("focal", 3, "int as 'focal'")],
)
def test_a_name_or_function_that_cannot_be_used_is_refused(name, function, got):
    with pytest.raises(DeepsegError, match=rf"^\[loss-name\] got {got}; "):
        deepseg.register_loss(name, function)


def test_a_loss_of_registered_terms_alone_is_one():
    assert Loss(cross_entropy=0, custom={"square": 1}).custom == {"square": 1}
    with pytest.raises(ValueError, match="weight 0 for cross_entropy, dice, iou and focal"):
        Loss(cross_entropy=0, custom={"square": 0})
