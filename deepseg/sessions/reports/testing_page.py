"""The page of a testing session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseg.config.testing import TestConfig
from deepseg.counts import counted
from deepseg.inference.metrics import Scores, summary
from deepseg.model.checkpoint import Checkpoint
from deepseg.report.page.document import Section
from deepseg.report.page.markup import Html, element, joined, table
from deepseg.sessions.outcome import command_line
from deepseg.sessions.reports.case_sections import case_sections, custom_metrics, heading
from deepseg.sessions.reports.model_sections import settings_section, weights_section
from deepseg.sessions.reports.session_page import write_session_page
from deepseg.sessions.segmentation.case_result import CaseResult
from deepseg.sessions.segmentation.stored_views import StoredViews


def write_testing_page(
    folder: Path,
    config: TestConfig,
    models: Sequence[Checkpoint],
    records: Mapping[str, Mapping[str, Any]],
) -> tuple[Path, ...]:
    """Write ``report.html`` of the cases that are done.

    Args:
        folder: Of the session.
        config: Its settings.
        models: That predict.
        records: Of the cases by name, as they lie in the session's folder.

    Returns:
        The new places of files of this name that others wrote.
    """
    results = [case_result(name, record) for name, record in records.items()]
    views = StoredViews(folder)
    sections = [
        *mean_sections(results),
        *case_sections(
            results,
            lambda name: views.view(name, str(records[name].get("key"))),
            models[0].config.classes,
        ),
        weights_section(models),
        settings_section(config, command_line()),
    ]
    return write_session_page(
        folder, f"Test {config.name}", f"{counted(len(results), 'case')} segmented", sections
    )


def case_result(name: str, record: Mapping[str, Any]) -> CaseResult:
    """The record of a case as it is shown."""
    scores = record["scores"]
    return CaseResult(
        name,
        record["volumes_ml"],
        None if scores is None else {row: Scores(**values) for row, values in scores.items()},
    )


def mean_sections(results: Sequence[CaseResult]) -> list[Section]:
    """Statistics over the cases, by class; nothing where no truth is known."""
    scored = {case.name: case.scores for case in results if case.scores is not None}
    if not scored:
        return []
    measures = (
        *("dice", "precision", "sensitivity", "hausdorff95_mm", "surface_distance_mm"),
        *custom_metrics(results),
    )
    rows: list[list[str | float | Html | None]] = [
        [name, *_cells(by_measure, measures), by_measure["dice"]["defined"]]
        for name, by_measure in summary(scored).items()
    ]
    columns = ["class"]
    for measure in measures:
        columns += [heading(measure), "± s.d."]
    note = element(
        "p",
        "Means and standard deviations (of the sample, n - 1) over "
        f"{counted(len(scored), 'case')} with a truth. A case in which a measure is undefined "
        "is left out of its mean.",
        class_="note",
    )
    return [Section("Mean scores", joined([note, table([*columns, "cases"], rows)]))]


def _cells(
    by_measure: Mapping[str, Mapping[str, float | int | None]], measures: Sequence[str]
) -> list[float | int | None]:
    return [
        by_measure[measure][statistic]
        for measure in measures
        for statistic in ("mean", "standard_deviation")
    ]
