"""Tables of words and values, for terminals and for files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from deepseg.report.streams import visible

PLAIN_WIDTH = 80

_NUMBER = re.compile(r"[-+]?\d[\d., ]*(e[-+]?\d+)?( x [\d.]+)*( ?[A-Za-z%/]{1,4})?")
_NO_VALUE = ("", "-", "none")
_PLAIN_BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def rich_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], box: Box = SIMPLE_HEAD
) -> Table:
    """Rows under headings; columns that hold values only are aligned to the right.

    Headings that are all empty are left out.
    """
    table = Table(
        box=box, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1), show_header=any(columns)
    )
    for index, heading in enumerate(columns):
        right = _are_values([row[index] for row in rows])
        table.add_column(
            Text(visible(heading)), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headings as lines without colours, at most 80 characters wide.

    >>> print(plain_table(["class", "Dice"], [["oedema", "0.75"], ["core", "0.5"]]))
    class   Dice
    ------------
    oedema  0.75
    core     0.5
    """
    table = rich_table(columns, rows, _PLAIN_BOX)
    page = StringIO()
    RichConsole(
        file=page, width=PLAIN_WIDTH, force_terminal=False, force_jupyter=False, color_system=None
    ).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip().split("\n"))


def _are_values(cells: Sequence[str]) -> bool:
    values = [cell for cell in cells if cell not in _NO_VALUE]
    return bool(values) and all(_NUMBER.fullmatch(cell) for cell in values)
