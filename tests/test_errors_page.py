"""documentation/errors.md lists every problem code and exit code of the source, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from deepseg import errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "documentation" / "errors.md"

CARRIERS = {"Problem": 0, "invalid": 0, "DeviceError": 0}  # what takes a code, and where
LINE = re.compile(r"ERROR \[([a-z-]+)\]")  # lines that the command line writes by itself


def codes_in(source: str) -> set[str]:
    """All codes that a module gives to problems, wherever they are written."""
    tree = ast.parse(source)
    carriers = CARRIERS | _own_carriers(tree)
    result = {text for node in ast.walk(tree) for text in _codes_at(node, carriers)}
    return result | {code for text in _texts(tree) for code in LINE.findall(text)}


def _own_carriers(tree: ast.AST) -> dict[str, int]:
    """Functions and classes of a module with a parameter ``code``, and its place in a call."""
    result = {}
    for node in ast.walk(tree):
        functions: list[tuple[str, ast.FunctionDef, int]] = []
        if isinstance(node, ast.FunctionDef):
            functions.append((node.name, node, 0))
        if isinstance(node, ast.ClassDef):
            functions += [
                (node.name, member, 1)  # self is not written in a call
                for member in node.body
                if isinstance(member, ast.FunctionDef) and member.name == "__init__"
            ]
        for name, function, hidden in functions:
            parameters = [argument.arg for argument in function.args.args]
            if "code" in parameters:
                result[name] = parameters.index("code") - hidden
    return result


def _codes_at(node: ast.AST, carriers: dict[str, int]) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        yield from _constants(_code_argument(node, carriers))
    if isinstance(node, ast.Assign) and [ast.unparse(item) for item in node.targets] == ["code"]:
        yield from _constants([node.value])
    if isinstance(node, ast.FunctionDef):
        named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        yield from _constants([d for a, d in named if a.arg == "code" and d is not None])
        behind = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        placed = zip(behind, node.args.defaults, strict=True)
        yield from _constants([d for a, d in placed if a.arg == "code"])


def _code_argument(call: ast.Call, carriers: dict[str, int]) -> list[ast.expr]:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    place = carriers.get(name)
    placed = [] if place is None else call.args[place : place + 1]
    return named + placed


def _constants(expressions: list[ast.expr]) -> Iterator[str]:
    for expression in expressions:
        match expression:
            case ast.Constant(value=str(text)):
                yield text
            case ast.IfExp(body=one, orelse=other):
                yield from _constants([one, other])


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def modules() -> list[Path]:
    return sorted((ROOT / "deepseg").rglob("*.py"))


@cache
def codes_of_the_source() -> frozenset[str]:
    return frozenset(code for path in modules() for code in codes_in(path.read_text("utf-8")))


def rows(pattern: str) -> list[str]:
    """First cells of the page's tables that fit ``pattern``."""
    return re.findall(rf"^\| `?({pattern})`? \|", PAGE.read_text("utf-8"), flags=re.MULTILINE)


def test_every_code_of_the_source_is_on_the_page():
    assert codes_of_the_source() - set(rows("[a-z][a-z0-9-]+")) == set()


def test_every_code_on_the_page_is_in_the_source():
    assert set(rows("[a-z][a-z0-9-]+")) - codes_of_the_source() == set()


def test_no_code_is_on_the_page_twice():
    codes = rows("[a-z][a-z0-9-]+")
    assert [code for code in codes if codes.count(code) > 1] == []


def test_every_message_has_a_meaning_and_a_remedy():
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [row for row in cells if len(row) != 3 or not all(row)] == []


def test_the_page_has_the_exit_codes_of_the_source():
    codes = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.DeepsegError)
    }
    assert {int(code) for code in rows("[0-9]+")} == codes | {0, 1, 130, 143}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param('Problem(code="by-name", got="x")', {"by-name"}, id="by name"),
        pytest.param('Problem("by-place", "x", "y", "z")', {"by-place"}, id="by place"),
        pytest.param('invalid("in-a-model", got="x")', {"in-a-model"}, id="in a config model"),
        pytest.param(
            'def f(got, *, code="by-default"):\n    Problem(code, got)',
            {"by-default"},
            id="default",
        ),
        pytest.param(
            'def f(node, code): ...\nf(1, "of-a-helper")', {"of-a-helper"}, id="helper's argument"
        ),
        pytest.param(
            'class E:\n    def __init__(self, node, code): ...\nE(1, "of-a-class")',
            {"of-a-class"},
            id="class's argument",
        ),
        pytest.param('say("ERROR [a-line] x")', {"a-line"}, id="line of the command line"),
        pytest.param('f(f"ERROR [a-line] {x}")', {"a-line"}, id="line with a value"),
        pytest.param('header.set_sform(affine, code="scanner")', set(), id="another code"),
        pytest.param('Problem("a-a" if b else "b-b", got)', {"a-a", "b-b"}, id="one of two"),
        pytest.param('code = "in-a-name"\nProblem(code, got)', {"in-a-name"}, id="in a name"),
        pytest.param("Problem(texts['code'], got)", set(), id="passed on"),
    ],
)
def test_codes_are_found_however_they_are_written(source, expected):
    assert codes_in(source) == expected
