"""The curves of a training: ``progress.png`` from the records of ``metrics.jsonl``.

`panels` decides as data which curves there are, the functions below it how they look. A record is a
plain mapping, one an epoch; who measured it is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepseg.report.figure import GRID, INK, PALETTE, escaped, new_figure, save_figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FOREGROUND = "foreground"  # the row of all classes but the background

Record = Mapping[str, Any]
Points = tuple[tuple[int, float | None], ...]

WIDTH = 1100
PANEL_HEIGHT = 260
FEW_EPOCHS = 40
LEGEND_ROWS = 9
MOST_LABELS = 16
LETTERS = 24
BEST = "#999999"
DASHES = (0, (4, 2))


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Attributes:
        label: Its name in the legend; a curve of training and one of validation may share it.
        points: Pairs of epoch, counted from 1, and value; None is a gap in the line.
        colour: The same class has the same colour in all panels.
        is_training: Measured on the samples that the network learns from: thin and dashed.
    """

    label: str
    points: Points
    colour: str
    is_training: bool = False


@dataclass(frozen=True)
class Panel:
    """One diagram: values upwards, epochs to the right."""

    title: str
    curves: tuple[Curve, ...]
    scale: Literal["linear", "zero to one", "logarithmic"] = "linear"


def write_curves(records: Sequence[Record], file: Path) -> None:
    """Draw all `panels` of ``records`` into one PNG file; no file while there is nothing to draw.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    figure = curves_figure(records)
    if figure is not None:
        save_figure(figure, file)


def curves_figure(records: Sequence[Record]) -> Figure | None:
    """All `panels` of ``records``, drawn one below the other; None if there are none.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    drawn = panels(records)
    if not drawn:
        return None
    figure = new_figure(WIDTH, PANEL_HEIGHT * len(drawn), background="white")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
    column: list[Axes] = list(figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0])
    for axes, panel in zip(column, drawn, strict=True):
        _draw(axes, panel)
    _draw_epochs(column[-1], records)
    _mark_best(column, best_epoch(records))
    return figure


def panels(records: Sequence[Record]) -> tuple[Panel, ...]:
    """The panels to draw. A panel without a single value is left out, and so is such a curve.

    >>> records = [{"epoch": n, "training": {"loss": 1 - n / 4}} for n in range(3)]
    >>> [panel.title for panel in panels(records)]
    ['Loss']
    >>> panels(records)[0].curves[0].points
    ((1, 1.0), (2, 0.75), (3, 0.5))
    """
    epochs = _records_by_epoch(records)
    colours = _class_colours(epochs)
    losses = (
        Curve("training", _points(epochs, "training", "loss"), INK, is_training=True),
        Curve("validation", _points(epochs, "validation_samples", "loss"), INK),
    )
    training = _dice_curves(epochs, "training", colours, is_training=True)
    samples = _dice_curves(epochs, "validation_samples", colours)
    volumes = _dice_curves(epochs, "validation_volumes", colours)
    rates = (
        Curve("learning rate", _positive(_points(epochs, "learning_rate")), INK),
        *_rate_curves(epochs),
    )
    drawn = (
        Panel("Loss", _with_values(losses)),
        Panel("Dice on samples", _with_values((*training, *samples)), "zero to one"),
        Panel("Dice on whole volumes", _with_values(volumes), "zero to one"),
        Panel("Learning rate", _with_values(rates), "logarithmic"),
    )
    return tuple(panel for panel in drawn if panel.curves)


def best_epoch(records: Sequence[Record]) -> int | None:
    """The epoch, counted from 1, that was the best when it was measured; the last of these.

    >>> best_epoch([{"epoch": 0, "best": True}, {"epoch": 1, "best": True}, {"epoch": 2}])
    2
    """
    best = [r["epoch"] + 1 for r in _records_by_epoch(records) if r.get("best")]
    return best[-1] if best else None


def _records_by_epoch(records: Sequence[Record]) -> list[Record]:
    """In the order of epochs; one that was run again after a crash counts as it was run last."""
    by_epoch = {record["epoch"]: record for record in records}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _class_colours(epochs: Sequence[Record]) -> dict[str, str]:
    """A colour for every class that has a Dice anywhere; they repeat after the last."""
    sections = ("training", "validation_samples", "validation_volumes")
    names = (name for e in epochs for s in sections for name in _value(e, s, "dice") or ())
    ordered = dict.fromkeys(names)
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(ordered)}


def _dice_curves(
    epochs: Sequence[Record], section: str, colours: Mapping[str, str], *, is_training: bool = False
) -> tuple[Curve, ...]:
    return tuple(
        Curve(name, _points(epochs, section, "dice", name), colour, is_training)
        for name, colour in colours.items()
        if len(colours) != 2 or name != FOREGROUND  # of one class, that would be the same curve
    )


def _rate_curves(epochs: Sequence[Record]) -> tuple[Curve, ...]:
    """The learning rate of each group of weights that has one of its own."""
    labels = dict.fromkeys(label for e in epochs for label in _value(e, "learning_rates") or ())
    groups = [label for label in labels if label != "default"]
    return tuple(
        Curve(label, _positive(_points(epochs, "learning_rates", label)), PALETTE[i % len(PALETTE)])
        for i, label in enumerate(groups)
    )


def _points(epochs: Sequence[Record], *keys: str) -> Points:
    """The value under nested ``keys`` of all epochs in which its section was measured at all.

    So volumes that are measured every tenth epoch give a line; a class without a value gives a gap.
    """
    section = keys[0]
    measured = (e for e in epochs if e.get(section) is not None)
    return tuple((e["epoch"] + 1, _finite(_value(e, *keys))) for e in measured)


def _value(record: Record, *keys: str) -> Any:
    """The value under nested ``keys``, or None where one of them is missing."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _positive(points: Points) -> Points:
    """Zero has no place on a logarithmic axis: a gap."""
    return tuple((epoch, value if value else None) for epoch, value in points)


def _with_values(curves: Iterable[Curve]) -> tuple[Curve, ...]:
    return tuple(c for c in curves if any(value is not None for _, value in c.points))


def _draw(axes: Axes, panel: Panel) -> None:
    lines = [_draw_curve(axes, curve) for curve in panel.curves]
    axes.set_title(panel.title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(BEST)
    axes.tick_params(which="both", colors=INK, labelsize=10)
    if panel.scale == "zero to one":
        axes.set_ylim(-0.02, 1.02)
    elif panel.scale == "logarithmic":
        axes.set_yscale("log")
    _draw_legend(axes, panel, lines)


def _draw_curve(axes: Axes, curve: Curve) -> Line2D:
    epochs = [epoch for epoch, _ in curve.points]
    values = [math.nan if value is None else value for _, value in curve.points]
    (line,) = axes.plot(
        epochs,
        values,
        color=curve.colour,
        linewidth=1.1 if curve.is_training else 1.9,
        linestyle=DASHES if curve.is_training else "solid",
        marker="o",
        markersize=2.5 if curve.is_training else 4,
        markevery=_dots(values),
    )
    return line


def _dots(values: Sequence[float]) -> list[int]:
    """Indices of the points with a dot: all of a short curve, else those that no line shows."""
    if len(values) <= FEW_EPOCHS:
        return list(range(len(values)))
    is_value = [False, *(not math.isnan(value) for value in values), False]
    return [i for i in range(len(values)) if is_value[i : i + 3] == [False, True, False]]


def _draw_legend(axes: Axes, panel: Panel, lines: Sequence[Line2D]) -> None:
    """Right of the data: each label once, and the meaning of dashes where labels do not tell it."""
    labels = {curve.label: line for curve, line in zip(panel.curves, lines, strict=True)}
    if list(labels) == [panel.title.lower()]:
        return
    shown = dict(list(labels.items())[:MOST_LABELS])
    if len(labels) > MOST_LABELS:
        (shown[f"and {len(labels) - MOST_LABELS} more"],) = axes.plot([], [], color="none")
    if any(curve.is_training and curve.label != "training" for curve in panel.curves):
        (shown["dashed: training"],) = axes.plot(
            [], [], color=BEST, linestyle=DASHES, linewidth=1.1
        )
    axes.legend(
        list(shown.values()),
        [escaped(shortened(label, LETTERS)) for label in shown],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        ncols=math.ceil(len(shown) / LEGEND_ROWS),
    )


def _draw_epochs(axes: Axes, records: Sequence[Record]) -> None:
    """The axis that all panels share: whole epochs, with a little room after the last."""
    epochs = [record["epoch"] + 1 for record in records]
    room = max(0.5, 0.01 * (max(epochs) - min(epochs)))
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + room)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_xlabel("epoch", color=INK)


def _mark_best(column: Sequence[Axes], epoch: int | None) -> None:
    """A dotted line through all panels at the best epoch, named above the first."""
    if epoch is None:
        return
    for axes in column:
        axes.axvline(epoch, color=BEST, linewidth=1.2, linestyle="dotted", zorder=0.5)
    column[0].set_title(f"dotted: best epoch ({epoch})", loc="right", fontsize=10, color=INK)
