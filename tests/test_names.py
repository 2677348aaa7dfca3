"""Names are nouns of the field or verbs, and docstrings stand alone; judged from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deepseg"


def words(name: str) -> frozenset[str]:
    """``FirstOne``, ``first_one`` and ``first one`` as first and one."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))


# Banned as a whole name, and as a word in the name of a function or class.
PRONOUNS = words(
    "own one ones it its them they their theirs our ours my mine this that these those who whom "
    "whose what which how each every something anything nothing everything"
)
# Banned as a whole name.
PARTICIPLES = words(
    "found given wanted known taken told seen said asked made meant held kept lent fed gathered "
    "others why someone"
)
# Begin no docstring of a public function or class.
QUESTIONS = ("What", "Whether", "How")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def files() -> list[Path]:
    """The modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def banned_names(source: str) -> list[str]:
    """``name:line`` of every name that a module gives and that says nothing about the thing."""
    return [
        f"{name}:{line}"
        for line, name, is_definition in _names(_without_user_keys(ast.parse(source)))
        if name.strip("_").lower() in PRONOUNS | PARTICIPLES
        or (is_definition and words(name) & PRONOUNS)
    ]


class _UserKeys(ast.NodeTransformer):
    """Takes out the keys that users write: ``every: Count = Field(…)`` in a config model."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign | None:
        match node.value:
            case ast.Call(func=ast.Name(id="Field")):
                return None
        return node


def _without_user_keys(tree: ast.Module) -> ast.Module:
    return _UserKeys().visit(tree)


def _names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line and name of all that is given a name, and whether it is a function or class."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name, True
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name, False
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name, False
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name, False
            case ast.ExceptHandler(name=str(name)):
                yield node.lineno, name, False


def dependent_docstrings(source: str) -> list[str]:
    """``name:line`` of every definition whose docstring needs another one, or only asks."""
    return [
        f"{node.name}:{node.lineno}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, Definition) and _depends(ast.get_docstring(node), node.name)
    ]


def _depends(docstring: str | None, name: str) -> bool:
    if docstring is None:
        return False
    if docstring.startswith("The same"):
        return True
    return not name.startswith("_") and docstring.split()[0].rstrip(",.:") in QUESTIONS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("own = 1", ["own:1"], id="a variable"),
        pytest.param("def f(how): ...", ["how:1"], id="an argument"),
        pytest.param("\nfor one in x: ...", ["one:2"], id="a loop"),
        pytest.param("self.known = 1", ["known:1"], id="an attribute"),
        pytest.param("try: ...\nexcept E as what: ...", ["what:2"], id="an exception"),
        pytest.param("match x:\n case [given]: ...", ["given:2"], id="a match"),
        pytest.param("[kept for kept in x]", ["kept:1"], id="a comprehension"),
        pytest.param("def _told(): ...", ["_told:1"], id="a private function"),
        pytest.param("class Given: ...", ["Given:1"], id="a class"),
        pytest.param("class FirstOne: ...", ["FirstOne:1"], id="a word in a class's name"),
        pytest.param("def last_of_each_epoch(): ...", ["last_of_each_epoch:1"], id="a word in it"),
        pytest.param("def it(): ...", ["it:1"], id="a function once"),
        pytest.param("each_epoch = 1", [], id="a variable with such a word"),
        pytest.param("print(own, x.known)", [], id="a name that is only read"),
        pytest.param("settings = 1", [], id="a noun"),
        pytest.param("class C:\n every: int = Field(1)", [], id="a key that users write"),
        pytest.param("class C:\n every: int = 1", ["every:2"], id="an attribute of a class"),
    ],
)
def test_these_names_are_banned(source, expected):
    assert banned_names(source) == expected


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        pytest.param('def f():\n "The same as lines."', ["f:1"], id="another docstring"),
        pytest.param('def _f():\n "The same as lines."', ["_f:1"], id="in a private one too"),
        pytest.param('class C:\n "What is drawn."', ["C:1"], id="a question word"),
        pytest.param('def f():\n """\n Whether x."""', ["f:1"], id="on the second line"),
        pytest.param('def _f():\n "How much each counts."', [], id="a private question"),
        pytest.param('def f():\n "Whatever x is."', [], id="a longer word"),
        pytest.param("def f(): ...", [], id="no docstring"),
    ],
)
def test_these_docstrings_do_not_stand_alone(definition, expected):
    assert dependent_docstrings(definition) == expected


def test_names_are_nouns_or_verbs():
    sources = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in files()}
    named = {file: banned_names(source) for file, source in sources.items()}
    assert {file: names for file, names in named.items() if names} == {}


def test_docstrings_stand_alone():
    sources = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in files()}
    named = {file: dependent_docstrings(source) for file, source in sources.items()}
    assert {file: names for file, names in named.items() if names} == {}
