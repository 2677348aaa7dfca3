"""The part of a report that shows cases: a table with the worst first, and slices of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from deepseg.inference.metrics import FOREGROUND, Scores, measure_names
from deepseg.report.overlay import colour
from deepseg.report.page.document import Section
from deepseg.report.page.markup import Html, Value, data_block, element, joined, shown, table
from deepseg.sessions.segmentation.case_result import CaseResult

MOST_CLASS_COLUMNS = 6
BYTES_OF_ALL_SLICES = 18_000_000
HEADINGS = {
    "dice": "Dice",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "hausdorff95_mm": "HD95 mm",
    "surface_distance_mm": "ASSD mm",
    "predicted_ml": "predicted ml",
    "true_ml": "true ml",
    "lesions_found": "found",
    "lesions_missed": "missed",
    "lesions_false": "false",
}
NO_SLICES = (
    "No slices here: this page holds those of the worst cases only, or Pillow is not installed. "
    "The result itself lies in the folder predictions."
)


def worst_first(results: Sequence[CaseResult]) -> list[CaseResult]:
    """Cases by their mean Dice; those without one come last, in their order.

    >>> cases = [CaseResult("a", {}), CaseResult("b", {})]
    >>> [case.name for case in worst_first(cases)]
    ['a', 'b']
    """
    return sorted(results, key=lambda case: 2.0 if case.mean_dice is None else case.mean_dice)


def case_sections(
    results: Sequence[CaseResult],
    view_of: Callable[[str], dict[str, Any] | None],
    classes: Sequence[str],
) -> list[Section]:
    """The table of the cases, and their slices.

    Args:
        results: Of all cases.
        view_of: Gives the slices of a case by its name, or None.
        classes: Names of all labels, the background first.
    """
    ordered = worst_first(results)
    is_scored = any(case.scores is not None for case in ordered)
    title = "Cases, worst first" if is_scored else "Cases"
    columns, row = _columns(classes, custom_metrics(ordered), is_scored=is_scored)
    listed = Section(title, table(columns, [row(case) for case in ordered]))
    return [listed, Section("Slices", _slices(ordered, view_of, classes))]


def case_anchor(name: str) -> str:
    """By which links find the slices of a case."""
    return f"case-{name}"


def custom_metrics(results: Iterable[CaseResult]) -> list[str]:
    """Names of the registered metrics that were measured."""
    rows = [row for case in results if case.scores is not None for row in case.scores.values()]
    return [name for name in measure_names(rows) if name not in HEADINGS]


def _columns(
    classes: Sequence[str], metrics: Sequence[str], *, is_scored: bool
) -> tuple[list[str], Callable[[CaseResult], list[Value | Html]]]:
    """Names of the columns, and the cells of a case."""
    foreground = list(classes[1:])
    if not is_scored:
        return ["case", *(f"{name} ml" for name in foreground)], lambda case: [
            _link(case.name),
            *(case.volumes_ml.get(name) for name in foreground),
        ]
    several = foreground if 1 < len(foreground) <= MOST_CLASS_COLUMNS else []
    measures = [name for name in HEADINGS if name not in ("dice", "specificity")] + [*metrics]

    def cells(case: CaseResult) -> list[Value | Html]:
        scores = case.scores or {}
        whole = scores.get(FOREGROUND)
        return [
            _link(case.name),
            case.mean_dice,
            *(_measure(scores.get(name), "dice") for name in several),
            *(_measure(whole, name) for name in measures),
        ]

    dice = "Dice" if len(foreground) == 1 else "mean Dice"
    headings = map(heading, measures)
    return ["case", dice, *(f"Dice {name}" for name in several), *headings], cells


def _measure(scores: Scores | None, name: str) -> float | None:
    return None if scores is None else scores.values.get(name)


def heading(measure: str) -> str:
    """The heading of a column: that of a registered metric is its name."""
    return HEADINGS.get(measure, measure)


def _link(name: str) -> Html:
    return element("a", name, href=f"#{quote(case_anchor(name))}")


def _slices(
    ordered: Sequence[CaseResult],
    view_of: Callable[[str], dict[str, Any] | None],
    classes: Sequence[str],
) -> Html:
    """A part for each case that opens by a click; slices as long as there is room for them."""
    parts: list[Html] = []
    room = BYTES_OF_ALL_SLICES
    for case in ordered:
        view = view_of(case.name) if room > 0 else None
        block = None if view is None else data_block(view, class_="case")
        room -= 0 if block is None else len(block.text)
        parts.append(_case(case, block if room > 0 else None, classes, is_open=not parts))
    note = (
        "The right of the patient is at the left of axial and coronal slices. Scroll with the "
        "wheel, the arrow keys or the slider; most of the slices lie where the foreground is. "
        "Uncertainty is a layer where the settings save it."
    )
    return joined([element("p", note, class_="note"), *parts])


def _case(case: CaseResult, block: Html | None, classes: Sequence[str], *, is_open: bool) -> Html:
    dice = "" if case.scores is None else f"Dice {shown(case.mean_dice)}"
    summary = element("summary", case.name, element("span", dice))
    slices = (
        element("p", NO_SLICES, class_="note")
        if block is None
        else joined(
            [element("div", element("noscript", "Slices need JavaScript."), class_="viewer"), block]
        )
    )
    content = element("div", slices, _class_table(case))
    return element(
        "details",
        summary,
        content,
        class_="case",
        id=case_anchor(case.name),
        data_classes=json.dumps(
            [(name, colour(label)) for label, name in enumerate(classes) if label > 0]
        ),
        **({"open": ""} if is_open else {}),
    )


def _class_table(case: CaseResult) -> Html:
    """All measures of a case by class."""
    if case.scores is None:
        return table(["class", "ml"], [[name, ml] for name, ml in case.volumes_ml.items()])
    measures = measure_names(case.scores.values())
    rows = [
        [name, *(scores.values.get(measure) for measure in measures)]
        for name, scores in case.scores.items()
    ]
    return table(["class", *map(heading, measures)], rows)
