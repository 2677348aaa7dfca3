"""Batches of segments for a training loop of a program's own, and the model that comes of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from deepseg.config.training import TrainConfig
from deepseg.data.segments.loader import Batch, SegmentLoader
from deepseg.data.segments.workers import worker_count
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import training_and_held_out
from deepseg.sessions.training.segment_datasets import training_dataset


class SegmentBatches:
    """The batches of one epoch after the other, each a pass over so many random segments.

    Every ``for`` loop over it is one epoch, with other segments than the one before, also after a
    loop that was left. As a context manager, it ends the workers and removes the prepared cases
    that nobody else needs.

    Args:
        config: Cases, sampling, preparation and so on; what is about steps is not used.
        model: For whose pathways the segments are cut.
        console: Shows progress, warnings and tables.

    Attributes:
        model: The model with the preparation of these cases and their record.

    Raises:
        DeepsegError: All problems of cases and settings.
    """

    def __init__(self, config: TrainConfig, model: Checkpoint, console: Console) -> None:
        self._temporary = tempfile.TemporaryDirectory() if config.cache is None else None
        cache = Path(self._temporary.name) if self._temporary is not None else config.cache
        assert cache is not None
        try:
            checked = training_and_held_out(config, model, console, cache=cache)
            config = config.model_copy(update={"preparation": checked.preparation})
            self.model = replace(model, preparation=checked.preparation, cohort=checked.cohort)
            dataset = training_dataset(
                checked.training, self.model, config, cache=cache, console=console
            )
        except BaseException:
            self._clean()
            raise
        self._name = config.name
        self._epochs = 0  # that have begun
        self._is_unfinished = False
        self._loader = SegmentLoader(
            dataset,
            batch_size=config.training.batch_size,
            workers=worker_count(config.workers, is_for_gpu=torch.cuda.is_available()),
            first=0,
            warn=console.warn,
        )
        self._loader.__enter__()

    def __enter__(self) -> SegmentBatches:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._loader.steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        if self._is_unfinished:
            self._loader.rewind(self._epochs)
        self._epochs += 1
        self._is_unfinished = True
        yield from self._loader.subepoch()
        self._is_unfinished = False

    def checkpoint(self, network: Network) -> Checkpoint:
        """The model with the weights of ``network``, which can be written and predict."""
        weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
        provenance = self.model.provenance
        if self._epochs:
            provenance = provenance.trained(self._name, epochs=self._epochs)
        return replace(self.model, weights=weights, training=None, provenance=provenance)

    def close(self) -> None:
        """End the workers, and let go of the prepared cases."""
        self._loader.__exit__(None, None, None)
        self._clean()

    def _clean(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
