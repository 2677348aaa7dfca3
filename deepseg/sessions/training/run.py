"""A training session from epoch to epoch: how an epoch begins, is tried again, and ends.

Training can stand still between two sub-epochs only. A sub-epoch that fails leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from deepseg.config.training import TrainConfig
from deepseg.data.segments.loader import BatchShard, SegmentLoader
from deepseg.data.segments.segment_dataset import SegmentDataset
from deepseg.data.segments.workers import worker_count
from deepseg.errors import NumericalFailure
from deepseg.model.arithmetic import arithmetic
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.network import Network
from deepseg.randomness import Purpose, torch_seed
from deepseg.report.console import Advance
from deepseg.report.progress import duration
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.training.checkpoints import checkpoint_name, training_checkpoint
from deepseg.sessions.training.epoch_log import (
    BEFORE,
    epoch_record,
    rates_text,
    schedule_score,
    show_before,
    show_progress,
    subepoch_text,
    validation_record,
)
from deepseg.sessions.training.progress import restored, start_file
from deepseg.sessions.training.session_cases import CaseStamps, case_changes
from deepseg.sessions.training.timer import EpochTimer, FirstSteps
from deepseg.sessions.training.trainer_setup import session_trainer
from deepseg.training.distributed import SINGLE_RANK, Ranks
from deepseg.training.freezing import freeze, frozen_layers, trainable
from deepseg.training.model_selection import (
    best_metric,
    is_better,
    reason_to_stop,
    score,
    stopping_metric,
    value,
)
from deepseg.training.random_state import seeded
from deepseg.training.schedule import learning_rate, momentum, warm_up
from deepseg.training.tally import SegmentScores, Tally

TIMED_STEPS = 10
WORTH_TELLING = 60.0  # seconds that training takes at least, for a line about them
WAITING_SHARE, WAITING_S = 0.1, 10.0  # of an epoch, for a line about workers
SLOWER = 0.5  # times the learning rates, after a loss or weights that were not finite


class TrainingRun:
    """The state of a training session.

    Args:
        folder: Of the session.
        config: Its settings.
        model: The one with which it begins, or its last one.
        device: That computes.
        ranks: Those that train together.
        cases: Stamps of its cases, which are compared with those that it has learnt from.

    Attributes:
        trainer: The network that learns, its optimiser and its average.
        frozen: Addresses of the layers that keep their weights.
        progress: Epochs finished and their scores.
        tally: Losses and voxels of the epoch so far.
    """

    def __init__(
        self,
        folder: SessionFolder,
        config: TrainConfig,
        model: Checkpoint,
        device: torch.device,
        ranks: Ranks = SINGLE_RANK,
        cases: Mapping[str, CaseStamps] | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.model = model
        self.ranks = ranks
        self.trainer = session_trainer(model, config, device, ranks)
        self.progress = restored(model.training, config, self.trainer.optimizer, folder.console)
        if model.training is None and ranks.is_main:
            self.progress = replace(self.progress, start=start_file(model.origin.file))
        if cases is not None:
            for change in case_changes(self.progress.cases, cases):
                folder.console.warn(change)
            self.progress = replace(self.progress, cases=cases)
        self.frozen = self._frozen_layers()
        unfinished = {} if model.training is None else model.training.get("unfinished", {})
        self.tally = Tally.from_state(unfinished["tally"]) if unfinished else self._empty_tally()
        self._timer = EpochTimer(unfinished)
        self._first_steps = FirstSteps(TIMED_STEPS)
        self._has_told = False  # of waiting for segments
        self._saved_at = time.monotonic()
        if ranks.is_main:
            folder.set_aside_foreign()
        if self.progress.subepoch == 0:
            folder.drop_running()  # of an epoch that is over, by a process that was killed there
        folder.drop_records_from(BEFORE if self.next_subepoch == 0 else self.progress.epoch)
        self._set_rates()

    @property
    def is_finished(self) -> bool:
        """True once all epochs are done, or a rule has ended training early."""
        return self.progress.epoch >= self.config.epochs or bool(self.progress.end)

    @property
    def next_subepoch(self) -> int:
        """The next sub-epoch, counted from the beginning of the session."""
        return self.progress.epoch * self.config.subepochs + self.progress.subepoch

    @property
    def evaluated(self) -> Network:
        """The network that is validated and saved."""
        return self.trainer.evaluated

    @property
    def workers(self) -> int:
        """Processes that cut segments."""
        return worker_count(self.config.workers, is_for_gpu=self.trainer.device.type == "cuda")

    @property
    def starts_trained(self) -> bool:
        """True before the first epoch of weights that are not random."""
        return self.next_subepoch == 0 and not self.model.is_random

    def rates_text(self) -> str:
        """The learning rates of the next step, for people."""
        optimizer = self.trainer.optimizer
        return rates_text(optimizer.learning_rate, optimizer.learning_rates)

    def record_before(
        self, samples: SegmentScores | None, volumes: Mapping[str, Any] | None
    ) -> None:
        """Write down the scores of the weights before the first step."""
        record = validation_record(BEFORE, self.model.config, samples, volumes)
        self.folder.append_record(record)
        show_before(self.folder, record)

    def train_epoch(self, loader: SegmentLoader) -> SegmentScores:
        """Train the next epoch, or its remaining sub-epochs; return the scores of all of it."""
        if self.progress.subepoch == 0:
            self._timer = EpochTimer({})
        self._unfreeze()
        title = f"epoch {self.progress.epoch + 1} of {self.config.epochs}"
        steps = loader.steps * (self.config.subepochs - self.progress.subepoch)
        with self.folder.console.progress(title, steps) as advance:
            while self.progress.subepoch < self.config.subepochs:
                self._try_subepoch(loader, partial(self._after_step, loader.steps, advance))
        return self.tally.scores()

    def _after_step(self, steps_per_subepoch: int, advance: Advance, loss: float) -> None:
        """Show the step and, after the first few, the time that all those to come will take."""
        advance(note=f"loss {loss:.4f}")
        step_s = self._first_steps.step_s()
        if step_s is None:
            return
        subepochs = self.config.epochs * self.config.subepochs - self.next_subepoch
        seconds = step_s * steps_per_subepoch * subepochs
        if seconds >= WORTH_TELLING:
            self.folder.console.say(
                f"about {duration(seconds)} of training to come, judging by {TIMED_STEPS} steps; "
                "validation comes on top"
            )

    def validate(self, dataset: SegmentDataset | None) -> SegmentScores | None:
        """Loss and scores on validation segments; None where there are none."""
        if dataset is None or self.config.validation is None:
            return None
        assert self.config.validation.samples is not None
        batch_size = self.config.validation.samples.batch_size
        loader = SegmentLoader(
            dataset,
            batch_size=batch_size,
            workers=self.workers,
            first=0,
            pin=self.trainer.device.type == "cuda",
            shard=BatchShard(self.ranks.rank, self.ranks.world_size),
            warn=self.folder.console.warn,
        )
        with loader as segments, arithmetic("float32"):
            return self.trainer.validate(segments.subepoch())

    def end_epoch(
        self,
        training: SegmentScores,
        samples: SegmentScores | None,
        volumes: Mapping[str, Any] | None,
    ) -> None:
        """Write the epoch's model, its line and its curves, and decide if training goes on."""
        record = epoch_record(
            self.progress.epoch,
            self._timer,
            self.trainer.optimizer,
            self.model.config,
            training,
            samples,
            volumes,
        )
        metric, watched = best_metric(self.config), stopping_metric(self.config)
        candidate = score(record, metric)
        is_best = is_better(candidate, self.progress.best)
        progress = self.progress.after(
            schedule_score(record),
            candidate,
            None if watched is None else score(record, watched),
        )
        end = reason_to_stop(self.config, record, progress.watched)
        self.progress = replace(progress, end=end)
        self.tally = self._empty_tally()
        self.folder.save_epoch(
            self.checkpoint().to_save(),
            {**record, "best": is_best},
            is_best=is_best,
            name=checkpoint_name(self.config.checkpoints, progress.epoch, value(record, metric)),
        )
        self._saved_at = time.monotonic()
        if self.ranks.is_main:
            show_progress(self.folder, self.config)
        self._tell_of_waiting()

    def _tell_of_waiting(self) -> None:
        """Advise more workers, once, where the network has waited long for segments."""
        waited, seconds = self._timer.waited, self._timer.seconds
        if self._has_told or waited < max(WAITING_SHARE * seconds, WAITING_S):
            return
        self._has_told = True
        self.folder.console.say(
            f"steps have waited {waited / seconds:.0%} of the epoch for segments: raise workers, "
            f"now {self.workers}"
        )

    def _try_subepoch(self, loader: SegmentLoader, on_step: Callable[[float], None]) -> None:
        """Train one sub-epoch; undo it, if it fails and may be tried again."""
        snapshot, tally = self.trainer.snapshot(), self.tally.state_dict()
        number = self.progress.subepoch + 1
        try:
            self._train_subepoch(loader, on_step)
        except NumericalFailure as failure:
            self._slow_down(failure)
            self.trainer.restore(snapshot)
            self.tally = Tally.from_state(tally)
            loader.rewind(self.next_subepoch)
        else:
            self._log_subepoch(self.tally.since(tally).scores(), number)
            self.progress = replace(self.progress, subepoch=number)
            self._save_running()

    def _log_subepoch(self, scores: SegmentScores, number: int) -> None:
        line = subepoch_text(
            scores,
            self.model.config.classes,
            epoch=self.progress.epoch + 1,
            number=number,
            of=self.config.subepochs,
        )
        self.folder.console.log(line)

    def _train_subepoch(self, loader: SegmentLoader, on_step: Callable[[float], None]) -> None:
        self._set_rates()
        epoch, epochs = self.progress.epoch, self.config.epochs
        counters = (epoch, self.progress.subepoch, *self.ranks.rng_counters)
        seed = torch_seed(self.config.seed, Purpose.DROPOUT, *counters)
        is_repeatable = self.config.deterministic and self.trainer.device.type == "cuda"
        with (
            arithmetic(self.config.precision, is_repeatable=is_repeatable),
            seeded(seed, self.trainer.device),
        ):
            batches = self._timer.timed(loader.subepoch())
            self.trainer.train(batches, self.tally, epoch=epoch, epochs=epochs, on_step=on_step)

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

    def _save_running(self) -> None:
        """Write the model in the middle of the epoch, if the last one is old enough."""
        if time.monotonic() - self._saved_at >= self.config.checkpoints.seconds:
            self.folder.save_running(self.checkpoint().to_save())
            self._saved_at = time.monotonic()

    def checkpoint(self) -> Checkpoint:
        """The model as it is now, with all that training needs to go on."""
        unfinished = {}
        if self.progress.subepoch:
            unfinished = {"tally": self.tally.state_dict(), **self._timer.state_dict()}
        return training_checkpoint(self.model, self.config, self.progress, self.trainer, unfinished)

    def _empty_tally(self) -> Tally:
        return Tally(len(self.model.config.classes))

    def _frozen_layers(self) -> tuple[str, ...]:
        layout, epoch = self.trainer.network.layout, self.progress.epoch
        return tuple(frozen_layers(layout, self.config.freeze, epoch=epoch))

    def _unfreeze(self) -> None:
        """Let those layers learn that are frozen no longer; all others go on as they were."""
        networks = [self.trainer.network]
        if self.trainer.average is not None:
            networks.append(self.trainer.average.network)
        for network in networks:
            freeze(
                network,
                self.config.freeze,
                epoch=self.progress.epoch,
                rules=self.config.optimiser,
            )
        # Layers that stay frozen may let their norms learn from now on, so names decide.
        self.trainer.optimizer.set_parameters(trainable(self.trainer.network))
        frozen = self._frozen_layers()
        if frozen != self.frozen:
            thawed = [address for address in self.frozen if address not in frozen]
            self.folder.console.say(f"learn from now on: {', '.join(thawed)}")
            self.frozen = frozen

    def _set_rates(self) -> None:
        config, epoch, epochs = self.config, self.progress.epoch, self.config.epochs
        subepoch = min(self.progress.subepoch, config.subepochs - 1)  # after the last one: its rate
        scheduled = learning_rate(
            config.schedule,
            config.optimiser.learning_rate,
            epoch=epoch,
            epochs=epochs,
            history=self.progress.scores,
        )
        share = warm_up(
            epoch * config.subepochs + subepoch, subepochs=config.steps.warm_up * config.subepochs
        )
        self.trainer.optimizer.learning_rate = scheduled * share * self.progress.slowing
        self.trainer.optimizer.momentum = momentum(
            config.schedule, config.optimiser, epoch=epoch, epochs=epochs
        )
