"""``-train``: train a model; the same command goes on where it stopped."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deepseg.config.loading import load
from deepseg.config.training import TrainConfig
from deepseg.data.stream import SegmentRules, SegmentSource, Stream
from deepseg.errors import DeepsegError, Problem
from deepseg.model.network import Network
from deepseg.randomness import Purpose, torch_seed
from deepseg.report.console import Console
from deepseg.sessions.cases import CheckedCases, prepared_cases, training_and_held_out
from deepseg.sessions.devices import chosen_device
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.models import Model, read_model, read_or_make_model, to_save
from deepseg.sessions.progress import Progress, restored
from deepseg.sessions.records import (
    announce,
    best_score,
    epoch_record,
    schedule_score,
    show_progress,
)
from deepseg.sessions.tables import network_table
from deepseg.sessions.volumes import validate_on_volumes
from deepseg.training.freezing import freeze, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.schedule import learning_rate, momentum
from deepseg.training.trainer import Outcome, Tally, train_on, validate_on


def train(
    config_file: Path, *, model_file: Path | None = None, device: str = "auto", quiet: bool = False
) -> Path:
    """Train as ``config_file`` says, or go on with it.

    Args:
        config_file: A train file, YAML or DeepMedic's.
        model_file: A `.save` or a model file; wins over the one in the train file.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Say warnings and errors only.

    Returns:
        The model file of the last epoch.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before training begins.
    """
    loaded = load(TrainConfig, config_file)
    config = loaded.config
    computer = chosen_device(device)
    with SessionFolder(config.folder, quiet=quiet) as folder:
        console = folder.console
        announce(console, f"train {config.name}", loaded.warnings, computer)
        model = _starting_model(folder, config, model_file)
        network_table(console, model.config)
        training, held_out = training_and_held_out(
            config, model.config, console, cache=_cache(folder, config)
        )
        network = model.network().to(computer)
        frozen = freeze(network, config.freeze)
        optimizer = Optimizer(trainable(network), config.optimiser)
        progress = restored(model.training, config, optimizer, console)
        folder.forget_from(progress.epoch)
        if frozen:
            console.say(f"frozen: {', '.join(frozen)}")
        console.say(f"weights: {model.origin}; epoch {progress.epoch} of {config.epochs}")
        prepared = replace(
            model, preparation=config.preparation, spacing_mm=_spacing_mm(config, training)
        )
        with _stream(folder, config, prepared, training, first=progress.epoch) as stream:
            judged = _validation_source(folder, config, prepared, held_out)
            while progress.epoch < config.epochs:
                started = time.monotonic()
                optimizer.learning_rate = learning_rate(
                    config.schedule, config.optimiser.learning_rate, epoch=progress.epoch,
                    epochs=config.epochs, history=progress.scores,
                )  # fmt: skip
                optimizer.momentum = momentum(
                    config.schedule, config.optimiser, epoch=progress.epoch, epochs=config.epochs
                )
                outcome = _train_epoch(stream, network, optimizer, config, progress, console)
                samples = _validate_samples(judged, network, config)
                volumes = validate_on_volumes(
                    network, held_out, folder, config, epoch=progress.epoch
                )
                record = epoch_record(
                    progress.epoch, time.monotonic() - started, optimizer, model.config,
                    outcome, samples, volumes,
                )  # fmt: skip
                progress = _keep(folder, config, prepared, network, optimizer, progress, record)
        return folder.models / "last.save"


def _starting_model(folder: SessionFolder, config: TrainConfig, model_file: Path | None) -> Model:
    latest = folder.latest()
    if latest is not None:
        folder.console.say(f"continuing the session in {folder.path}")
        if model_file is not None:
            folder.console.warn(
                f"{model_file} is not read: this session has begun and goes on from {latest}; "
                "give the session another name to start from that model"
            )
        return read_model(latest)
    path = config.model if model_file is None else model_file
    if path is None:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="no model",
                expected="a .save or a model file",
                fix="add -model FILE, or model: FILE to the train file",
            )
        )
    # A session of its own starts with epoch 0, whatever the model was trained for before.
    return replace(read_or_make_model(path, seed=config.seed), training=None)


def _cache(folder: SessionFolder, config: TrainConfig) -> Path:
    return folder.path / "cache" if config.cache is None else config.cache


def _spacing_mm(config: TrainConfig, training: CheckedCases) -> tuple[float, float, float] | None:
    """Voxel size that the network learns at; that of the first case where all keep their own."""
    wanted = config.preparation.spacing_mm
    return training.facts[0].spacing_mm if wanted is None else wanted


def _stream(
    folder: SessionFolder, config: TrainConfig, model: Model, cases: CheckedCases, *, first: int
) -> Stream:
    own = config.training
    source = _source(
        folder, config, model, cases,
        SegmentRules(
            sampling=own.sampling,
            classes=model.config.classes,
            vision=model.vision,
            size=model.config.segment_sizes["train"],
            segments=own.segments_per_subepoch,
            cases=own.cases_per_subepoch,
            augmentation=own.augmentation,
            seed=config.seed,
            is_training=True,
        ),
        what="training cases",
    )  # fmt: skip
    return Stream(
        source, batch_size=own.batch_size, workers=config.workers, first=first * config.subepochs
    )


def _validation_source(
    folder: SessionFolder, config: TrainConfig, model: Model, cases: CheckedCases | None
) -> SegmentSource | None:
    if config.validation is None or config.validation.samples is None or cases is None:
        return None
    own = config.validation.samples
    return _source(
        folder, config, model, cases,
        SegmentRules(
            sampling=own.sampling,
            classes=model.config.classes,
            vision=model.vision,
            size=model.config.segment_sizes["validation"],
            segments=own.segments,
            cases=own.cases,
            augmentation=None,
            seed=config.seed,
            is_training=False,
        ),
        what="validation cases",
    )  # fmt: skip


def _source(
    folder: SessionFolder, config: TrainConfig, model: Model, cases: CheckedCases,
    rules: SegmentRules, *, what: str,
) -> SegmentSource:  # fmt: skip
    cache = _cache(folder, config)
    folders = prepared_cases(
        cases, config.preparation, model.config.channels, cache, folder.console, what=what
    )
    source = SegmentSource(folders, rules)
    empty = source.without_candidates()
    for name in empty:
        folder.console.warn(f"case {name} has no voxel to centre a segment on and is left out")
    if len(empty) == len(folders):
        raise DeepsegError(
            Problem(
                code="nothing-to-sample",
                got=f"no voxel to centre a segment on in any of the {what}",
                expected="at least one case with voxels inside its ROI",
                fix="look at the ROI masks and weight maps",
            )
        )
    return source


def _train_epoch(
    stream: Stream, network: Network, optimizer: Optimizer, config: TrainConfig,
    progress: Progress, console: Console,
) -> Outcome:  # fmt: skip
    tally = Tally(len(network.config.classes))
    title = f"epoch {progress.epoch + 1} of {config.epochs}"
    with console.progress(title, stream.steps * config.subepochs) as advance:
        for subepoch in range(config.subepochs):
            # Dropout masks come from torch's generator, which is counted like all randomness.
            torch.manual_seed(torch_seed(config.seed, Purpose.DROPOUT, progress.epoch, subepoch))
            train_on(
                stream.subepoch(), network, optimizer, config.loss, epoch=progress.epoch,
                epochs=config.epochs, tally=tally,
                on_step=lambda value: advance(note=f"loss {value:.4f}"),
            )  # fmt: skip
    return tally.outcome()


def _validate_samples(
    source: SegmentSource | None, network: Network, config: TrainConfig
) -> Outcome | None:
    if source is None or config.validation is None or config.validation.samples is None:
        return None
    batch_size = config.validation.samples.batch_size
    with Stream(source, batch_size=batch_size, workers=config.workers, first=0) as stream:
        return validate_on(stream.subepoch(), network, config.loss)


def _keep(
    folder: SessionFolder, config: TrainConfig, model: Model, network: Network,
    optimizer: Optimizer, progress: Progress, record: dict[str, Any],
) -> Progress:  # fmt: skip
    reached = progress.after(
        schedule_score(record), best_score(record, on_volumes=_judges_volumes(config))
    )
    is_best = reached.best is not None and reached.best != progress.best
    every = config.checkpoints.every
    kept = every is not None and reached.epoch % every == 0
    save = to_save(
        replace(
            model,
            weights=dict(network.state_dict()),
            training=reached.saved(config, optimizer),
            provenance={**model.provenance, f"trained by {config.name}": f"{reached.epoch} epochs"},
        )
    )
    name = f"epoch-{reached.epoch:04d}.save" if kept else None
    folder.keep(save, {**record, "best": is_best}, is_best=is_best, name=name)
    show_progress(folder, config)
    return reached


def _judges_volumes(config: TrainConfig) -> bool:
    return config.validation is not None and config.validation.volumes is not None
