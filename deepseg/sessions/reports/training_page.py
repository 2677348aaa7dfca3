"""The page of a training session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import Case
from deepseg.data.cases.summary import CaseSummary
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import layout
from deepseg.report.curves import best_epoch, curves_figure
from deepseg.report.figure import svg
from deepseg.report.page.document import Section
from deepseg.report.page.markup import Html, Value, element, pairs, table
from deepseg.report.progress import duration
from deepseg.sessions.checked_cases import CheckedCases, TrainingCases
from deepseg.sessions.outcome import command_line
from deepseg.sessions.reports.case_sections import case_sections
from deepseg.sessions.reports.model_sections import settings_section, weights_section
from deepseg.sessions.reports.session_page import write_session_page
from deepseg.sessions.segmentation.stored_views import StoredViews
from deepseg.training.freezing import frozen_layers


def write_training_page(
    folder: Path,
    config: TrainConfig,
    model: Checkpoint,
    cases: TrainingCases,
    records: Sequence[Mapping[str, Any]],
) -> tuple[Path, ...]:
    """Write ``report.html`` of a session that has come to its end.

    Args:
        folder: Of the session.
        config: Its settings.
        model: As it is after the last epoch.
        cases: Of the session.
        records: Lines of ``metrics.jsonl``.

    Returns:
        The new places of files of this name that others wrote.
    """
    sections = [
        Section("Result", pairs(_result(records))),
        Section("Curves", _curves(records)),
        *_validation(folder, cases.held_out, model.config.classes),
        Section("Data", _data(cases, model.config.channels)),
        Section("Frozen layers", _frozen(config, model)),
        weights_section([model], frozen_layers(layout(model.config), config.freeze, epoch=0)),
        settings_section(config, command_line()),
    ]
    return write_session_page(folder, f"Training {config.name}", "", sections)


def _result(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    epochs = [record for record in records if record["epoch"] >= 0]
    seconds, waited = (sum(record[key] for record in epochs) for key in ("seconds", "waited"))
    best = best_epoch(records)
    return {
        "epochs": str(len(epochs)),
        "best epoch": "none" if best is None else str(best),
        "time": f"{duration(seconds)}, of which {duration(waited)} waiting for segments",
    }


def _curves(records: Sequence[Mapping[str, Any]]) -> Html:
    try:
        figure = curves_figure(records)
    except DeepsegError as error:
        return element("p", str(error), class_="note")
    if figure is None:
        return element("p", "Nothing was measured.", class_="note")
    return element("div", Html(svg(figure)), class_="figure")


def _validation(
    folder: Path, held_out: CheckedCases | None, classes: Sequence[str]
) -> Sequence[Section]:
    """Scores and slices of the cases that were segmented between epochs, as they were last."""
    if held_out is None:
        return ()
    views = StoredViews(folder)
    results = [result for case in held_out.cases if (result := views.result(case.name))]
    return case_sections(results, lambda name: views.view(name, None), classes) if results else ()


def _data(cases: TrainingCases, channels: Sequence[str]) -> Html:
    columns = ["case", "set", "voxels", "spacing mm", "ROI", *channels, "labels"]
    sets = {"training": cases.training, "validation": cases.held_out}
    rows = [
        _case_row(case, title, summary)
        for title, checked in sets.items()
        if checked is not None
        for case, summary in zip(checked.cases, checked.summaries, strict=True)
    ]
    return table(columns, rows)


def _case_row(case: Case, title: str, summary: CaseSummary) -> list[Value]:
    return [
        case.name,
        title,
        None if summary.shape is None else " x ".join(map(str, summary.shape)),
        None
        if summary.spacing_mm is None
        else " x ".join(f"{mm:.3g}" for mm in summary.spacing_mm),
        "no" if case.roi is None else "yes",
        *(None if file is None else file.name for file in case.channels),
        None if case.labels is None else case.labels.name,
    ]


def _frozen(config: TrainConfig, model: Checkpoint) -> Html:
    """The epochs in which layers kept their weights."""
    rows = [
        [epochs, ", ".join(layers) if layers else "none"]
        for epochs, layers in frozen_by_epochs(config, model)
    ]
    return table(["epochs", "frozen layers"], rows)


def frozen_by_epochs(
    config: TrainConfig, model: Checkpoint
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Epochs, such as ``1 to 3``, and the layers that are frozen in them."""
    plan = layout(model.config)
    by_epoch = (
        (epoch + 1, tuple(frozen_layers(plan, config.freeze, epoch=epoch)))
        for epoch in range(config.epochs)
    )
    for layers, group in groupby(by_epoch, key=lambda pair: pair[1]):
        epochs = [epoch for epoch, _ in group]
        yield (f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else str(epochs[0])), layers
