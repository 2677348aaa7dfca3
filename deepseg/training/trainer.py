"""One sub-epoch of training, and validation on segments.

Where segments come from, what an epoch is and what is written to files is not known here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Steps
from deepseg.data.segments.loader import Batch
from deepseg.model.host_copy import HostCopy
from deepseg.model.imported import AuxiliaryScores
from deepseg.model.network import Network
from deepseg.training.distributed import SINGLE_RANK, Ranks, synchronise_batch_norm
from deepseg.training.finite_checks import check_weights, loss_not_finite
from deepseg.training.loss import LossParts, class_weights, loss
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import is_kernel
from deepseg.training.penalties import add_penalty_gradients
from deepseg.training.tally import SegmentScores, Tally
from deepseg.training.weight_averaging import WeightAverage

ONE_BATCH_PER_STEP = Steps()


@dataclass(frozen=True)
class Trainer:
    """A network that learns, and everything that its steps need or change.

    Attributes:
        network: On the device that computes.
        optimizer: Of its weights that learn.
        loss: Parts of the loss and their weights.
        steps: How gradients become steps.
        anchors: Where L2-SP pulls kernels, by name.
        average: Follows the network after every step, or None.
        ranks: Those that have the other parts of the batches.
        dtype: Of the feature maps in training.
    """

    network: Network
    optimizer: Optimizer
    loss: Loss
    steps: Steps = ONE_BATCH_PER_STEP
    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    average: WeightAverage | None = None
    ranks: Ranks = SINGLE_RANK
    dtype: torch.dtype = torch.float32

    @property
    def evaluated(self) -> Network:
        """The network that is validated and saved: the average, where there is one."""
        return self.network if self.average is None else self.average.network

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return next(self.network.parameters()).device

    def train(
        self,
        batches: Iterable[Batch],
        tally: Tally,
        *,
        epoch: int,
        epochs: int,
        on_step: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Take one step for every batch, or for as many as are accumulated; the rest is one too.

        A batch whose loss is not finite changes no weight. Weights that a step has broken are told
        from a batch that is broken itself.

        Args:
            batches: The segments.
            tally: Adds up losses and voxels.
            epoch: From 0, for class weights that fade.
            epochs: In all.
            on_step: Called with the loss of every batch.

        Raises:
            NumericalFailure: ``loss-not-finite``, or ``weights-not-finite`` if steps left such
                weights, statistics or sums of the optimiser; with the cases of the batch.
        """
        self.network.train()
        kernels = _Kernels.of(self.network, self.anchors)
        pending = 0  # batches whose gradients are not used yet
        cases: tuple[str, ...] = ()  # of the batch before
        for batch in (batch.to(self.device) for batch in batches):
            synchronise_batch_norm(self.network, self.ranks, has_part=bool(batch.cases))
            weights = None
            if self.loss.class_weights is not None:
                weights = class_weights(
                    batch.labels,
                    tally.classes,
                    self.loss.class_weights,
                    epoch=epoch,
                    epochs=epochs,
                    ranks=self.ranks,
                )
            inputs = [x.to(self.dtype) for x in batch.inputs]
            logits, levels = self.network.with_auxiliary(inputs)
            if not self.loss.deep_supervision:
                levels = []
            result = self._loss(logits, batch, kernels, weights, levels)
            total = HostCopy(result.total)
            if pending == 0:
                self.optimizer.clear_gradients()
            torch.autograd.backward(result.total)
            if kernels.are_apart:
                add_penalty_gradients(kernels.plain, kernels.anchored, self.loss)
            value = total.number()  # a GPU goes on with the gradients meanwhile
            self._check_loss(value, batch, cases)
            pending += 1
            if pending == self.steps.accumulate:
                self._step(pending)
                pending = 0
            tally.add(result.total, result.parts, logits, batch, self.ranks)
            on_step(value)
            cases = batch.cases
        if pending:
            self._step(pending)
        tally.settle()
        check_weights(self.network.state_dict(), self.optimizer, cases)

    @torch.inference_mode()
    def validate(
        self, batches: Iterable[Batch], *, on_batch: Callable[[], None] = lambda: None
    ) -> SegmentScores:
        """Loss and scores on segments, in evaluation mode, all classes weighing alike.

        Args:
            batches: The segments.
            on_batch: Called after every batch.
        """
        network = self.evaluated.eval()
        kernels = _Kernels.of(network, self.anchors)
        tally = Tally(len(network.config.classes))
        for batch in (batch.to(self.device) for batch in batches):
            logits = network(batch.inputs)
            result = self._loss(logits, batch, kernels, None)
            tally.add(result.total, result.parts, logits, batch, self.ranks)
            on_batch()
        return tally.scores()

    def snapshot(self) -> dict[str, Any]:
        """A copy of everything that steps change, for `restore`."""
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
            }
        )

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Undo all steps since `snapshot` was taken."""
        self.network.load_state_dict(snapshot["network"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(snapshot["average"])

    def _loss(
        self,
        logits: Tensor,
        batch: Batch,
        kernels: _Kernels,
        weights: Tensor | None,
        levels: Sequence[AuxiliaryScores] = (),
    ) -> LossParts:
        return loss(
            logits,
            batch.labels,
            kernels.of_loss,
            self.loss,
            weights,
            anchored=kernels.anchored_of_loss,
            levels=[(level.scores, level.labels(batch.labels)) for level in levels],
            ranks=self.ranks,
        )

    def _check_loss(self, value: float, batch: Batch, cases_before: tuple[str, ...]) -> None:
        if math.isfinite(value):
            return
        # The batch has entered the statistics already, but no weight.
        check_weights(dict(self.network.named_parameters()), self.optimizer, cases_before)
        # The loss is that of all ranks: they all come here.
        raise loss_not_finite(value, self.ranks.all_gather(batch.cases), self.optimizer)

    def _step(self, batches: int) -> None:
        """Move the weights along the mean gradient of ``batches``, over all ranks."""
        weights = self.optimizer.weights.values()
        self.ranks.average_gradients([w.grad for w in weights if w.grad is not None])
        self.optimizer.divide_gradients(batches)
        if self.steps.clip_norm is not None:
            self.optimizer.clip_gradients(self.steps.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()


@dataclass(frozen=True)
class _Kernels:
    """Kernels that learn, which penalties make small.

    Attributes:
        plain: Those without an anchor.
        anchored: The others, each with its anchor.
    """

    plain: tuple[Tensor, ...]
    anchored: tuple[tuple[Tensor, Tensor], ...]

    @property
    def are_apart(self) -> bool:
        """True on a GPU, where gradients of penalties are added to all kernels at once."""
        kernels = (*self.plain, *(kernel for kernel, _ in self.anchored))
        return bool(kernels) and kernels[0].device.type != "cpu"

    @property
    def of_loss(self) -> tuple[Tensor, ...]:
        """Those without an anchor; detached where the loss shall not find their gradients."""
        return tuple(k.detach() for k in self.plain) if self.are_apart else self.plain

    @property
    def anchored_of_loss(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Those with an anchor; detached where the loss shall not find their gradients."""
        if not self.are_apart:
            return self.anchored
        return tuple((kernel.detach(), anchor) for kernel, anchor in self.anchored)

    @staticmethod
    def of(network: Network, anchors: Mapping[str, Tensor]) -> _Kernels:
        kernels = {
            name: weight
            for name, weight in network.named_parameters()
            if is_kernel(name, network.layout) and weight.requires_grad
        }
        return _Kernels(
            tuple(weight for name, weight in kernels.items() if name not in anchors),
            tuple(
                (weight, anchors[name].to(weight.device))
                for name, weight in kernels.items()
                if name in anchors
            ),
        )
