"""What the site of the documentation takes from outside this folder, and the links between pages.

A hook of mkdocs (``mkdocs.yml``). The README, the pages of the examples and of the measurements
become pages of the site; links that people follow in the repository lead to the same places there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md", "examples/**/README.md", "examples/*/study.md", "examples/*/study.png",
    "benchmarks/results/*.md",
)  # fmt: skip
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```(\w+) \w+$", re.MULTILINE)


def pages_outside(root: Path = ROOT) -> list[str]:
    """Files outside ``documentation/`` that the site shows, by their paths in the repository."""
    found = (file for pattern in OUTSIDE for file in root.glob(pattern))
    return sorted(
        file.relative_to(root).as_posix()
        for file in found
        if not {"runs", "data", "download"} & set(file.relative_to(root).parts)
    )


def place_on_site(path: str) -> str:
    """Where a file of the repository lies among the sources of the site.

    >>> place_on_site("documentation/data.md"), place_on_site("README.md")
    ('data.md', 'index.md')
    >>> place_on_site("examples/transfer/README.md")
    'examples/transfer/README.md'
    """
    return "index.md" if path == "README.md" else path.removeprefix("documentation/")


def place_in_repository(page: str) -> str:
    """The path in the repository of a source of the site: the way back of `place_on_site`.

    >>> place_in_repository("data.md"), place_in_repository("index.md")
    ('documentation/data.md', 'README.md')
    """
    if page == "index.md":
        return "README.md"
    return page if page.startswith(("examples/", "benchmarks/")) else f"documentation/{page}"


def title(page: str, root: Path = ROOT) -> str:
    """The heading of a page, by its place on the site; the place itself if it has none."""
    file = root / place_in_repository(page)
    lines = file.read_text("utf-8").splitlines() if file.suffix == ".md" else []
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), page)


def for_site(markdown: str, page: str, sources: Iterable[str]) -> str:
    """Text of a page with links as the site needs them.

    Args:
        markdown: Text as it stands in the repository, where the text of a link may be a file.
        page: Its place on the site, such as ``data.md``.
        sources: All places on the site. A link to any other file becomes plain text.
    """
    known, folder = set(sources), dirname(place_in_repository(page))

    def link(match: re.Match[str]) -> str:
        picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = place_on_site(normpath(join(folder, target)))
        place = place if place in known else f"{place}/README.md"
        if place not in known:
            return text
        text = title(place) if text.endswith(".md") else text
        return f"{picture}[{text}]({relpath(place, dirname(page) or '.')}{anchor})"

    return LINK.sub(link, FENCE.sub(r"```\1", markdown))


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs with the files of this folder; adds the pages outside of it."""
    from mkdocs.structure.files import File  # mkdocs is there when this is called

    for path in pages_outside():
        files.append(File.generated(config, place_on_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """Called by mkdocs with the text of every page."""
    return for_site(markdown, page.file.src_uri, [file.src_uri for file in files])
