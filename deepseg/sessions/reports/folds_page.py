"""The page of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseg.config.training import TrainConfig
from deepseg.model.checkpoint import read_checkpoint
from deepseg.report.page.document import Section
from deepseg.report.page.markup import Html, Value, element, joined, table
from deepseg.sessions.folds.record import Fold, Folds
from deepseg.sessions.outcome import command_line
from deepseg.sessions.reports.case_sections import case_sections
from deepseg.sessions.reports.model_sections import settings_section
from deepseg.sessions.reports.session_page import NAME, write_session_page
from deepseg.sessions.reports.testing_page import case_result, mean_sections
from deepseg.sessions.segmentation.case_result import CaseResult
from deepseg.sessions.segmentation.stored_views import StoredViews


def write_folds_page(
    config: TrainConfig, folds: Folds, records: Mapping[str, Mapping[str, Any]]
) -> tuple[Path, ...]:
    """Write ``report.html`` of all held-out cases.

    Args:
        config: Settings of the cross-validation.
        folds: The split.
        records: Of the cases that are segmented, at least one.

    Returns:
        The new places of files of this name that others wrote.
    """
    results = [case_result(name, record) for name, record in records.items()]
    views = {number: StoredViews(folds.fold(number).results) for number in folds.numbers}
    first = folds.fold(next(iter(records.values()))["fold"])
    sections = [
        *mean_sections(results),
        Section("Folds", _folds(folds, results)),
        *case_sections(
            results,
            lambda name: views[folds.cases[name]].view(name, None),
            read_checkpoint(first.model).config.classes,
        ),
        settings_section(config, command_line()),
    ]
    done = f"{len(results)} of {len(folds.cases)} cases, each segmented by the model of its fold"
    return write_session_page(folds.folder, f"{folds.count} folds of {config.name}", done, sections)


def _folds(folds: Folds, results: Sequence[CaseResult]) -> Html:
    """Cases and mean Dice of every fold, with a link to the page of its training."""
    note = element(
        "p",
        "Mean Dice of the held-out cases of a fold, which its model has not learnt from.",
        class_="note",
    )
    rows = [
        [
            _link(folds.fold(number)),
            len(folds.training(number)),
            len(folds.held_out(number)),
            _mean([r for r in results if folds.cases[r.name] == number]),
        ]
        for number in folds.numbers
    ]
    return joined([note, table(["fold", "learns from", "held out", "mean Dice"], rows)])


def _link(fold: Fold) -> Value | Html:
    page = fold.folder / NAME
    if not page.is_file():
        return str(fold.number)
    return element("a", str(fold.number), href=f"{fold.folder.name}/{NAME}")


def _mean(results: Sequence[CaseResult]) -> float | None:
    values = [value for result in results if (value := result.mean_dice) is not None]
    return sum(values) / len(values) if values else None
