"""One sub-epoch of training, and validation on samples and on whole cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Steps
from deepseg.data.segments.loader import Batch
from deepseg.errors import NumericalFailure, Problem
from deepseg.inference.metrics import Confusion, Counts
from deepseg.model.network import Network
from deepseg.training.allocator import keep_freed_memory
from deepseg.training.distributed import SINGLE_RANK, Ranks
from deepseg.training.loss import class_weights, loss
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import weight_type

NO_ANCHORS: Mapping[str, Tensor] = MappingProxyType({})
ONE_EACH = Steps()


@dataclass(frozen=True)
class Outcome:
    """What a pass over samples gave.

    Attributes:
        loss: Mean over the batches, penalties included.
        parts: Mean of each part of the loss before weighting.
        confusion: Voxels by class.
    """

    loss: float
    parts: Mapping[str, float]
    confusion: Confusion

    def record(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The outcome as a line of metrics.jsonl holds it."""
        rows = self.confusion.rows(classes)
        return {
            "loss": self.loss,
            "parts": dict(self.parts),
            "accuracy": self.confusion.accuracy,
            "dice": {name: counts.dice for name, counts in rows.items()},
            "sensitivity": {name: counts.sensitivity for name, counts in rows.items()},
            "precision": {name: counts.precision for name, counts in rows.items()},
            "specificity": {name: counts.specificity for name, counts in rows.items()},
        }


@dataclass
class Tally:
    """Adds up what the batches of a pass give."""

    classes: int

    def __post_init__(self) -> None:
        self.confusion = Confusion.empty(self.classes)
        self.losses: list[float] = []
        self.parts: dict[str, float] = {}

    @staticmethod
    def of(saved: Mapping[str, Any]) -> Tally:
        """What `saved` gave."""
        tally = Tally(len(saved["voxels"]))
        tally.losses = list(saved["losses"])
        tally.parts = dict(saved["parts"])
        tally.confusion = Confusion(tuple(Counts(*counts) for counts in saved["voxels"]))
        return tally

    def saved(self) -> dict[str, Any]:
        """Everything from which the sums go on, as plain numbers."""
        return {
            "losses": list(self.losses),
            "parts": dict(self.parts),
            "voxels": [list(vars(counts).values()) for counts in self.confusion.classes],
        }

    def add(
        self,
        total: float,
        parts: Mapping[str, Tensor],
        logits: Tensor,
        batch: Batch,
        ranks: Ranks = SINGLE_RANK,
    ) -> None:
        """Count one batch, with the parts of it that other ranks have."""
        self.losses.append(total)
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + float(value)
        own = Confusion.of(
            logits.detach().argmax(1).cpu().numpy(),
            batch.labels.cpu().numpy(),
            number_of_classes=self.classes,
        )
        self.confusion = self.confusion.add(_of_all(own, ranks))

    def outcome(self) -> Outcome:
        """Means over the batches added."""
        count = max(len(self.losses), 1)
        return Outcome(
            sum(self.losses) / count,
            {name: value / count for name, value in self.parts.items()},
            self.confusion,
        )


def train_on(
    batches: Iterable[Batch],
    network: Network,
    optimizer: Optimizer,
    settings: Loss,
    *,
    epoch: int,
    epochs: int,
    tally: Tally,
    on_step: Callable[[float], None],
    anchors: Mapping[str, Tensor] = NO_ANCHORS,
    steps: Steps = ONE_EACH,
    on_update: Callable[[], None] = lambda: None,
    ranks: Ranks = SINGLE_RANK,
    dtype: torch.dtype = torch.float32,
) -> None:
    """One optimiser step for every batch, or for as many as are accumulated; the rest is one too.

    A batch whose loss is not finite changes no weight. Weights that a step has broken are told from
    a batch that is broken itself.

    Args:
        batches: The segments.
        network: On the device that computes.
        optimizer: With the epoch's learning rate.
        settings: The loss.
        epoch: From 0, for weights that fade.
        epochs: In all.
        tally: Adds up the results.
        on_step: Called with the loss of every step.
        anchors: Where L2-SP pulls kernels, by name.
        steps: How gradients become steps.
        on_update: Called whenever the weights have moved.
        ranks: Those that have the other parts of the batches.
        dtype: Of the feature maps.

    Raises:
        NumericalFailure: ``loss-not-finite``, or ``weights-not-finite`` if steps left such weights,
            statistics or sums of the optimiser; with the cases of the batch.
    """
    network.train()
    keep_freed_memory()
    device = next(network.parameters()).device
    kernels, anchored = _penalised(network, anchors)
    waiting = 0  # batches whose gradients are not used yet
    learnt: tuple[str, ...] = ()  # cases of the batch before
    for batch_ in batches:
        batch = batch_.to(device)
        ranks.has_part = bool(batch.cases)
        weights = class_weights(
            batch.labels, tally.classes, settings.class_weights,
            epoch=epoch, epochs=epochs, ranks=ranks,
        )  # fmt: skip
        logits = network([x.to(dtype) for x in batch.inputs])
        result = loss(
            logits, batch.labels, kernels, settings, weights, anchored=anchored, ranks=ranks
        )
        value = float(result.total.detach())
        if not math.isfinite(value):
            # The batch has entered the statistics already, but no weight.
            _check_weights(dict(network.named_parameters()), optimizer, learnt)
            # The loss is that of all ranks: they all come here.
            raise _loss_not_finite(value, ranks.together(batch.cases), optimizer)
        if waiting == 0:
            optimizer.clear_gradients()
        torch.autograd.backward(result.total)
        waiting += 1
        if waiting == steps.accumulate:
            _step(optimizer, steps, waiting, ranks)
            on_update()
            waiting = 0
        tally.add(value, result.parts, logits, batch, ranks)
        on_step(value)
        learnt = batch.cases
    if waiting:
        _step(optimizer, steps, waiting, ranks)
        on_update()
    _check_weights(network.state_dict(), optimizer, learnt)


def _step(optimizer: Optimizer, steps: Steps, batches: int, ranks: Ranks) -> None:
    ranks.average([w.grad for w in optimizer.weights.values() if w.grad is not None])
    optimizer.average_gradients(batches)
    if steps.clip_norm is not None:
        optimizer.clip_gradients(steps.clip_norm)
    optimizer.step()


@torch.inference_mode()
def validate_on(
    batches: Iterable[Batch],
    network: Network,
    settings: Loss,
    *,
    anchors: Mapping[str, Tensor] = NO_ANCHORS,
    on_batch: Callable[[], None] = lambda: None,
    ranks: Ranks = SINGLE_RANK,
) -> Outcome:
    """Loss and counts on validation samples, in evaluation mode, all classes weighing the same."""
    network.eval()
    device = next(network.parameters()).device
    classes = len(network.config.classes)
    tally = Tally(classes)
    kernels, anchored = _penalised(network, anchors)
    for batch_ in batches:
        batch = batch_.to(device)
        logits = network(batch.inputs)
        ones = torch.ones(classes, device=device)
        result = loss(logits, batch.labels, kernels, settings, ones, anchored=anchored, ranks=ranks)
        tally.add(float(result.total), result.parts, logits, batch, ranks)
        on_batch()
    return tally.outcome()


def _penalised(
    network: Network, anchors: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The kernels that learn: those without an anchor, and those with theirs."""
    plain: list[Tensor] = []
    anchored: list[tuple[Tensor, Tensor]] = []
    for name, weight in network.named_parameters():
        if weight_type(name) != "Conv" or not weight.requires_grad:
            continue
        if name in anchors:
            anchored.append((weight, anchors[name].to(weight.device)))
        else:
            plain.append(weight)
    return plain, anchored


def _of_all(own: Confusion, ranks: Ranks) -> Confusion:
    """The counts of all ranks."""
    counts = iter(ranks.totals([n for one in own.classes for n in vars(one).values()]))
    return Confusion(
        tuple(Counts(*four) for four in zip(counts, counts, counts, counts, strict=True))
    )


def _loss_not_finite(value: float, cases: Sequence[str], optimizer: Optimizer) -> NumericalFailure:
    return NumericalFailure(
        Problem(
            code="loss-not-finite",
            got=f"a loss of {value} on segments of {_names(cases)}",
            expected="a finite number",
            fix=f"lower the learning rate (now {optimizer.learning_rate:g}) or look at these "
            "cases; the last good model is kept",
        )
    )


def _check_weights(
    weights: Mapping[str, Tensor], optimizer: Optimizer, cases: tuple[str, ...]
) -> None:
    """A step can break weights that no later batch of the epoch would bring to light.

    Args:
        weights: By name; statistics too, where they matter.
        optimizer: Its sums can break where weights do not.
        cases: Of the last step.
    """
    sums = {
        f"{kind} of {name}": tensor
        for name, kinds in optimizer.state.items()
        for kind, tensor in kinds.items()
    }
    every = {**weights, **sums}
    broken = [name for name, tensor in every.items() if not tensor.isfinite().all()]
    if broken:
        raise NumericalFailure(
            Problem(
                code="weights-not-finite",
                got=f"infinite or undefined numbers in {', '.join(broken[:3])}"
                + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
                + (f" after segments of {_names(cases)}" if cases else ""),
                expected="finite numbers",
                fix=f"lower the learning rate (now {optimizer.learning_rate:g}) or look at these "
                "cases; the last good model is kept",
            )
        )


def _names(cases: Sequence[str]) -> str:
    return ", ".join(sorted(set(cases)))
