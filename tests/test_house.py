"""The house rules of documentation/architecture.md: who may import whom, judged from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deepseg"

FLOORS = {
    "errors": 0, "version": 0, "randomness": 0, "parent_process": 0,
    "geometry": 1,
    "config": 2,
    "storage": 3,
    "model": 4, "data": 4,
    "inference": 5, "transfer": 5,
    "training": 6, "report": 6,
    "sessions": 7,
    "commands": 8,
    "cli": 9,
}  # fmt: skip
DOOR = "deepseg/__init__.py"  # what `import deepseg` gives: it names rooms of every floor, lazily
OPTIONAL = {
    "matplotlib",
    "PIL",  # comes with matplotlib
    "tensorboardX",
    "nilearn",
    "safetensors",
}
LAZY = {("deepseg/cli/main.py", "deepseg.cli")}


@dataclass(frozen=True)
class Import:
    """One import statement.

    Attributes:
        file: Relative to the root of the checkout.
        module: What is imported from.
        level: Dots of a relative import.
        names: What is imported, for ``from``.
        is_inside: Whether it stands in a function.
        is_typing: Whether it stands under ``if TYPE_CHECKING``.
    """

    file: str
    line: int
    module: str
    level: int
    names: tuple[str, ...]
    is_inside: bool
    is_typing: bool

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line} {'.' * self.level}{self.module}"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(dotted: str) -> str:
    """The room on a floor to which a module belongs: ``deepseg.data.segments`` is in ``data``."""
    return dotted.split(".")[1]


def room_of_file(file: str) -> str:
    return Path(file).parts[1].removesuffix(".py")


def imports_in(source: str, file: str) -> Iterator[Import]:
    yield from _walk(ast.parse(source), file, is_inside=False, is_typing=False)


def _walk(node: ast.AST, file: str, *, is_inside: bool, is_typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = is_inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = is_typing or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, 0, (), inside, typing)
        elif isinstance(child, ast.ImportFrom):
            names = tuple(alias.name for alias in child.names)
            module = "" if child.module is None else child.module
            yield Import(file, child.lineno, module, child.level, names, inside, typing)
        else:
            yield from _walk(child, file, is_inside=inside, is_typing=typing)


def all_imports() -> list[Import]:
    return [
        found
        for path in files()
        for found in imports_in(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    ]


def imported_rooms(found: Import) -> set[str]:
    """Rooms of this package that an import reaches; ``from deepseg import data`` reaches data."""
    if found.module == "deepseg":
        return set(found.names)
    return {room(found.module)} if found.module.startswith("deepseg.") else set()


def climbs(found: Import) -> bool:
    """Whether an import goes up, or sideways into another room of the same floor."""
    own = room_of_file(found.file)
    return any(
        other != own and FLOORS[other] >= FLOORS[own] and FLOORS[own] > 0
        for other in imported_rooms(found)
    )


def test_every_room_has_a_floor():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" and p.stem != "__init__"}
    rooms |= {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert rooms - FLOORS.keys() == set()


def test_imports_go_down():
    inside = [one for one in all_imports() if one.file != DOOR]
    assert [one.place for one in inside if climbs(one)] == []


def test_the_ground_floor_imports_only_itself():
    ground = [
        one for one in all_imports() if one.file != DOOR and not FLOORS[room_of_file(one.file)]
    ]
    assert [one.place for one in ground if any(FLOORS[r] for r in imported_rooms(one))] == []


def test_the_door_imports_only_the_ground_floor_until_it_is_asked_for_more():
    at_once = [one for one in all_imports() if one.file == DOOR and not one.is_typing]
    assert [one.place for one in at_once if any(FLOORS[r] for r in imported_rooms(one))] == []


@pytest.mark.parametrize(
    ("source", "file", "expected"),
    [
        pytest.param(
            "from deepseg.commands.train import train", "deepseg/report/curves.py", True, id="up"
        ),
        pytest.param(
            "import deepseg.model.layout", "deepseg/data/preparation.py", True, id="sideways"
        ),
        pytest.param("from deepseg import data", "deepseg/model/layers.py", True, id="whole room"),
        pytest.param("import deepseg.errors", "deepseg/model/layers.py", False, id="down"),
        pytest.param(
            "from deepseg.data.cases.case import Case", "deepseg/data/intensity.py", False, id="in"
        ),
        pytest.param("import torch", "deepseg/data/intensity.py", False, id="another package"),
        pytest.param("def f():\n from deepseg import cli", "deepseg/data/a.py", True, id="hidden"),
    ],
)
def test_these_rules_tell_up_and_sideways_from_down(source, file, expected):
    assert [climbs(found) for found in imports_in(source, file)] == [expected]


def test_all_imports_are_absolute():
    assert [one.place for one in all_imports() if one.level > 0] == []


def test_imports_in_functions_are_of_optional_packages_or_the_one_lazy_one():
    hidden = [one for one in all_imports() if one.is_inside]
    wrong = [
        one.place
        for one in hidden
        if one.module.split(".")[0] not in OPTIONAL and (one.file, one.module) not in LAZY
    ]
    assert wrong == []
    assert {(one.file, one.module) for one in hidden} >= LAZY


def test_optional_packages_are_imported_in_functions_only():
    optional = [one for one in all_imports() if one.module.split(".")[0] in OPTIONAL]
    assert optional != []
    assert [one.place for one in optional if not one.is_inside and not one.is_typing] == []


def test_only_the_door_imports_by_text():
    texts = {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in files()}
    found = [f for f, text in texts.items() if "import_module" in text or "__import__" in text]
    assert found == [DOOR]


def loaded_by(*modules: str) -> set[str]:
    """Every module that is loaded after importing ``modules`` in a process of their own."""
    lines = [*(f"import {module}" for module in modules), "import sys", "print(*sys.modules)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def modules_in(floors: range) -> list[str]:
    dotted = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in files()]
    names = [name.removesuffix(".__init__") for name in dotted if name != "deepseg.__init__"]
    return [name for name in names if FLOORS[room(name)] in floors]


def test_floors_0_to_2_work_without_torch_and_without_anything_above():
    loaded = loaded_by(*modules_in(range(3)))
    own = {name for name in loaded if name.startswith("deepseg.")}
    assert "deepseg.config.training" in own
    assert "torch" not in loaded
    assert {name for name in own if FLOORS[room(name)] > 2} == set()


@pytest.mark.parametrize("module", ["deepseg", "deepseg.cli.main"])
def test_the_first_words_do_not_wait_for_torch(module):
    assert "torch" not in loaded_by(module)
