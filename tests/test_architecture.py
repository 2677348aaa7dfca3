"""documentation/modules.md and architecture.md against the tree: tables of modules, and floors."""

from __future__ import annotations

import importlib.util
import re
from itertools import permutations
from pathlib import Path

import pytest

from tests.test_house import FLOORS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "documentation" / "architecture.md"
MODULES = ROOT / "documentation" / "modules.md"


def _module_tables():
    file = ROOT / "documentation" / "module_tables.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = _module_tables()


def test_the_tables_are_those_of_the_tree():
    page = MODULES.read_text("utf-8")
    assert page == tables.page_with_tables(page, ROOT / "deepseg"), (
        "run: python documentation/module_tables.py"
    )


def test_every_room_has_a_table():
    tree = {path.stem for path in (ROOT / "deepseg").iterdir() if path.suffix in ("", ".py")}
    rooms = tables.rooms_in_tables(MODULES.read_text("utf-8"))
    assert sorted(rooms) == sorted(tree - {"__init__", "__main__", "__pycache__"})


def test_the_page_and_the_house_test_agree_about_what_is_above_what():
    lines = re.findall(r"^\| (\d+) \| (.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    floors = {room: int(floor) for floor, rooms in lines for room in re.findall(r"`(\w+)`", rooms)}
    assert floors.keys() == FLOORS.keys() - {"__init__", "__main__"}
    for room, reached in permutations(floors, 2):
        assert (floors[room] < floors[reached]) == (FLOORS[room] < FLOORS[reached]), (room, reached)


def test_a_table_lists_folders_after_the_modules_beside_them(tmp_path):
    files = {
        "room/__init__.py": '"""Room."""',
        "room/z.py": '"""Last ``word``.\n\nMore of it."""',
        "room/a/__init__.py": '"""Inner room."""',
        "room/a/b.py": '"""One | two."""',
        "alone.py": '"""Alone."""',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    page = "before\n<!-- modules of alone room -->\nold\n<!-- end of modules -->\nafter\n"
    assert tables.page_with_tables(page, tmp_path) == (
        "before\n<!-- modules of alone room -->\n"
        "| Module | Holds |\n|---|---|\n"
        "| `alone` | Alone. |\n"
        "| **`room/`** | Room. |\n"
        "| `room.z` | Last `word`. |\n"
        "| **`room.a/`** | Inner room. |\n"
        "| `room.a.b` | One \\| two. |\n"
        "<!-- end of modules -->\nafter\n"
    )


def test_a_module_without_a_docstring_is_refused(tmp_path):
    (tmp_path / "silent.py").write_text("x = 1")
    with pytest.raises(SystemExit, match=r"silent\.py has no docstring"):
        tables.first_line(tmp_path / "silent.py")
