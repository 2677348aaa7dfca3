"""Results of the cases of a testing session, as files and as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseg.counts import counted
from deepseg.errors import Problem
from deepseg.inference.metrics import FOREGROUND, Scores, measure_names, summary
from deepseg.report.console import Console
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.storage.atomic import write_json, write_text

INTERNAL = ("key", "stamps")  # entries of a record that mean nothing to users


class ScoreTable:
    """Collects the results of cases.

    Attributes:
        failures: Problems of the cases without a result.
    """

    def __init__(self, failures: Sequence[Problem]) -> None:
        self.failures = list(failures)
        self._cases: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, dict[str, Scores]] = {}

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """Add the record of a case; its scores are None if the truth is not known."""
        self._cases[name] = {key: value for key, value in record.items() if key not in INTERNAL}
        if record["scores"] is not None:
            rows = record["scores"].items()
            self._scores[name] = {row: Scores(**values) for row, values in rows}

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write ``cases.json`` and ``cases.csv``.

        Returns:
            The new places of tables that others have written or changed, and that are set aside.
        """
        names = ["cases.json", "cases.csv"]
        records = CompletedCases(folder, "written")
        set_aside = records.begin("tables", [folder / name for name in names])
        means = summary(self._scores) if self._scores else None
        write_json(folder / "cases.json", {"cases": self._cases, "summary": means})
        measures = measure_names(row for scores in self._scores.values() for row in scores.values())
        rows = [
            [case, row, *(_cell(values.get(measure)) for measure in measures)]
            for case in self._cases
            for row, values in self._values(case).items()
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["case", "class", *measures], *rows])
        write_text(folder / "cases.csv", text.getvalue())
        records.keep("tables", "", {"files": names})
        return set_aside

    def _values(self, case: str) -> Mapping[str, Mapping[str, float | None]]:
        """The measures of a case by class; without a truth, the volume of the prediction only."""
        if case in self._scores:
            return {row: scores.values for row, scores in self._scores[case].items()}
        by_class = self._cases[case]["volumes_ml"]
        volumes = {FOREGROUND: sum(by_class.values()), **by_class}
        return {row: {"predicted_ml": volume} for row, volume in volumes.items()}

    def show(self, console: Console) -> None:
        """Print the mean scores, if there are any."""
        if not self._scores:
            return
        means = summary(self._scores)
        rows = [
            [
                row,
                _number(values["dice"]["mean"], ".3f"),
                _number(values["dice"]["standard_deviation"], ".3f"),
                _number(values["precision"]["mean"], ".3f"),
                _number(values["sensitivity"]["mean"], ".3f"),
                _number(values["hausdorff95_mm"]["mean"], ".1f"),
                _number(values["surface_distance_mm"]["mean"], ".2f"),
                f"{values['dice']['defined']} of {len(self._scores)}",
            ]
            for row, values in means.items()
            if len(means) > 2 or row != FOREGROUND  # with one class, that is the foreground
        ]
        console.table(
            f"mean scores of {counted(len(self._scores), 'case')}",
            ["class", "Dice", "± s.d.", "precision", "sensitivity", "HD95 mm", "ASSD mm", "cases"],
            rows,
        )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
