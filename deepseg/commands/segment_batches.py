"""Batches of segments for a training loop of a program's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseg.config.files.document import Document
from deepseg.config.training import TrainConfig
from deepseg.config.validation.validate import validate
from deepseg.model.checkpoint import Checkpoint
from deepseg.report.console import Console
from deepseg.sessions.model_files import named_files, session_models
from deepseg.sessions.training.segment_batches import SegmentBatches


def segment_batches(
    cases: Path | str | Mapping[str, Any],
    *,
    model: Path | str | Checkpoint,
    training: Mapping[str, Any] | None = None,
    preparation: Mapping[str, Any] | None = None,
    workers: int = 0,
    cache: Path | str | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> SegmentBatches:
    """Batches of random segments of labelled cases, cut for the pathways of a model.

    A batch has ``inputs``, a tensor ``(N, C, X, Y, Z)`` for each parallel pathway, ``labels``
    ``(N, X, Y, Z)``, -1 where unknown, and ``cases``, the name of each segment's case::

        with deepseg.segment_batches("cases.csv", model="model.yaml") as batches:
            network = batches.model.network()
            for batch in batches:
                logits = network(batch.inputs)  # (N, K, X, Y, Z)

    Args:
        cases: A table of cases, or a mapping with the keys of ``cases`` in a train file.
        model: A `.save`, a model file, or a checkpoint that was loaded.
        training: Keys of the block ``training`` of a train file, such as ``{"batch_size": 8}``.
        preparation: Keys of the block ``preparation`` of a train file.
        workers: Processes that cut segments while the network computes.
        cache: Folder for prepared cases. Default: a temporary one.
        seed: All randomness follows from it.
        quiet: Print warnings only.

    Returns:
        The batches: a loop over them is one epoch of ``segments_per_subepoch`` segments.

    Raises:
        DeepsegError: Everything that is wrong with files, settings or data.
    """
    console = Console(quiet=quiet)
    listed = dict(cases) if isinstance(cases, Mapping) else {"table": str(cases)}
    settings: dict[str, Any] = {
        "name": "segment_batches",
        "output": ".",
        "training": {**(training or {}), "cases": listed},
        "workers": workers,
        "seed": seed,
    }
    if preparation is not None:
        settings["preparation"] = dict(preparation)
    if cache is not None:
        settings["cache"] = str(cache)
    config = validate(TrainConfig, Document(Path("segment_batches"), settings, {}))
    if not isinstance(model, Checkpoint):
        named = named_files(model, None, None)
        (model,) = session_models(named, seed=seed, warn=console.warn)
    return SegmentBatches(config, model, console)
