"""Tiles in rows and columns on a dark sheet, with words around them and a legend.

The pixels of the tiles are in the file one to one. The content of the tiles is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from deepseg.report.figure import escaped, new_figure, save_figure, shortened
from deepseg.report.overlay import Pixels

Colour: TypeAlias = tuple[int, int, int]
LegendItem: TypeAlias = tuple[str, Colour | None]

BACKGROUND = (16, 16, 18)
INK = "#f0f0f0"
LETTER = 8  # about the width of a letter of 10 points, in pixels

SMALLEST_WIDTH = 480
TOP, LEFT, GAP = 66, 32, 8
LEGEND_ROW, SWATCH = 26, 14


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet.

    Attributes:
        name: Written upwards at its left.
        tiles: ``(height, width, 3)`` each, one a column; None where there is nothing to show.
    """

    name: str
    tiles: tuple[Pixels | None, ...]


@dataclass(frozen=True)
class Cell:
    """A rectangle of a sheet, in pixels from its left upper corner.

    >>> Cell(left=10, top=20, width=100, height=50).middle
    (60, 45)
    """

    left: int
    top: int
    width: int
    height: int

    @property
    def middle(self) -> tuple[int, int]:
        """The centre, to the right and down."""
        return self.left + self.width // 2, self.top + self.height // 2

    def around(self, tile: Pixels) -> tuple[slice, slice]:
        """Rows and columns of the sheet that ``tile`` covers in the middle of this cell."""
        height, width, _ = tile.shape
        top = self.top + (self.height - height) // 2
        left = self.left + (self.width - width) // 2
        return slice(top, top + height), slice(left, left + width)


def cells(rows: Sequence[SheetRow]) -> list[list[Cell]]:
    """A cell for every tile, as large as the largest tile of its row and of its column."""
    shapes = [[(0, 0, 3) if tile is None else tile.shape for tile in row.tiles] for row in rows]
    heights = [max(height for height, _, _ in row) for row in shapes]
    widths = [max(width for _, width, _ in column) for column in zip(*shapes, strict=True)]
    widths = [width if width > 0 else max(widths) for width in widths]
    tops = [TOP + sum(heights[:i]) + GAP * i for i in range(len(heights))]
    lefts = [LEFT + sum(widths[:i]) + GAP * i for i in range(len(widths))]
    return [
        [Cell(left, top, width, height) for left, width in zip(lefts, widths, strict=True)]
        for top, height in zip(tops, heights, strict=True)
    ]


def legend_cells(names: Sequence[str], top: int, width: int) -> list[Cell]:
    """A cell for every item of a legend, in as many columns as fit into ``width``.

    >>> [(cell.left, cell.top) for cell in legend_cells(["oedema", "core", "cyst"], 100, 232)]
    [(32, 100), (122, 100), (32, 126)]
    """
    if not names:
        return []
    room = width - LEFT
    item = min(room, SWATCH + 28 + LETTER * max(len(name) for name in names))
    columns = room // item
    return [
        Cell(LEFT + i % columns * item, top + i // columns * LEGEND_ROW, item, LEGEND_ROW)
        for i in range(len(names))
    ]


def write_sheet(
    file: Path,
    title: str,
    columns: Sequence[str],
    rows: Sequence[SheetRow],
    legend: Sequence[LegendItem],
    *,
    sides: Sequence[tuple[str, str]] = (),
) -> None:
    """Write ``rows`` below the names of the ``columns`` as a PNG file.

    Args:
        file: The PNG file.
        title: First line.
        columns: A name for each column.
        rows: From top to bottom, at least one.
        legend: Names and their colours; a colour of None leaves words alone.
        sides: Letters at the left and right edge of the tiles of each column.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    grid = cells(rows)
    last = grid[-1][-1]
    width = max(SMALLEST_WIDTH, last.left + last.width + GAP)
    bottom = last.top + last.height + GAP
    items = legend_cells([name for name, _ in legend], bottom, width)
    page = _Page(width, items[-1].top + LEGEND_ROW + GAP if items else bottom)
    page.words(LEFT, 20, title, room=width - LEFT - GAP, size=12)
    for name, cell in zip(columns, grid[0], strict=True):
        page.words(cell.middle[0], TOP - 13, name, room=cell.width, centred=True)
    for row, row_of_cells in zip(rows, grid, strict=True):
        page.row(row, row_of_cells)
        for (left, right), cell in zip(sides, row_of_cells, strict=False):
            page.letter(left, cell.left + LETTER, cell.middle[1])
            page.letter(right, cell.left + cell.width - LETTER, cell.middle[1])
    for (name, colour), cell in zip(legend, items, strict=True):
        page.legend_item(name, colour, cell)
    page.write(file)


class _Page:
    """A sheet that is being filled."""

    def __init__(self, width: int, height: int) -> None:
        self._figure = new_figure(width, height, background="black")
        self._pixels = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)

    def row(self, row: SheetRow, row_of_cells: Sequence[Cell]) -> None:
        """Tiles, and the name of the row at their left."""
        first = row_of_cells[0]
        self.words(
            LEFT // 2, first.middle[1], row.name, room=first.height, centred=True, upwards=True
        )
        for tile, cell in zip(row.tiles, row_of_cells, strict=True):
            if tile is None:
                self.words(*cell.middle, "none", room=cell.width, centred=True)
            else:
                self._pixels[cell.around(tile)] = tile

    def letter(self, letter: str, x: int, y: int) -> None:
        """A letter around a point."""
        self.words(x, y, letter, room=2 * LETTER, centred=True)

    def legend_item(self, name: str, colour: Colour | None, cell: Cell) -> None:
        """A square of ``colour`` and its name."""
        middle, indent = cell.middle[1], 0
        if colour is not None:
            top, indent = middle - SWATCH // 2, SWATCH + 8
            self._pixels[top : top + SWATCH, cell.left : cell.left + SWATCH] = colour
        self.words(cell.left + indent, middle, name, room=cell.width - indent)

    def words(
        self,
        x: int,
        y: int,
        text: str,
        *,
        room: int,
        size: int = 10,
        centred: bool = False,
        upwards: bool = False,
    ) -> None:
        """``text`` from or around a point, shortened to ``room`` pixels."""
        height, width, _ = self._pixels.shape
        self._figure.text(
            x / width,
            1 - y / height,
            escaped(shortened(text, room * 10 // (LETTER * size))),
            fontsize=size,
            color=INK,
            ha="center" if centred else "left",
            va="center",
            rotation=90 if upwards else 0,
        )

    def write(self, file: Path) -> None:
        """Write the whole sheet as a PNG file."""
        self._figure.figimage(self._pixels, origin="upper")
        save_figure(self._figure, file)
