"""YAML files read as plain values with line numbers; safe, and without the traps of YAML 1.1.

Numbers, booleans and null are those of YAML 1.2, section 10.3.2, with underscores between digits:
``1e-3`` is a number; ``no``, ``on``, ``1:30`` and dates are text; ``010`` is refused, because
versions of YAML disagree about it. Nothing here knows what the keys mean.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from deepseg.config.files.document import (
    LARGEST_DEPTH,
    UNPRINTABLE,
    Document,
    KeyPath,
    duplicate_key,
    file_text,
    key_text,
    position,
    short_text,
)
from deepseg.config.files.yaml_syntax import syntax_problem
from deepseg.errors import DeepsegError, Problem, raise_if_any

LARGEST_COUNT = 100_000
"""Values that one file may hold, each alias counted as often as it is used."""

_PLAIN = "plain"
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {_PLAIN, _TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}

_DECIMAL = r"(?:0|[1-9](?:_?[0-9])*)"
_INTEGER = re.compile(rf"[-+]?{_DECIMAL}|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(rf"[-+]?(?:\.[0-9]+|{_DECIMAL}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?")
_OCTAL = set("01234567")
_LONGEST = 100
"""Characters of a number; what is longer is text."""

_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def read_yaml(file: Path) -> Document:
    """Read a YAML file; an empty one gives a document without values.

    Raises:
        DeepsegError: ``config-syntax``, ``config-duplicate-key``, ``config-ambiguous-number``,
            ``config-not-data``, ``config-too-large``, or a code of `file_text`.
    """
    root = _root_of(file_text(file), file)
    if root is None or (root.tag == _PLAIN and plain_value(root.value) is None):
        return Document(file, {}, {})
    if not isinstance(root, yaml.MappingNode):
        raise DeepsegError(_not_a_mapping(root, file))
    reader = _NodeReader(file)
    values = reader.value(root, ())
    raise_if_any(reader.problems)
    return Document(file, values, reader.places)


def plain_value(text: str) -> str | int | float | bool | None:
    """Value of ``text`` without quotes in YAML 1.2.

    >>> plain_value("1e-3"), plain_value("0x10"), plain_value("true"), plain_value("no")
    (0.001, 16, True, 'no')
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST:
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 0)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


class _Loader(yaml.SafeLoader):
    """Composes nodes, leaves the meaning of unquoted text to us, and stops at hostile sizes."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}  # noqa: RUF012
    depth = 0
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node of the file with everything below it."""
        self.depth += 1
        self.count += 1
        _check_size(f"{self.name}:{self.line + 1}", self.depth - 1, self.count)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _check_size(where: str, depth: int, count: int) -> None:
    if depth > LARGEST_DEPTH:
        got, expected = f"more than {LARGEST_DEPTH} levels of nesting", "a few levels"
    elif count > LARGEST_COUNT:
        got, expected = f"more than {LARGEST_COUNT} values", "a config file"
    else:
        return
    fix = "write the values out without aliases, or move long lists into files of their own"
    raise DeepsegError(Problem("config-too-large", got, expected, fix, where))


def _root_of(text: str, file: Path) -> yaml.Node | None:
    loader = _Loader(text)
    loader.name = str(file)
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise DeepsegError(syntax_problem(error, file)) from None
    except (ValueError, OverflowError):  # "\UFFFFFFFF" and other characters that do not exist
        where = position(file, loader.line + 1, loader.column + 1)
        got, expected, fix = "an escape of no character", "valid YAML", "correct this text"
        raise DeepsegError(Problem("config-syntax", got, expected, fix, where)) from None
    finally:
        loader.dispose()


def _invalid(got: str, expected: str, fix: str, where: str) -> Problem:
    return Problem("config-syntax", got, expected, fix, where)


def _not_a_mapping(root: yaml.Node, file: Path) -> Problem:
    return _invalid(
        "a list" if isinstance(root, yaml.SequenceNode) else f"only {short_text(root.value)}",
        "lines of the form 'key: value'",
        "give the path of a config file, or write a key before the value",
        f"{file}:{_line(root)}",
    )


class _NodeReader:
    """Turns the nodes of one file into values, and collects places and problems on the way."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.places: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self._depth = 0
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The plain value of ``node``, which stands at ``path``."""
        self._depth += 1
        self._count += 1
        _check_size(f"{self.file}:{_line(node)}", self._depth - 1, self._count)
        value = self._value(node, path)
        self._depth -= 1
        return value

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag not in _TAGS:
            self._refuse_tag(node, path)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._entry(item, item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _entry(self, start: yaml.Node, node: yaml.Node, path: KeyPath) -> Any:
        self.places[path] = self._place(start, path)
        return self.value(node, path)

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        for source in [value for key, value in node.value if _is_merge(key)]:
            values.update(self._merged(source, path))
        lines: dict[str | int, int] = {}
        for key_node, value_node in node.value:
            key = None if _is_merge(key_node) else self._key(key_node, path)
            if key is None:
                continue
            line = _line(key_node)
            if key in lines:
                where = self._place(key_node, (*path, key))
                self.problems.append(duplicate_key(where, key, lines[key], line))
                continue
            lines[key] = line
            values[key] = self._entry(key_node, value_node, (*path, key))
        return values

    def _merged(self, source: yaml.Node, path: KeyPath) -> dict[str | int, Any]:
        """The keys of ``<<: *name`` or ``<<: [*name, *name]``; of two equal keys the first."""
        values: dict[str | int, Any] = {}
        for node in reversed(source.value if isinstance(source, yaml.SequenceNode) else [source]):
            if isinstance(node, yaml.MappingNode):
                values.update(self.value(node, path))
            else:
                got, expected = "'<<' with a value that has no keys", "an alias of a block"
                fix = "write '<<: *name', where '&name' stands before a block"
                self.problems.append(_invalid(got, expected, fix, self._place(node, path)))
        return values

    def _key(self, node: yaml.Node, path: KeyPath) -> str | int | None:
        key = self.value(node, path) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str | int) and not isinstance(key, bool):
            return key
        written = short_text(node.value) if isinstance(node, yaml.ScalarNode) else "a list or block"
        where = self._place(node, path)
        expected, fix = "text or a whole number before ':'", "put quotes around the key"
        self.problems.append(_invalid(f"{written} as a key", expected, fix, where))
        return None

    def _scalar(self, node: yaml.Node, path: KeyPath) -> str | int | float | bool | None:
        text = str(node.value)
        if node.tag == _PLAIN and len(text) <= _LONGEST and _LEADING_ZERO.fullmatch(text):
            self.problems.append(_ambiguous(text, self._place(node, path)))
        strange = UNPRINTABLE.search(text)
        if strange:
            got = f"the control character U+{ord(strange[0]):04X} in a text"
            where = self._place(node, path)
            self.problems.append(_invalid(got, "readable text", "remove this character", where))
        return plain_value(text) if node.tag == _PLAIN else text

    def _refuse_tag(self, node: yaml.Node, path: KeyPath) -> None:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        self.problems.append(
            Problem(
                code="config-not-data",
                got=f"the tag {tag!r}",
                expected="plain values: text, numbers, true, false, lists and blocks",
                fix="remove the tag; config files are read, never run",
                where=self._place(node, path),
            )
        )

    def _place(self, node: yaml.Node, path: KeyPath) -> str:
        return f"{self.file}:{_line(node)} {key_text(path)}".rstrip()


def _ambiguous(text: str, where: str) -> Problem:
    sign = text[0] if text[0] in "+-" else ""
    whole, point, rest = text.removeprefix(sign).replace("_", "").partition(".")
    digits = whole.lstrip("0").rjust(1, "0")
    octal = f", 0o{digits} for octal digits" if not sign + point and set(digits) <= _OCTAL else ""
    return Problem(
        code="config-ambiguous-number",
        got=f"{text}, which some programs read as an octal number",
        expected="a number without leading zeros",
        fix=f"write {sign}{digits}{point}{rest}{octal}, or {text!r} with quotes for text",
        where=where,
    )


def _is_merge(key: yaml.Node) -> bool:
    return key.tag == _PLAIN and key.value == "<<"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
