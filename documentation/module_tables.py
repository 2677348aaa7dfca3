"""Writes the tables of modules in modules.md from the first line of each module's docstring.

Run ``python documentation/module_tables.py`` after adding, renaming or describing a module. A test
compares the page with the tree. A table stands between two comments, of which the first names its
rooms: ``<!-- modules of model data -->`` and ``<!-- end of modules -->``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("modules.md")
PACKAGE = PAGE.parents[1] / "deepseg"
BLOCK = re.compile(r"<!-- modules of ([\w ]+) -->\n.*?<!-- end of modules -->", re.DOTALL)
HEAD = "| Module | Holds |\n|---|---|\n"


def page_with_tables(page: str, package: Path) -> str:
    """Text of the page, every table written anew from the modules in ``package``."""
    return BLOCK.sub(lambda block: _block(block[1], package), page)


def rooms_in_tables(page: str) -> list[str]:
    """Rooms and modules of the first level that the tables of the page are about."""
    return [room for rooms in BLOCK.findall(page) for room in rooms.split()]


def _block(rooms: str, package: Path) -> str:
    lines = [line for room in rooms.split() for line in _lines(package / room, room)]
    return f"<!-- modules of {rooms} -->\n{HEAD}{''.join(lines)}<!-- end of modules -->"


def _lines(path: Path, name: str) -> Iterator[str]:
    """Lines of a module, or of a folder and below it those of its modules, then of its folders."""
    if not path.is_dir():
        yield f"| `{name}` | {first_line(path.with_suffix('.py'))} |\n"
        return
    yield f"| **`{name}/`** | {first_line(path / '__init__.py')} |\n"
    modules = sorted(file.stem for file in path.glob("*.py") if file.stem != "__init__")
    folders = sorted(file.parent.name for file in path.glob("*/__init__.py"))
    for member in (*modules, *folders):
        yield from _lines(path / member, f"{name}.{member}")


def first_line(file: Path) -> str:
    """First line of a module's docstring, with code marked as markdown marks it."""
    docstring = ast.get_docstring(ast.parse(file.read_text("utf-8")))
    if not docstring:
        raise SystemExit(f"{file} has no docstring: say in its first line what it holds")
    return docstring.splitlines()[0].replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text("utf-8"), PACKAGE), "utf-8")
