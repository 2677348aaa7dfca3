"""A network in training: what changes from epoch to epoch, and how an epoch begins and ends."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deepseg.config.training import TrainConfig
from deepseg.data.stream import SegmentSource, Stream
from deepseg.model.network import Network
from deepseg.randomness import Purpose, torch_seed
from deepseg.sessions.anchors import anchors
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.judging import (
    best_metric,
    is_reached,
    score,
    stopping_metric,
    value,
    waited_in_vain,
)
from deepseg.sessions.models import Model, to_save
from deepseg.sessions.progress import Progress, restored
from deepseg.sessions.records import (
    BEFORE,
    epoch_record,
    rates_text,
    schedule_score,
    show_before,
    show_progress,
    validation_record,
)
from deepseg.training.averaging import Average
from deepseg.training.distributed import ALONE, Ranks, normalise_together
from deepseg.training.freezing import freeze, trainable
from deepseg.training.groups import groups
from deepseg.training.optimization import Optimizer
from deepseg.training.schedule import learning_rate, momentum, warm_up
from deepseg.training.trainer import Outcome, Tally, train_on, validate_on


class TrainingRun:
    """The state of a training session.

    Attributes:
        network: On the device that computes.
        optimizer: Of everything that is not frozen.
        frozen: Addresses of the layers that keep their weights.
        average: The network that follows this one slowly, or None.
        anchors: Where L2-SP pulls kernels, by name.
        progress: Epochs finished and their scores.
    """

    def __init__(
        self,
        folder: SessionFolder,
        config: TrainConfig,
        model: Model,
        device: torch.device,
        ranks: Ranks = ALONE,
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
            trainable(self.network), config.optimiser, groups(self.network, config.optimiser)
        )
        self.average = self._average()
        normalise_together(self.network, ranks)
        self.anchors = anchors(model, config.loss)
        self.progress = restored(model.training, config, self.optimizer, folder.console)
        folder.forget_from(BEFORE if self.progress.epoch == 0 else self.progress.epoch)
        self._set_rates()

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or a rule has ended training before."""
        return self.progress.epoch >= self.config.epochs or bool(self.progress.end)

    @property
    def judged(self) -> Network:
        """The network that is validated and saved."""
        return self.network if self.average is None else self.average.network

    @property
    def begins_trained(self) -> bool:
        """Whether the first epoch is still to come, for weights that can do something already."""
        return self.progress.epoch == 0 and not self.model.is_random

    def rates_text(self) -> str:
        """The learning rates of the next step, for people."""
        return rates_text(self.optimizer.learning_rate, self.optimizer.learning_rates)

    def judge_before(self, samples: Outcome | None, volumes: Mapping[str, Any] | None) -> None:
        """Note what the weights can do before the first step."""
        record = validation_record(BEFORE, self.model.config, samples, volumes)
        self.folder.note(record)
        show_before(self.folder, record)

    def train(self, stream: Stream) -> Outcome:
        """The next epoch, sub-epoch after sub-epoch."""
        self._started = time.monotonic()
        self._unfreeze()
        epoch, epochs = self.progress.epoch, self.config.epochs
        tally = Tally(len(self.model.config.classes))
        steps = stream.steps * self.config.subepochs
        with self.folder.console.progress(f"epoch {epoch + 1} of {epochs}", steps) as advance:
            for subepoch in range(self.config.subepochs):
                self._set_rates(subepoch)
                # Dropout masks come from torch's generator, which is counted like all randomness.
                counters = (epoch, subepoch, *self.ranks.others)
                torch.manual_seed(torch_seed(self.config.seed, Purpose.DROPOUT, *counters))
                train_on(
                    stream.subepoch(), self.network, self.optimizer, self.config.loss,
                    epoch=epoch, epochs=epochs, tally=tally,
                    on_step=lambda value: advance(note=f"loss {value:.4f}"),
                    anchors=self.anchors, steps=self.config.steps, on_update=self._follow,
                    ranks=self.ranks,
                )  # fmt: skip
        return tally.outcome()

    def validate(self, source: SegmentSource | None) -> Outcome | None:
        """Loss and counts on validation samples; None where there are none."""
        if source is None or self.config.validation is None:
            return None
        assert self.config.validation.samples is not None
        batch_size = self.config.validation.samples.batch_size
        with Stream(
            source, batch_size=batch_size, workers=self.config.workers, first=0,
            rank=self.ranks.rank, ranks=self.ranks.count,
        ) as stream:  # fmt: skip
            return validate_on(
                stream.subepoch(), self.judged, self.config.loss, anchors=self.anchors,
                ranks=self.ranks,
            )  # fmt: skip

    def keep(
        self, training: Outcome, samples: Outcome | None, volumes: Mapping[str, Any] | None
    ) -> None:
        """End the epoch: write its model, its line and its curves."""
        seconds = time.monotonic() - self._started
        record = epoch_record(
            self.progress.epoch, seconds, self.optimizer, self.model.config,
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
        self.folder.keep(
            to_save(self._as_model()),
            {**record, "best": is_best},
            is_best=is_best,
            name=self._name(reached.epoch, value(record, metric)) if is_kept else None,
        )
        if self.ranks.leads:
            show_progress(self.folder, self.config)

    def _average(self) -> Average | None:
        memory, training = self.config.steps.average, self.model.training
        if memory is None:
            return None
        average = Average(self.network, memory)
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
        if stopping is not None and waited_in_vain(stopping, reached.watched):
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

    def _set_rates(self, subepoch: int = 0) -> None:
        own, epoch, epochs = self.config, self.progress.epoch, self.config.epochs
        scheduled = learning_rate(
            own.schedule, own.optimiser.learning_rate, epoch=epoch, epochs=epochs,
            history=self.progress.scores,
        )  # fmt: skip
        self.optimizer.learning_rate = scheduled * warm_up(
            epoch * own.subepochs + subepoch, subepochs=own.steps.warm_up * own.subepochs
        )
        self.optimizer.momentum = momentum(own.schedule, own.optimiser, epoch=epoch, epochs=epochs)

    def _as_model(self) -> Model:
        trained = {f"trained by {self.config.name}": f"{self.progress.epoch} epochs"}
        training = self.progress.saved(self.config, self.optimizer)
        if self.config.loss.l2_sp:
            training["anchors"] = self.anchors
        if self.average is not None:
            training["weights"] = dict(self.network.state_dict())
            training["averaged"] = self.average.steps
        return replace(
            self.model,
            weights=dict(self.judged.state_dict()),
            training=training,
            provenance={**self.model.provenance, **trained},
        )
