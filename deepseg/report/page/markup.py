"""Pieces of HTML as text. What they hold is escaped here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

Value: TypeAlias = str | float | None


@dataclass(frozen=True)
class Html:
    """Text that is HTML already.

    >>> element("p", "a < b", element("b", "bold")).text
    '<p>a &lt; b<b>bold</b></p>'
    """

    text: str


def element(tag: str, *content: str | Html, **attributes: str) -> Html:
    """An element with its content; plain text is escaped.

    Args:
        tag: Name of the element.
        content: What stands between its tags, in order.
        attributes: Their names may end with an underscore and have others for hyphens.

    >>> element("td", "3.5", class_="number", data_value="3.5").text
    '<td class="number" data-value="3.5">3.5</td>'
    """
    opened = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{opened}>{joined(content).text}</{tag}>")


def joined(pieces: Iterable[str | Html]) -> Html:
    """Pieces one after the other.

    >>> joined(["1 < ", element("i", "2")]).text
    '1 &lt; <i>2</i>'
    """
    return Html(
        "".join(piece.text if isinstance(piece, Html) else escape(piece) for piece in pieces)
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Value | Html]]) -> Html:
    """A table whose rows are sorted by a click on the name of a column.

    Args:
        columns: Their names.
        rows: A cell per column; None is shown as a dash.
    """
    head = joined(element("th", name, scope="col") for name in columns)
    body = joined(element("tr", joined(map(_cell, row))) for row in rows)
    whole = element("table", element("thead", element("tr", head)), element("tbody", body))
    return element("div", whole, class_="table")


def pairs(values: Mapping[str, Value | Html]) -> Html:
    """Names and their values, one pair a line."""
    return element(
        "dl",
        joined(
            joined(
                [
                    element("dt", name),
                    element("dd", value if isinstance(value, Html) else shown(value)),
                ]
            )
            for name, value in values.items()
        ),
    )


def data_block(values: Any, **attributes: str) -> Html:
    """Plain data that scripts of the page read.

    >>> data_block({"name": "</script>"}, class_="case").text
    '<script type="application/json" class="case">{"name":"<\\\\/script>"}</script>'
    """
    text = json.dumps(values, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")
    return element("script", Html(text), type="application/json", **attributes)


def shown(value: Value) -> str:
    """A value for people.

    >>> shown(0.81449), shown(12), shown(None), shown("T1")
    ('0.814', '12', '–', 'T1')
    >>> shown(1234.5678), shown(12.5)
    ('1234.6', '12.50')
    """
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str | bool | int):
        return str(value)
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}"


def _cell(value: Value | Html) -> Html:
    if isinstance(value, Html):
        return element("td", value)
    if value is None:
        return element("td", shown(value), class_="number", data_value="")
    if isinstance(value, str):
        return element("td", value)
    return element("td", shown(value), class_="number", data_value=repr(float(value)))
