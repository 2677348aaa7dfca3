"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.errors import DeepsegError
from deepseg.report.comparison import SeedGroup
from deepseg.report.comparison_picture import comparison_figure
from deepseg.report.comparison_tables import ComparisonTable
from deepseg.report.figure import svg
from deepseg.report.page.document import Section, write_page
from deepseg.report.page.markup import Html, element, joined, table
from deepseg.version import VERSION


def write_comparison_page(
    file: Path,
    groups: Sequence[SeedGroup],
    tables: Sequence[ComparisonTable],
    remarks: Sequence[str],
    *,
    metric: str,
    reach: float,
) -> None:
    """Write curves and tables of a comparison as one page.

    Args:
        file: The HTML file; an older one is replaced.
        groups: Sessions that differ in their seed only, by group.
        tables: Those with rows are shown.
        remarks: Settings in which groups differ, and doubts about the comparison.
        metric: That gave the scores, for people.
        reach: The score at which a dotted line stands.
    """
    try:
        curves = Html(svg(comparison_figure(groups, metric=metric, reach=reach)))
    except DeepsegError as error:
        curves = element("p", str(error), class_="note")
    shown = [entry for entry in tables if entry.rows]
    sections = [
        Section("Curves", element("div", curves, class_="figure")),
        *(Section(entry.name.capitalize(), _table(entry)) for entry in shown),
        Section("What differs", joined(element("p", remark) for remark in remarks)),
    ]
    names = " and ".join(group.name for group in groups)
    write_page(file, f"Comparison of {names}", f"{metric}, deepseg {VERSION}", sections)


def _table(entry: ComparisonTable) -> Html:
    """Rows in the order of the table; those of single seeds are indented."""
    note = element("p", entry.title, class_="note")
    rows = [[cell.replace("  ", "\N{EM SPACE}") for cell in row] for row in entry.rows]
    return joined([note, table([column or "session" for column in entry.columns], rows)])
