"""The house rules of documentation/architecture.md: who may import whom, judged from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deepseg"

FLOORS = {
    "errors": 0, "counts": 0, "version": 0, "randomness": 0, "parent_process": 0, "thread_pool": 0,
    "geometry": 1, "builtin": 1,
    "config": 2,
    "storage": 3,
    "model": 4, "data": 4,
    "inference": 5, "transfer": 5,
    "training": 6, "report": 6,
    "sessions": 7, "exports": 7,
    "commands": 8,
    "__init__": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip
DOOR = "deepseg/__init__.py"  # what `import deepseg` gives: it names rooms of every floor, lazily
OPTIONAL = {
    "matplotlib",
    "PIL",  # comes with matplotlib
    "tensorboardX",
    "nilearn",
    "safetensors",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "h5py",
    "highdicom",
    "pydicom",
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


def room(module: str) -> str:
    """The room on a floor to which a module belongs: ``deepseg.data.segments`` is in ``data``."""
    return module.split(".")[1]


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


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(
        statement
        for path in files()
        for statement in imports_in(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    )


def imported_rooms(statement: Import) -> set[str]:
    """Rooms of this package that an import reaches; the door for all that is only seen there.

    ``from deepseg import data`` reaches data; ``import deepseg`` and ``from deepseg import train``
    reach the door.
    """
    if statement.module == "deepseg":
        door = "__init__"
        return {name if name in FLOORS else door for name in statement.names} or {door}
    return {room(statement.module)} if statement.module.startswith("deepseg.") else set()


def climbs(statement: Import) -> bool:
    """Whether an import goes up, or sideways into another room of the same floor."""
    home = room_of_file(statement.file)
    return any(
        target != home and FLOORS[target] >= FLOORS[home] and FLOORS[home] > 0
        for target in imported_rooms(statement)
    )


def dotted(path: Path) -> str:
    """The name by which a module is imported; that of its folder for ``__init__.py``."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def module_arrows() -> dict[str, set[str]]:
    """For each module but the door, the modules of this package that it imports."""
    modules = {dotted(path) for path in files()}
    arrows: dict[str, set[str]] = {name: set() for name in modules if name != "deepseg"}
    for statement in all_imports():
        importer = dotted(ROOT / statement.file)
        if importer == "deepseg":
            continue
        inner = {f"{statement.module}.{name}" for name in statement.names} & modules
        arrows[importer] |= (inner or {statement.module} & modules) - {importer}
    return arrows


def wing(module: str) -> str | None:
    """The folder within a room to which a module belongs: ``data.cases``; None in the room itself.

    Modules of the room itself stand below some of its wings and above others.
    """
    folders = module.split(".")[1:-1]
    return ".".join(folders[:2]) if len(folders) > 1 else None


def wing_arrows(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each wing, the other wings of which a module of it imports one."""
    between: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        home = wing(module)
        if home is not None:
            reached = {target for target in map(wing, targets) if target is not None}
            between[home] = between.get(home, set()) | (reached - {home})
    return between


def circles(arrows: Mapping[str, set[str]]) -> set[str]:
    """Every node from which the arrows lead back to itself."""
    return {start for start in arrows if start in _reached_from(start, arrows)}


def _reached_from(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = [start]
    while ahead:
        for target in arrows.get(ahead.pop(), set()) - reached:
            reached.add(target)
            ahead.append(target)
    return reached


def test_every_room_has_a_floor():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py"}
    rooms |= {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert rooms - FLOORS.keys() == set()


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        pytest.param({"a": {"b"}, "b": {"c"}, "c": set()}, set(), id="a chain"),
        pytest.param({"a": {"b", "c"}, "b": {"c"}, "c": set()}, set(), id="two ways to one end"),
        pytest.param({"a": {"a"}}, {"a"}, id="itself"),
        pytest.param(
            {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, {"b", "c"}, id="a circle at the end"
        ),
    ],
)
def test_circles_are_told_from_chains(arrows, expected):
    assert circles(arrows) == expected


def test_arrows_are_those_of_the_import_statements():
    arrows = module_arrows()
    assert "deepseg.geometry.boxes" in arrows["deepseg.geometry.receptive_field"]
    assert wing_arrows({"deepseg.a.b.c": {"deepseg.a.d.e", "deepseg.a.b.f", "deepseg.a.g"}}) == {
        "a.b": {"a.d"}
    }


def test_no_module_imports_itself_by_way_of_others():
    assert circles(module_arrows()) == set()


def test_no_two_wings_import_each_other():
    assert circles(wing_arrows(module_arrows())) == set()


def test_imports_go_down():
    inside = [statement for statement in all_imports() if statement.file != DOOR]
    assert [statement.place for statement in inside if climbs(statement)] == []


def test_the_ground_floor_imports_only_itself():
    ground = [
        statement
        for statement in all_imports()
        if statement.file != DOOR and not FLOORS[room_of_file(statement.file)]
    ]
    assert [
        statement.place for statement in ground if any(FLOORS[r] for r in imported_rooms(statement))
    ] == []


def test_the_door_imports_only_the_ground_floor_until_it_is_asked_for_more():
    at_once = [
        statement
        for statement in all_imports()
        if statement.file == DOOR and not statement.is_typing
    ]
    assert [
        statement.place
        for statement in at_once
        if any(FLOORS[r] for r in imported_rooms(statement))
    ] == []


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
        pytest.param("import deepseg", "deepseg/sessions/folder.py", True, id="the door"),
        pytest.param(
            "import deepseg as d", "deepseg/commands/train.py", True, id="the door renamed"
        ),
        pytest.param(
            "from deepseg import train", "deepseg/commands/demo.py", True, id="through the door"
        ),
        pytest.param("import deepseg", "deepseg/cli/main.py", False, id="the door from above"),
        pytest.param("import deepseg_pathways", "deepseg/data/a.py", False, id="another name"),
    ],
)
def test_these_rules_tell_up_and_sideways_from_down(source, file, expected):
    assert [climbs(statement) for statement in imports_in(source, file)] == [expected]


def test_all_imports_are_absolute():
    assert [statement.place for statement in all_imports() if statement.level > 0] == []


def test_imports_in_functions_are_of_optional_packages_or_the_one_lazy_one():
    hidden = [statement for statement in all_imports() if statement.is_inside]
    wrong = [
        statement.place
        for statement in hidden
        if statement.module.split(".")[0] not in OPTIONAL
        and (statement.file, statement.module) not in LAZY
    ]
    assert wrong == []
    assert {(statement.file, statement.module) for statement in hidden} >= LAZY


def test_optional_packages_are_imported_in_functions_only():
    optional = [
        statement for statement in all_imports() if statement.module.split(".")[0] in OPTIONAL
    ]
    assert optional != []
    assert [
        statement.place
        for statement in optional
        if not statement.is_inside and not statement.is_typing
    ] == []


def test_only_the_door_imports_by_text():
    texts = {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in files()}
    importers = [f for f, text in texts.items() if "import_module" in text or "__import__" in text]
    # The door, and modules of torch that a model file may name: of packages in a list only.
    assert importers == [DOOR, "deepseg/transfer/sources/modules/module_registry.py"]


def loaded_by(*modules: str) -> set[str]:
    """Every module that is loaded after importing ``modules`` in a process of their own."""
    lines = [*(f"import {module}" for module in modules), "import sys", "print(*sys.modules)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def modules_in(floors: range) -> list[str]:
    names = [dotted(path) for path in files()]
    return [name for name in names if name != "deepseg" and FLOORS[room(name)] in floors]


def test_floors_0_to_2_work_without_torch_and_without_anything_above():
    loaded = loaded_by(*modules_in(range(3)))
    actual = {name for name in loaded if name.startswith("deepseg.")}
    assert "deepseg.config.training" in actual
    assert "torch" not in loaded
    assert {name for name in actual if FLOORS[room(name)] > 2} == set()


@pytest.mark.parametrize("module", ["deepseg", "deepseg.cli.main"])
def test_the_first_words_do_not_wait_for_torch(module):
    assert "torch" not in loaded_by(module)


def test_the_formatter_is_told_to_keep_nothing_as_it_was():
    remaining = [str(p.relative_to(ROOT)) for p in files() if "fmt: skip" in p.read_text("utf-8")]
    assert remaining == []
