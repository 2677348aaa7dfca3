"""Settings of the two sessions of a fold: to learn from most cases, and to segment the others."""

from __future__ import annotations

from pathlib import Path

from deepseg.config.cases import Preparation
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.sessions.folds.record import TESTED, Fold


def training_settings(
    config: TrainConfig, fold: Fold, preparation: Preparation, cache: Path
) -> TrainConfig:
    """Settings of the training session of a fold.

    Args:
        config: Of the cross-validation.
        fold: Whose training cases are taken.
        preparation: Of all cases, so that each is prepared once for all folds.
        cache: Of all folds.
    """
    cases = config.training.cases.model_copy(update={"only": fold.training_list})
    return config.model_copy(
        update={
            "name": fold.folder.name,
            "output": fold.folder.parent,
            "folds": None,
            "cache": cache,
            "preparation": preparation,
            "training": config.training.model_copy(update={"cases": cases}),
        }
    )


def testing_settings(config: TrainConfig, fold: Fold) -> TestConfig:
    """Settings of the session that segments the held-out cases of a fold with its model."""
    volumes = None if config.validation is None else config.validation.volumes
    return TestConfig(
        name=TESTED,
        output=fold.folder,
        model=fold.model,
        cases=config.training.cases.model_copy(update={"only": fold.held_out_list}),
        metrics=() if volumes is None else volumes.metrics,
        keep_going=True,
        report=config.report,
    )
