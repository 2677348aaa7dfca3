"""Validation on whole held-out cases, between two epochs of a training session."""

from __future__ import annotations

from typing import Any

from deepseg.config.training import TrainConfig
from deepseg.inference.predictor import Listener, Predictor, Tiles
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.network import Network
from deepseg.sessions.checked_cases import CheckedCases
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.segmentation.case_result import CaseResult, mean_record
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.sessions.segmentation.label_names import write_label_files
from deepseg.sessions.segmentation.result_files import case_scores, write_results
from deepseg.sessions.segmentation.stored_views import StoredViews, volumes_to_view
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.sessions.training.epoch_log import case_text
from deepseg.training.distributed import SINGLE_RANK, Ranks
from deepseg.training.model_selection import OF_VOLUMES


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

    Under ``cases``, the Dice of each. Ranks share the cases; each writes its results.
    """
    if config.validation is None or config.validation.volumes is None or held_out is None:
        return None
    settings = config.validation.volumes
    if (epoch + 1) % settings.every and epoch + 1 != config.epochs:
        return None
    predictor = Predictor(
        Checkpoint(network.config, network.state_dict(), config.preparation),
        device=next(network.parameters()).device,
        tiles=Tiles(batch_size=settings.batch_size),
        listener=Listener(folder.console.warn, folder.console.progress),
    )
    save, predictions, per_case = settings.save, folder.path / "predictions", {}
    records = CompletedCases(folder.path, "predicted")
    for listed in held_out.cases[ranks.rank :: ranks.world_size]:
        case = predictor.load(listed)
        segmentation = predictor.segment(
            case,
            probabilities=save.probabilities,
            uncertainty=save.uncertainty,
            feature_maps=save.feature_maps,
        )
        assert case.truth is not None
        scores = case_scores(segmentation, case.truth, network.config, {}, settings.metrics)
        files = write_results(
            segmentation, case, predictions, network.config, save, records, folder.console, scores
        )
        if files:
            noted = [str(file.relative_to(folder.path)) for file in files]
            records.keep(case.name, f"epoch {epoch + 1}", {"files": noted})
        folder.console.log(case_text(case.name, scores, epoch=epoch))
        if config.report:
            StoredViews(folder.path).keep(
                volumes_to_view(case, segmentation, network.config.channels),
                f"epoch {epoch + 1}",
                folder.console,
                CaseResult(case.name, segmentation.volumes_ml(network.config.classes), scores),
            )
        per_case[case.name] = scores
    if ranks.is_main:
        warn_of_set_aside(
            write_label_files(folder.path, save, network.config.classes), folder.console
        )
    all_cases = dict(sorted(ranks.all_gather(list(per_case.items()))))
    return mean_record(all_cases, (*OF_VOLUMES, *settings.metrics))
