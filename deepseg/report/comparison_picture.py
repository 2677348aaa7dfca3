"""The picture of a comparison: for each group the mean of its seeds over a band from worst to best.

Groups differ in colour, in the form of the line and in its marks, so that a grey print tells them
apart too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepseg.report.comparison import SeedGroup, counted_cases
from deepseg.report.figure import (
    GRID,
    INK,
    PALETTE,
    VECTOR_FORMS,
    escaped,
    new_figure,
    save_figure,
    save_vectors,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1100, 520
LETTERS = 30
REACH = "#999999"
STROKES = ("solid", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def write_comparison_picture(
    groups: Sequence[SeedGroup], stem: Path, *, metric: str, reach: float
) -> None:
    """Draw ``groups`` into a PNG, a PDF and an SVG file.

    Args:
        groups: The groups, each drawn in a colour of its own.
        stem: The files without their endings; older ones are replaced.
        metric: Title of the vertical axis, such as ``Dice on samples``.
        reach: The score at which a dotted line stands.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    figure = comparison_figure(groups, metric=metric, reach=reach)
    save_figure(figure, stem.with_name(stem.name + ".png"))
    for form in VECTOR_FORMS:
        save_vectors(figure, stem.with_name(f"{stem.name}.{form}"))


def comparison_figure(groups: Sequence[SeedGroup], *, metric: str, reach: float) -> Figure:
    """The picture of ``groups``; for arguments and errors see `write_comparison_picture`."""
    figure = new_figure(WIDTH, HEIGHT, background="white")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
    axes: Axes = figure.subplots(1, 1)
    for number, group in enumerate(groups):
        _draw_group(axes, group, number)
    axes.axhline(reach, color=REACH, linewidth=1.2, linestyle=(0, (1, 3)), zorder=0.5)
    cases = counted_cases(groups)
    axes.set_title(
        f"line: mean of the seeds, band: lowest to highest; dotted: {reach:.3g}"
        + (f"; {cases}" if cases else ""),
        loc="right",
        fontsize=10,
        color=INK,
    )
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(metric, color=INK)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(REACH)
    axes.tick_params(colors=INK, labelsize=10)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handlelength=4,
    )
    return figure


def _draw_group(axes: Axes, group: SeedGroup, number: int) -> None:
    """The mean and the band over the epochs in which all its sessions were judged."""
    epochs = group.common_epochs
    scores = [[run.scores[epoch] for run in group.runs] for epoch in epochs]
    colour = PALETTE[number % len(PALETTE)]
    if len(group.runs) > 1:
        lowest, highest = [min(values) for values in scores], [max(values) for values in scores]
        axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        epochs,
        [statistics.fmean(values) for values in scores],
        color=colour,
        linewidth=1.9,
        linestyle=STROKES[number % len(STROKES)],
        marker=MARKS[number % len(MARKS)],
        markersize=6,
        markevery=max(1, len(epochs) // 20),
        markerfacecolor="white" if number % 2 else colour,
        label=_label(group),
    )


def _label(group: SeedGroup) -> str:
    name = escaped(shortened(group.name, LETTERS))
    seeds = len(group.runs)
    return f"{name} ({seeds} seed{'' if seeds == 1 else 's'})"
