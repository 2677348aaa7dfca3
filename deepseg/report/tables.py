"""Tables of words and values, for terminals and for files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from deepseg.report.streams import visible

PLAIN_WIDTH = 80
GAP = 2  # characters between two columns

_NUMBER = re.compile(r"[-+]?\d[\d., ]*(e[-+]?\d+)?( x [\d.]+)*( ?[A-Za-z%/]{1,4})?")
_NO_VALUE = ("", "-", "none")
_PLAIN_BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def rich_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    box: Box = SIMPLE_HEAD,
    *,
    width: int = PLAIN_WIDTH,
) -> Table:
    """Rows under headings; columns that hold values only are aligned to the right.

    Headings that are all empty are left out; the first column then holds labels, which are not
    wrapped. No word is broken: where the words of a row need more
    than ``width`` characters, the table is wider.
    """
    texts = [[visible(row[index]) for row in (columns, *rows)] for index in range(len(columns))]
    widths = _widths(texts, width, keeps_first=not any(columns))
    table = Table(
        box=box,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        show_header=any(columns),
        width=sum(widths) + GAP * (len(columns) - 1),
    )
    for index, heading in enumerate(columns):
        right = _are_values([row[index] for row in rows])
        table.add_column(
            Text(visible(heading)),
            justify="right" if right else "left",
            overflow="fold",
            width=widths[index],
        )
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headings as lines without colours, 80 characters wide unless words need more.

    >>> print(plain_table(["class", "Dice"], [["oedema", "0.75"], ["core", "0.5"]]))
    class   Dice
    ------------
    oedema  0.75
    core     0.5
    """
    table = rich_table(columns, rows, _PLAIN_BOX)
    page = StringIO()
    RichConsole(
        file=page,
        width=table.width or PLAIN_WIDTH,
        force_terminal=False,
        force_jupyter=False,
        color_system=None,
    ).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip().split("\n"))


def _widths(
    columns: Sequence[Sequence[str]], width: int, *, keeps_first: bool = False
) -> list[int]:
    """Characters for each column: its longest word, and what else it needs while there is room.

    With ``keeps_first``, the first column has all that it needs.

    >>> _widths([["a"], ["bb cc dd"]], 8), _widths([["a"], ["bb cc dd"]], 80)
    ([1, 5], [1, 8])
    """
    least = [max(map(_longest_word, texts), default=0) for texts in columns]
    most = [max(map(cell_len, texts), default=0) for texts in columns]
    if keeps_first:
        least[:1] = most[:1]
    spare = max(0, width - GAP * (len(columns) - 1) - sum(least))
    widths = least.copy()
    by_need = sorted(range(len(columns)), key=lambda index: most[index] - least[index])
    for place, index in enumerate(by_need):
        share = min(most[index] - least[index], spare // (len(columns) - place))
        widths[index] += share
        spare -= share
    return widths


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _are_values(cells: Sequence[str]) -> bool:
    values = [cell for cell in cells if cell not in _NO_VALUE]
    return bool(values) and all(_NUMBER.fullmatch(cell) for cell in values)
