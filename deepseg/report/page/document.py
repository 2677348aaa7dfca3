"""One HTML file that holds styles, scripts and pictures, and asks no server for anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from deepseg.report.page.markup import Html, element, joined
from deepseg.storage.atomic import write_text

HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
"""


@dataclass(frozen=True)
class Section:
    """A part of a page, to which the list at its top leads.

    Attributes:
        title: Its heading.
        content: Below the heading.
    """

    title: str
    content: Html

    @property
    def anchor(self) -> str:
        """By which links find it.

        >>> Section("Cases, worst first", Html("")).anchor
        'cases-worst-first'
        """
        words = "".join(c if c.isalnum() else " " for c in self.title.lower()).split()
        return "-".join(words)


def write_page(file: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write ``sections`` below a title as one HTML file; an older one is replaced whole.

    Args:
        file: The HTML file.
        title: Heading of the page.
        subtitle: A line below it.
        sections: From top to bottom.
    """
    contents = element(
        "nav",
        joined(element("a", section.title, href=f"#{section.anchor}") for section in sections),
    )
    body = joined(
        [
            element("header", element("h1", title), element("p", subtitle), contents),
            element("main", joined(map(_section, sections))),
            element("script", Html(_resource("page.js"))),
        ]
    )
    head = joined([element("title", title), element("style", Html(_resource("page.css")))])
    write_text(file, f"{HEAD}{head.text}\n</head>\n<body>\n{body.text}\n</body>\n</html>\n")


def _section(section: Section) -> Html:
    return element("section", element("h2", section.title), section.content, id=section.anchor)


def _resource(name: str) -> str:
    return files("deepseg.report.page").joinpath(name).read_text("utf-8")
