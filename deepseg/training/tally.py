"""Sums over the batches of an epoch, and the loss and scores that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepseg.data.segments.loader import Batch
from deepseg.inference.metrics import Confusion, Counts
from deepseg.model.feature_maps import largest_map
from deepseg.training.distributed import SINGLE_RANK, Ranks
from deepseg.training.loss import label_counts


@dataclass(frozen=True)
class SegmentScores:
    """Loss and scores of one pass over segments.

    Attributes:
        loss: Mean over the batches, penalties included.
        parts: Mean of each part of the loss before weighting.
        confusion: Voxels by class.
    """

    loss: float
    parts: Mapping[str, float]
    confusion: Confusion

    def record(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The scores as a line of metrics.jsonl holds them."""
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
    """Adds up losses and voxels of the batches of an epoch.

    Values on a GPU stay there until they are asked for, so that the host does not wait for them.

    A batch with three voxels of class 0 predicted as 0, and one of class 1 predicted as 0:

    >>> import torch
    >>> labels = torch.tensor([0, 0, 0, 1]).view(1, 4, 1, 1)
    >>> logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1, 1).expand(1, 2, 4, 1, 1)
    >>> tally = Tally(classes=2)
    >>> batch = Batch((), labels, ("case 1",))
    >>> tally.add(torch.tensor(0.5), {"dice": torch.tensor(0.25)}, logits, batch)
    >>> tally.add(torch.tensor(1.5), {"dice": torch.tensor(0.75)}, logits, batch)
    >>> scores = tally.scores()
    >>> scores.loss, scores.parts, scores.confusion.accuracy
    (1.0, {'dice': 0.5}, 0.75)
    """

    classes: int

    def __post_init__(self) -> None:
        self.confusion = Confusion.empty(self.classes)
        self.losses: list[float] = []
        self.parts: dict[str, float] = {}
        self._values: list[Tensor] = []  # total, then parts, of batches that were not read yet
        self._parts: tuple[str, ...] = ()
        self._names: Tensor | None = None  # of pairs of classes
        self._tables: list[Tensor] = []  # (K²,) voxels by label and prediction, of these batches
        self._ranks = SINGLE_RANK

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Tally:
        """The tally of which `state_dict` gave ``state``."""
        tally = Tally(len(state["voxels"]))
        tally.losses = list(state["losses"])
        tally.parts = dict(state["parts"])
        tally.confusion = Confusion(tuple(Counts(*counts) for counts in state["voxels"]))
        return tally

    def state_dict(self) -> dict[str, Any]:
        """Everything from which the sums go on, as plain values."""
        self.settle()
        return {
            "losses": list(self.losses),
            "parts": dict(self.parts),
            "voxels": [list(vars(counts).values()) for counts in self.confusion.classes],
        }

    def since(self, state: Mapping[str, Any]) -> Tally:
        """Tally of the batches that were added after `state_dict` gave ``state``."""
        self.settle()
        tally = Tally(self.classes)
        tally.losses = self.losses[len(state["losses"]) :]
        tally.parts = {
            name: value - state["parts"].get(name, 0.0) for name, value in self.parts.items()
        }
        tally.confusion = Confusion(
            tuple(
                Counts(*(new - old for new, old in zip(vars(counts).values(), before, strict=True)))
                for counts, before in zip(self.confusion.classes, state["voxels"], strict=True)
            )
        )
        return tally

    def add(
        self,
        total: Tensor,
        parts: Mapping[str, Tensor],
        logits: Tensor,
        batch: Batch,
        ranks: Ranks = SINGLE_RANK,
    ) -> None:
        """Count one batch, with the parts of it that other ranks have.

        Args:
            total: The loss of the whole batch.
            parts: Each part of that loss before weighting.
            logits: ``(N, K, X, Y, Z)``, of this rank's part.
            batch: This rank's part.
            ranks: All that have a part.
        """
        if logits.device.type != "cpu":
            self._keep(total, parts, logits, batch.labels)
            self._ranks = ranks
            return
        self._add_losses([float(total.detach()), *map(float, parts.values())], tuple(parts))
        part = Confusion.of(
            largest_map(logits.detach()).cpu().numpy(),
            batch.labels.cpu().numpy(),
            number_of_classes=self.classes,
        )
        self.confusion = self.confusion.add(_summed_over_ranks(part, ranks))

    def settle(self) -> None:
        """Read what is still on the device; all ranks take part in it."""
        if not self._tables:
            return
        for values in torch.stack(self._values).cpu().tolist():
            self._add_losses(values, self._parts)
        table = torch.stack(self._tables).sum(0).view(self.classes, self.classes).cpu().numpy()
        part = _summed_over_ranks(Confusion.of_table(table), self._ranks)
        self.confusion = self.confusion.add(part)
        self._values, self._tables = [], []

    def _keep(
        self, total: Tensor, parts: Mapping[str, Tensor], logits: Tensor, labels: Tensor
    ) -> None:
        """Count one batch on the device of its labels."""
        self._values.append(torch.stack([total.detach(), *parts.values()]))
        self._parts = tuple(parts)
        # Where the label is unknown, -1, the sum is negative and counts nowhere.
        pairs = torch.add(largest_map(logits.detach()), labels, alpha=self.classes)
        if self._names is None:
            self._names = torch.arange(self.classes**2, device=labels.device)
        self._tables.append(label_counts(pairs, self.classes**2, names=self._names))

    def _add_losses(self, values: Sequence[float], names: Sequence[str]) -> None:
        total, *parts = values
        self.losses.append(total)
        for name, value in zip(names, parts, strict=True):
            self.parts[name] = self.parts.get(name, 0.0) + value

    def scores(self) -> SegmentScores:
        """Means over the batches added."""
        self.settle()
        count = max(len(self.losses), 1)
        return SegmentScores(
            sum(self.losses) / count,
            {name: value / count for name, value in self.parts.items()},
            self.confusion,
        )


def _summed_over_ranks(part: Confusion, ranks: Ranks) -> Confusion:
    counts = iter(ranks.sum_counts([n for row in part.classes for n in vars(row).values()]))
    return Confusion(
        tuple(Counts(*four) for four in zip(counts, counts, counts, counts, strict=True))
    )
