"""The time of a few steps, a prepared case and a segmented case on this machine.

The one thing in a plan that is not a fact about cases: it decides the number of epochs only. It can
be kept and used again, so that a plan is the same on any day and machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import Case
from deepseg.data.cases.checks import examine
from deepseg.data.cases.summary import CaseSummary
from deepseg.data.segments.loader import Batch, SegmentLoader
from deepseg.data.segments.workers import worker_count
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import volume
from deepseg.inference.predictor import Predictor
from deepseg.model.arithmetic import arithmetic
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.cost import multiply_adds
from deepseg.model.imported_cost import imported_multiply_adds
from deepseg.model.layout import layout
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import CheckedCases, on_threads
from deepseg.sessions.segmentation.result_files import case_scores
from deepseg.sessions.segmentation.stored_views import StoredViews, volumes_to_view
from deepseg.sessions.training.segment_datasets import training_dataset
from deepseg.sessions.training.trainer_setup import session_trainer
from deepseg.training.distributed import SINGLE_RANK
from deepseg.training.random_state import seeded
from deepseg.training.tally import Tally

STEPS = 24  # at most, more than a worker cuts ahead
FEWEST_STEPS = 3  # however long they take
MEASURED_S = 4.0
WARM_UP = 1
QUICK = 1e12  # multiply-adds
START_S = 10.0  # imports, checks and the first segments; the page at the end
EPOCH_S = 0.5  # between two epochs: model files, curves


@dataclass(frozen=True)
class Speed:
    """Seconds that parts of a training take.

    Attributes:
        step_s: A batch: cut, computed, learnt from.
        case_s: A case: segmented and scored.
        prepare_s: A case: checked, prepared and cached.
        start_s: Before the first case.
        epoch_s: Between two epochs.
    """

    step_s: float
    case_s: float
    prepare_s: float
    start_s: float = START_S
    epoch_s: float = EPOCH_S

    def record(self) -> dict[str, float]:
        """The values for plan.json."""
        return {name: float(f"{seconds:.3g}") for name, seconds in asdict(self).items()}

    @staticmethod
    def from_record(record: Mapping[str, Any], where: str) -> Speed:
        """The speed in the plan.json of another study.

        Raises:
            DeepsegError: ``plan-speed``.
        """
        try:
            return _SPEED.validate_python(record.get("speed"))
        except ValidationError:
            raise DeepsegError(
                Problem(
                    code="plan-speed",
                    got="no times of steps in it",
                    expected="plan.json of a study that -plan has made",
                    fix="give that file, or leave -speed out to measure",
                    where=where,
                )
            ) from None


_SPEED = TypeAdapter(Speed)


def is_quick(network: ModelConfig, config: TrainConfig) -> bool:
    """True where the multiply-adds of all steps are so few that they take less than a minute."""
    plan, size = layout(network), network.segment_sizes["train"]
    of_segment = sum(multiply_adds(plan).values()) * volume(plan.prediction_size(size))
    of_segment += sum(imported_multiply_adds(plan).values()) * volume(size)
    segments = config.training.segments_per_subepoch * config.subepochs * config.epochs
    return of_segment * segments < QUICK


def training_seconds(config: TrainConfig, speed: Speed, *, cases: int, held_out: int) -> float:
    """Time of a whole training.

    >>> config = TrainConfig.model_validate(
    ...     {
    ...         "output": ".", "epochs": 5, "subepochs": 2,
    ...         "training": {
    ...             "cases": {"table": "a.csv"}, "segments_per_subepoch": 20, "batch_size": 10,
    ...         },
    ...         "validation": {"cases": {"table": "b.csv"}, "volumes": {"every": 2}},
    ...     }
    ... )
    >>> speed = Speed(step_s=2, case_s=10, prepare_s=3, start_s=4, epoch_s=1)
    >>> training_seconds(config, speed, cases=6, held_out=2)  # 40 + 3 rounds of 20 + 5 + 24 + 4
    133.0

    Args:
        config: The train file.
        speed: Of this machine.
        cases: That are learnt from.
        held_out: That are validated on.
    """
    steps = -(-config.training.segments_per_subepoch // config.training.batch_size)
    volumes = None if config.validation is None else config.validation.volumes
    rounds = 0 if volumes is None else -(-config.epochs // volumes.every)
    return float(
        speed.start_s
        + speed.prepare_s * (cases + held_out)
        + config.epochs * (config.subepochs * steps * speed.step_s + speed.epoch_s)
        + rounds * held_out * speed.case_s
    )


def folds_seconds(config: TrainConfig, speed: Speed, *, cases: int, held_out: int) -> float:
    """Time of all folds of a cross-validation, one after the other.

    >>> config = TrainConfig.model_validate(
    ...     {
    ...         "output": ".", "epochs": 1, "subepochs": 1, "folds": 2,
    ...         "training": {
    ...             "cases": {"table": "a.csv"}, "segments_per_subepoch": 10, "batch_size": 10,
    ...         },
    ...     }
    ... )
    >>> speed = Speed(step_s=2, case_s=10, prepare_s=3, start_s=4, epoch_s=1)
    >>> folds_seconds(config, speed, cases=6, held_out=0)  # 2 x (4 + 1 + 2), 6 x (3 + 10)
    92.0

    Args:
        config: The train file, with folds.
        speed: Of this machine.
        cases: That are split into folds.
        held_out: That all folds are validated on.
    """
    assert config.folds is not None
    fold = training_seconds(config, speed, cases=0, held_out=held_out)
    prepared_again = (config.folds - 1) * held_out * speed.prepare_s
    per_case = speed.prepare_s + speed.case_s
    return config.folds * fold - prepared_again + cases * per_case


def measured_speed(
    model: Checkpoint,
    config: TrainConfig,
    cases: Sequence[tuple[Case, CaseSummary]],
    device: torch.device,
) -> Speed:
    """Prepare a case or two, take a few steps on them, and segment and score one.

    All is done as in training: by as many threads and workers, and with what the page needs.

    Args:
        model: A new model of the network.
        config: The train file.
        cases: A few training cases with their summaries.
        device: That computes.
    """
    checked = CheckedCases(tuple(case for case, _ in cases), tuple(s for _, s in cases))
    settings = config.training.model_copy(
        update={
            "segments_per_subepoch": (STEPS + WARM_UP) * config.training.batch_size,
            "cases_per_subepoch": len(cases),
        }
    )
    config = config.model_copy(update={"training": settings})
    with TemporaryDirectory() as cache:
        begun = time.monotonic()
        check = partial(examine, class_count=len(model.config.classes), needs_labels=True)
        on_threads(check, checked.cases, Console(silent=True), "")
        dataset = training_dataset(
            checked, model, config, cache=Path(cache), console=Console(silent=True)
        )
        prepare_s = (time.monotonic() - begun) / len(cases)
        trainer = session_trainer(model, config, device, SINGLE_RANK)
        ends: list[float] = []
        workers = worker_count(config.workers, is_for_gpu=device.type == "cuda")
        loader = SegmentLoader(dataset, batch_size=settings.batch_size, workers=workers, first=0)
        with loader, arithmetic(config.precision), seeded(config.seed, device):
            trainer.train(
                _for_a_while(loader.subepoch()),
                Tally(len(model.config.classes)),
                epoch=0,
                epochs=1,
                on_step=lambda _: ends.append(time.monotonic()),
            )
        step_s = statistics.fmean(
            b - a for a, b in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)
        )
        network = trainer.evaluated
        trained = Checkpoint(network.config, network.state_dict(), config.preparation)
        begun = time.monotonic()
        predictor = Predictor(trained, device=device)
        case = predictor.load(checked.cases[0])
        segmentation = predictor.segment(case)
        if case.truth is not None:
            case_scores(segmentation, case.truth, network.config, {})
        if config.report:
            view = volumes_to_view(case, segmentation, network.config.channels)
            StoredViews(Path(cache)).keep(view, "", Console(silent=True))
        case_s = time.monotonic() - begun
    return Speed(step_s, case_s, prepare_s)


def _for_a_while(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The first batches, for about as long as `MEASURED_S`."""
    until = time.monotonic() + MEASURED_S
    for number, batch in enumerate(batches):
        if number >= FEWEST_STEPS + WARM_UP and time.monotonic() > until:
            return
        yield batch
