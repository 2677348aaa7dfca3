"""DeepMedic's ``.cfg`` files read as data: lines ``key = value``, of which nothing is ever run.

A value is made of text, numbers, ``True``, ``False``, ``None``, lists, tuples and dicts. Numbers
may be computed with ``+ - * / // **``; texts and lists may be joined with ``+``, lists repeated
with ``*``. The name of an earlier key stands for its value, also in texts such as ``f"{root}/x"``;
names that are only there for that are no keys. Nothing here knows what the keys mean.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeGuard

from deepseg.config.files.document import (
    LARGEST_DEPTH,
    UNPRINTABLE,
    Document,
    KeyPath,
    duplicate_key,
    file_text,
    position,
)
from deepseg.errors import DeepsegError, Problem, raise_if_any

Number: TypeAlias = int | float
Plain: TypeAlias = Number | str | list["Plain"] | dict[str | int, "Plain"] | None

LARGEST_FILE = 1_000_000
LARGEST_BITS = 1024
LARGEST_LIST = 10_000
LARGEST_SHARE = 1_000_000
"""Characters and entries that the names of a file may bring into its values, all together."""


def read_cfg(file: Path) -> Document:
    """Read a ``.cfg`` file; tuples become lists, texts that stand alone are comments.

    Keys that later values refer to are in `Document.referenced`.

    Raises:
        DeepsegError: ``config-syntax``, ``config-duplicate-key``, ``config-not-data``,
            ``config-arithmetic``, ``config-too-large``, or a code of `file_text`.
    """
    text = file_text(file, largest=LARGEST_FILE)
    source = re.split(r"\r\n|\r|\n", text)
    values: dict[str, Plain] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    reader = _Reader(values)
    for statement in _statements(text, source, file):
        line = statement.lineno
        try:
            key, value = reader.assignment(statement)
        except _RefusedError as refused:
            problems.append(refused.problem(file, source))
            continue
        if key in lines:
            problems.append(duplicate_key(f"{file}:{line} {key}", key, lines[key], line))
            continue
        values[key], lines[key] = value, line
    raise_if_any(problems)
    places: dict[KeyPath, str] = {(key,): f"{file}:{line} {key}" for key, line in lines.items()}
    return Document(file, values, places, frozenset(reader.referenced))


class _RefusedError(Exception):
    """Something in the file that is not plain data."""

    def __init__(self, node: ast.stmt | ast.expr, code: str, expected: str, fix: str) -> None:
        super().__init__(code)
        self.node = node
        self.texts = (code, expected, fix)

    def problem(self, file: Path, source: Sequence[str]) -> Problem:
        code, expected, fix = self.texts
        got = repr(_source_of(self.node, source))
        return Problem(code, got, expected, fix, f"{file}:{self.node.lineno}")


def _not_data(node: ast.stmt | ast.expr) -> _RefusedError:
    expected = "'key = value' with plain values"
    fix = "write the value itself; config files are read, never run"
    return _RefusedError(node, "config-not-data", expected, fix)


def _out_of_bounds(node: ast.expr) -> _RefusedError:
    expected = f"a finite number below 1e308, or a list of at most {LARGEST_LIST} entries"
    return _RefusedError(node, "config-arithmetic", expected, "write the result itself")


def _source_of(node: ast.stmt | ast.expr, source: Sequence[str]) -> str:
    """The text of ``node``, as far as it stands on its first line."""
    line = source[node.lineno - 1].encode()
    is_one_line = node.end_lineno == node.lineno
    text = line[node.col_offset : node.end_col_offset if is_one_line else None].decode()
    return f"{text[:77]}..." if len(text) > 80 or not is_one_line else text


def _statements(text: str, source: Sequence[str], file: Path) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "C:\data" is a path here, not an invalid escape
            statements = ast.parse(text).body
    except SyntaxError as error:
        raise DeepsegError(_syntax_problem(error, source, file)) from None
    except (RecursionError, MemoryError):
        got, expected = "an expression that is too long or too deep", "plain values"
        fix = "write the value itself"
        raise DeepsegError(Problem("config-too-large", got, expected, fix, str(file))) from None
    return [statement for statement in statements if not _is_comment(statement)]


def _syntax_problem(error: SyntaxError, source: Sequence[str], file: Path) -> Problem:
    line = min(error.lineno if error.lineno is not None else 1, len(source))
    return Problem(
        code="config-syntax",
        got=repr(source[line - 1].strip()[:80]),
        expected="'key = value' with plain values",
        fix=f"correct this line: {error.msg}",
        where=position(file, line, max(error.offset if error.offset is not None else 1, 1)),
    )


def _is_comment(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


class _Reader:
    """Reads the values of one file, of which later ones may refer to earlier ones.

    Args:
        values: Of the keys so far.
    """

    def __init__(self, values: Mapping[str, Plain]) -> None:
        self.referenced: set[str] = set()
        self._values = values
        self._share = 0

    def assignment(self, statement: ast.stmt) -> tuple[str, Plain]:
        """Key and value of a line."""
        match statement:
            case ast.Assign(targets=[ast.Name(id=key)], value=value):
                return key, self._value(value, 0)
        raise _not_data(statement)

    def _value(self, node: ast.expr, depth: int) -> Plain:
        if depth > LARGEST_DEPTH:
            expected, fix = f"at most {LARGEST_DEPTH} levels of nesting", "write the value itself"
            raise _RefusedError(node, "config-too-large", expected, fix)
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return _bounded(value, node)
            case ast.Name():
                return self._referenced(node, depth)
            case ast.JoinedStr(values=pieces):
                return "".join(self._text(piece, node, depth) for piece in pieces)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self._value(item, depth + 1) for item in items]
            case ast.Dict():
                return self._dict(node, depth)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
                number = self._value(operand, depth + 1)
                if _is_number(number):
                    return number if isinstance(sign, ast.UAdd) else -number
            case ast.BinOp(left=left, right=right):
                return _result(node, self._value(left, depth + 1), self._value(right, depth + 1))
        raise _not_data(node)

    def _dict(self, node: ast.Dict, depth: int) -> dict[str | int, Plain]:
        values: dict[str | int, Plain] = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            key = None if key_node is None else self._value(key_node, depth + 1)
            if isinstance(key, bool) or not isinstance(key, str | int) or key in values:
                raise _not_data(value_node if key_node is None else key_node)
            values[key] = self._value(value_node, depth + 1)
        return values

    def _referenced(self, name: ast.Name, depth: int) -> Plain:
        """The value of an earlier key, as long as all of them together stay small."""
        if name.id not in self._values:
            expected = "a plain value, or the name of a key above this line"
            fix = "correct the name, or write the value itself; nothing else has a name here"
            raise _RefusedError(name, "config-not-data", expected, fix)
        self.referenced.add(name.id)
        value = self._values[name.id]
        size, levels = _extent(value)
        self._share += size
        if self._share > LARGEST_SHARE or depth + levels > LARGEST_DEPTH:
            expected = f"names for at most {LARGEST_SHARE} characters and entries altogether"
            raise _RefusedError(name, "config-too-large", expected, "write the value itself")
        return value

    def _text(self, piece: ast.expr, whole: ast.JoinedStr, depth: int) -> str:
        """A piece of an f-string: a text, or the name of a text or number in braces."""
        match piece:
            case ast.Constant(value=str(text)):
                return text
            case ast.FormattedValue(value=ast.Name() as name, conversion=-1, format_spec=None):
                value = self._referenced(name, depth)
                if isinstance(value, str) or _is_number(value):
                    return str(value)
        raise _not_data(whole)


def _extent(value: Plain) -> tuple[int, int]:
    """Characters and entries of ``value``, and its levels of nesting."""
    match value:
        case str():
            return 1 + len(value), 0
        case list() | dict():
            items = value if isinstance(value, list) else [*value, *value.values()]
            extents = [_extent(item) for item in items]
            return (
                1 + sum(size for size, _ in extents),
                1 + max((levels for _, levels in extents), default=0),
            )
        case _:
            return 1, 0


def _is_number(value: Plain) -> TypeGuard[Number]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _result(node: ast.BinOp, left: Plain, right: Plain) -> Plain:
    """Joins two texts or lists, repeats a list, or computes with two numbers."""
    match node.op, left, right:
        case ast.Add(), str(), str():
            return left + right
        case ast.Add(), list(), list():
            return left + right
        case ast.Mult(), list(), int() if not isinstance(right, bool):
            return _repeated(node, left, right)
    operation = _OPERATIONS.get(type(node.op))
    if operation is None or not (_is_number(left) and _is_number(right)):
        raise _not_data(node)
    try:
        result = operation(left, right)
    except (ArithmeticError, ValueError):
        raise _out_of_bounds(node) from None
    return _bounded(result, node)


def _repeated(node: ast.BinOp, items: list[Plain], times: int) -> list[Plain]:
    if times * _count(items) > LARGEST_LIST or times * _extent(items)[0] > LARGEST_SHARE:
        raise _out_of_bounds(node)
    return items * times


def _count(value: Plain) -> int:
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _power(base: Number, exponent: Number) -> Number:
    """``base ** exponent``, refused before it is computed if it cannot fit."""
    is_whole = isinstance(base, int) and isinstance(exponent, int)
    if is_whole and abs(base) > 1 and int(base).bit_length() * abs(exponent) > 2 * LARGEST_BITS:
        raise OverflowError
    return base**exponent if is_whole else math.pow(base, exponent)


_OPERATIONS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
}


def _bounded(value: Plain, node: ast.expr) -> Plain:
    """``value``, refused if it is too large for a number or holds control characters."""
    match value:
        case float() if not math.isfinite(value):
            raise _out_of_bounds(node)
        case int() if value.bit_length() > LARGEST_BITS:
            raise _out_of_bounds(node)
        case str() if UNPRINTABLE.search(value):
            fix = "remove the control characters; write the backslashes of a path twice"
            raise _RefusedError(node, "config-syntax", "readable text", fix)
    return value
