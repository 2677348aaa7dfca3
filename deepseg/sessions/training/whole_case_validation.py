"""Validation on whole held-out cases, between two epochs of a training session."""

from __future__ import annotations

from typing import Any

from deepseg.config.testing import Inference
from deepseg.config.training import TrainConfig
from deepseg.inference.metrics import summary
from deepseg.model.network import Network
from deepseg.sessions.checked_cases import CheckedCases
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.segmentation.ensemble import Ensemble, member
from deepseg.sessions.segmentation.load_case import load_case
from deepseg.sessions.segmentation.predict_case import predict_case
from deepseg.sessions.segmentation.result_files import case_scores, write_results
from deepseg.training.distributed import SINGLE_RANK, Ranks


def validate_on_volumes(
    network: Network,
    held_out: CheckedCases | None,
    folder: SessionFolder,
    config: TrainConfig,
    *,
    epoch: int,
    ranks: Ranks = SINGLE_RANK,
) -> dict[str, Any] | None:
    """Mean scores on whole held-out cases, in the epochs in which that is due and in the last.

    Ranks share the cases; each writes the results of its share.
    """
    if config.validation is None or config.validation.volumes is None or held_out is None:
        return None
    settings = config.validation.volumes
    if (epoch + 1) % settings.every and epoch + 1 != config.epochs:
        return None
    network.eval()
    per_case = {}
    say = folder.console.warn
    alone = member(network, Inference(), config.preparation, say=say)
    ensemble = Ensemble((alone,), Inference(), settings.save, {}, None, settings.batch_size)
    for case in held_out.cases[ranks.rank :: ranks.world_size]:
        result = predict_case(ensemble, load_case(ensemble, case), folder.console)
        predictions = folder.path / "predictions"
        write_results(result, case.name, predictions, network.config, settings.save, folder.console)
        per_case[case.name] = case_scores(result, network.config, {})
    means = summary(dict(ranks.all_gather(list(per_case.items()))))
    return {
        measure: {row: values[measure]["mean"] for row, values in means.items()}
        for measure in ("dice", "sensitivity", "precision", "hausdorff95_mm")
    }
