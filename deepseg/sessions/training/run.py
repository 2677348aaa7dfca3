"""A network in training: what changes from epoch to epoch, and how an epoch begins and ends.

Training can stand still between two sub-epochs only. A sub-epoch that fails leaves nothing behind.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from deepseg.config.training import TrainConfig
from deepseg.data.segments.loader import SegmentLoader
from deepseg.data.segments.segment_dataset import SegmentDataset
from deepseg.errors import NumericalFailure
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.devices import PRECISIONS
from deepseg.model.network import Network
from deepseg.randomness import Purpose, torch_seed
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.training.epoch_log import (
    BEFORE,
    epoch_record,
    rates_text,
    schedule_score,
    show_before,
    show_progress,
    validation_record,
)
from deepseg.sessions.training.l2_sp import starting_weights
from deepseg.sessions.training.progress import Progress, restored
from deepseg.sessions.training.timer import EpochTimer
from deepseg.training.distributed import SINGLE_RANK, Ranks, synchronise_batch_norm
from deepseg.training.freezing import freeze, trainable
from deepseg.training.model_selection import (
    best_metric,
    is_reached,
    patience_is_exhausted,
    score,
    stopping_metric,
    value,
)
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import parameter_groups
from deepseg.training.schedule import learning_rate, momentum, warm_up
from deepseg.training.trainer import Outcome, Tally, train_on, validate_on
from deepseg.training.weight_averaging import WeightAverage

SLOWER = 0.5  # times the learning rates, after a loss or weights that were not finite


class TrainingRun:
    """The state of a training session.

    Attributes:
        network: On the device that computes.
        optimizer: Of everything that is not frozen.
        frozen: Addresses of the layers that keep their weights.
        average: The network that follows this one slowly, or None.
        anchors: Where L2-SP pulls kernels, by name.
        progress: Epochs finished and their scores.
        tally: Of the epoch so far.
    """

    def __init__(
        self,
        folder: SessionFolder,
        config: TrainConfig,
        model: Checkpoint,
        device: torch.device,
        ranks: Ranks = SINGLE_RANK,
    ) -> None:
        self.folder = folder
        self.config = config
        self.model = model
        self.ranks = ranks
        self.network = model.network()
        if model.training is not None and "weights" in model.training:
            self.network.load_state_dict(model.training["weights"])
        self.network.to(device)
        epoch = 0 if model.training is None else model.training["epoch"]
        self.frozen = freeze(self.network, config.freeze, epoch=epoch)
        self.optimizer = Optimizer(
            trainable(self.network),
            config.optimiser,
            parameter_groups(self.network, config.optimiser),
        )
        self.average = self._average()
        synchronise_batch_norm(self.network, ranks)
        self.anchors = starting_weights(model, config.loss)
        self.progress = restored(model.training, config, self.optimizer, folder.console)
        unfinished = {} if model.training is None else model.training.get("unfinished", {})
        self.tally = self._tally(unfinished)
        self._clock = EpochTimer(unfinished)
        self._written = time.monotonic()
        folder.forget_from(BEFORE if self.next_subepoch == 0 else self.progress.epoch)
        self._set_rates()

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or a rule has ended training before."""
        return self.progress.epoch >= self.config.epochs or bool(self.progress.end)

    @property
    def next_subepoch(self) -> int:
        """Counted from the beginning of the session."""
        return self.progress.epoch * self.config.subepochs + self.progress.subepoch

    @property
    def judged(self) -> Network:
        """The network that is validated and saved."""
        return self.network if self.average is None else self.average.network

    @property
    def begins_trained(self) -> bool:
        """Whether the first epoch is still to come, for weights that can do something already."""
        return self.next_subepoch == 0 and not self.model.is_random

    def rates_text(self) -> str:
        """The learning rates of the next step, for people."""
        return rates_text(self.optimizer.learning_rate, self.optimizer.learning_rates)

    def judge_before(self, samples: Outcome | None, volumes: Mapping[str, Any] | None) -> None:
        """Note what the weights can do before the first step."""
        record = validation_record(BEFORE, self.model.config, samples, volumes)
        self.folder.note(record)
        show_before(self.folder, record)

    def train(self, stream: SegmentLoader) -> Outcome:
        """The next epoch, or what is left of it, sub-epoch after sub-epoch."""
        if self.progress.subepoch == 0:
            self._clock = EpochTimer({})
        self._unfreeze()
        title = f"epoch {self.progress.epoch + 1} of {self.config.epochs}"
        steps = stream.steps * (self.config.subepochs - self.progress.subepoch)
        with self.folder.console.progress(title, steps) as advance:
            while self.progress.subepoch < self.config.subepochs:
                self._try_subepoch(stream, lambda value: advance(note=f"loss {value:.4f}"))
        return self.tally.outcome()

    def validate(self, source: SegmentDataset | None) -> Outcome | None:
        """Loss and counts on validation samples; None where there are none."""
        if source is None or self.config.validation is None:
            return None
        assert self.config.validation.samples is not None
        batch_size = self.config.validation.samples.batch_size
        with SegmentLoader(
            source, batch_size=batch_size, workers=self.config.workers, first=0,
            rank=self.ranks.rank, ranks=self.ranks.count, warn=self.folder.console.warn,
        ) as stream:  # fmt: skip
            return validate_on(
                stream.subepoch(), self.judged, self.config.loss, anchors=self.anchors,
                ranks=self.ranks,
            )  # fmt: skip

    def keep(
        self, training: Outcome, samples: Outcome | None, volumes: Mapping[str, Any] | None
    ) -> None:
        """End the epoch: write its model, its line and its curves."""
        record = epoch_record(
            self.progress.epoch, self._clock, self.optimizer, self.model.config,
            training, samples, volumes,
        )  # fmt: skip
        metric, watched = best_metric(self.config), stopping_metric(self.config)
        reached = self.progress.after(
            schedule_score(record),
            score(record, metric),
            None if watched is None else score(record, watched),
        )
        is_best = reached.best is not None and reached.best != self.progress.best
        every = self.config.checkpoints.every
        is_kept = every is not None and reached.epoch % every == 0
        self.progress = replace(reached, end=self._end(reached, record))
        self.tally = self._tally({})
        self.folder.keep(
            self._as_model().to_save(),
            {**record, "best": is_best},
            is_best=is_best,
            name=self._name(reached.epoch, value(record, metric)) if is_kept else None,
        )
        self._written = time.monotonic()
        if self.ranks.leads:
            show_progress(self.folder, self.config)

    def _try_subepoch(self, stream: SegmentLoader, on_step: Callable[[float], None]) -> None:
        """One sub-epoch; as if it had not been, if it fails and may be tried again."""
        before = copy.deepcopy(self._standing())
        try:
            self._train_subepoch(stream, on_step)
        except NumericalFailure as failure:
            self._slow_down(failure)
            self._stand(before)
            stream.go_back(self.next_subepoch)
        else:
            self.progress = replace(self.progress, subepoch=self.progress.subepoch + 1)
            self._keep_running()

    def _train_subepoch(self, stream: SegmentLoader, on_step: Callable[[float], None]) -> None:
        self._set_rates()
        epoch, subepoch = self.progress.epoch, self.progress.subepoch
        # Dropout masks come from torch's generator, which is counted like all randomness.
        counters = (epoch, subepoch, *self.ranks.others)
        torch.manual_seed(torch_seed(self.config.seed, Purpose.DROPOUT, *counters))
        train_on(
            self._clock.timed(stream.subepoch()), self.network, self.optimizer, self.config.loss,
            epoch=epoch, epochs=self.config.epochs, tally=self.tally, on_step=on_step,
            anchors=self.anchors, steps=self.config.steps, on_update=self._follow,
            ranks=self.ranks, dtype=PRECISIONS[self.config.precision],
        )  # fmt: skip

    def _standing(self) -> dict[str, Any]:
        """Everything that a sub-epoch changes."""
        return {
            "weights": self.network.state_dict(),
            "optimizer": self.optimizer.saved(),
            "tally": self.tally.saved(),
            "average": None
            if self.average is None
            else (self.average.network.state_dict(), self.average.steps),
        }

    def _stand(self, before: Mapping[str, Any]) -> None:
        self.network.load_state_dict(before["weights"])
        self.optimizer.restore(before["optimizer"])
        self.tally = Tally.of(before["tally"])
        if self.average is not None:
            self.average.restore(*before["average"])

    def _slow_down(self, failure: NumericalFailure) -> None:
        """Lower the learning rates, once in a session."""
        if self.progress.slowing < 1:
            raise failure
        self.progress = replace(self.progress, slowing=SLOWER)
        (problem,) = failure.problems
        self.folder.console.warn(
            f"[{problem.code}] {problem.got}; sub-epoch {self.progress.subepoch + 1} of epoch "
            f"{self.progress.epoch + 1} begins again, with {SLOWER:g} times the learning rates "
            "from now on"
        )

    def _keep_running(self) -> None:
        """Keep the middle of the epoch, if it is long since anything was kept."""
        if time.monotonic() - self._written >= self.config.checkpoints.seconds:
            self.folder.keep_running(self._as_model().to_save())
            self._written = time.monotonic()

    def _tally(self, unfinished: Mapping[str, Any]) -> Tally:
        """What is counted already of the epoch that begins or goes on."""
        if unfinished:
            return Tally.of(unfinished["tally"])
        return Tally(len(self.model.config.classes))

    def _average(self) -> WeightAverage | None:
        memory, training = self.config.steps.average, self.model.training
        if memory is None:
            return None
        average = WeightAverage(self.network, memory)
        if training is not None and "weights" in training:
            average.restore(self.model.weights, training["averaged"])
        return average

    def _follow(self) -> None:
        if self.average is not None:
            self.average.follow()

    def _name(self, epoch: int, found: float | None) -> str:
        name = self.config.checkpoints.name
        return name.format(epoch=epoch, score=math.nan if found is None else found) + ".save"

    def _end(self, reached: Progress, record: Mapping[str, Any]) -> str:
        """Why training ends now, or nothing."""
        stopping, stop = self.config.early_stopping, self.config.stop_at
        if stopping is not None and patience_is_exhausted(stopping, reached.watched):
            metric = stopping_metric(self.config)
            return f"{metric} did not get better in {stopping.patience} epochs that have it"
        if stop is not None and is_reached(stop, record):
            return f"{stop.metric} has reached {stop.value:g}"
        return ""

    def _unfreeze(self) -> None:
        """Let those layers learn that are frozen no longer; the others go on as they were."""
        frozen = freeze(self.network, self.config.freeze, epoch=self.progress.epoch)
        if self.average is not None:
            freeze(self.average.network, self.config.freeze, epoch=self.progress.epoch)
        # Layers that stay frozen may let their norms learn from now on, so names decide.
        self.optimizer.hold(trainable(self.network))
        if frozen != self.frozen:
            thawed = [address for address in self.frozen if address not in frozen]
            self.folder.console.say(f"learn from now on: {', '.join(thawed)}")
            self.frozen = frozen

    def _set_rates(self) -> None:
        own, epoch, epochs = self.config, self.progress.epoch, self.config.epochs
        subepoch = min(self.progress.subepoch, own.subepochs - 1)  # the last one is over: its rate
        scheduled = learning_rate(
            own.schedule, own.optimiser.learning_rate, epoch=epoch, epochs=epochs,
            history=self.progress.scores,
        )  # fmt: skip
        share = warm_up(
            epoch * own.subepochs + subepoch, subepochs=own.steps.warm_up * own.subepochs
        )
        self.optimizer.learning_rate = scheduled * share * self.progress.slowing
        self.optimizer.momentum = momentum(own.schedule, own.optimiser, epoch=epoch, epochs=epochs)

    def _as_model(self) -> Checkpoint:
        training = self.progress.saved(self.config, self.optimizer)
        if self.config.loss.l2_sp:
            training["anchors"] = self.anchors
        if self.average is not None:
            training["weights"] = dict(self.network.state_dict())
            training["averaged"] = self.average.steps
        if self.progress.subepoch:
            training["unfinished"] = {"tally": self.tally.saved(), **self._clock.saved()}
        return replace(
            self.model,
            weights=dict(self.judged.state_dict()),
            training=training,
            provenance=self.model.provenance.trained(self.config.name, epochs=self.progress.epoch),
        )
