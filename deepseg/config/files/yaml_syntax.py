"""Messages of PyYAML's parser about a broken file, in the words of a user."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from deepseg.config.files.document import position
from deepseg.errors import Problem

_COMPLAINTS = (  # what the parser says; got, expected, fix
    (
        r"found character '\\t' .*",
        ("a tab", "spaces", "replace the tab by spaces"),
    ),
    (
        r"found character ('.*') that cannot start any token",
        (r"\1", "a key or a value", "put quotes around the text"),
    ),
    (
        r"found unexpected end of stream",
        ("the end of the file", "a closing quote", "close the quote"),
    ),
    (
        r"mapping values are not allowed.*",
        (
            "':' where no key can be",
            "one 'key: value' in a line",
            "correct the indentation, or put quotes around text that holds ': '",
        ),
    ),
    (
        r"sequence entries are not allowed here",
        ("'- ' behind a key", "list entries on lines of their own", "start a new line before '- '"),
    ),
    (
        r"could not find expected ':'",
        ("a line without ':'", "'key: value'", "write ': ' and a value behind the key"),
    ),
    (
        r"found undefined alias '(.*)'",
        (
            r"the alias '*\1'",
            r"an anchor '&\1' above it",
            "write the anchor, or put quotes around the text",
        ),
    ),
    (
        r"but found another document",
        ("a second '---'", "one document in a file", "remove this line and what follows it"),
    ),
    (
        r"expected (.*?),? but (?:got|found) (.*)",
        (r"\2", r"\1", "correct this line or the one before"),
    ),
    (
        r"(.*)",
        (r"'\1' from the YAML parser", "valid YAML", "correct this line"),
    ),
)
_TOKENS = {
    "'<stream end>'": "the end of the file",
    "'<scalar>'": "a value",
    "'<block end>'": "the end of the block",
    "<block end>": "the same indentation as above",
    "'<block mapping start>'": "an indented key",
    "'<block sequence start>'": "an indented list",
}
_OPENINGS = {
    "while parsing a flow sequence": "the '['",
    "while parsing a flow mapping": "the '{'",
    "while scanning a quoted scalar": "the quote",
}


def syntax_problem(error: yaml.MarkedYAMLError, file: Path) -> Problem:
    """The problem, at the line and column where the parser gave up."""
    is_key = error.context == "while scanning a simple key"
    mark = error.context_mark if is_key else error.problem_mark
    got, expected, fix = (_TOKENS.get(text, text) for text in _texts(error))
    return Problem(
        code="config-syntax",
        got=got,
        expected=expected + _opening(error),
        fix=fix,
        where=str(file) if mark is None else position(file, mark.line + 1, mark.column + 1),
    )


def _texts(error: yaml.MarkedYAMLError) -> tuple[str, ...]:
    complaint = str(error) if error.problem is None else error.problem
    for pattern, texts in _COMPLAINTS:
        match = re.fullmatch(pattern, complaint, re.DOTALL)
        if match:
            return tuple(match.expand(text) for text in texts)
    raise AssertionError("the last pattern fits every complaint")


def _opening(error: yaml.MarkedYAMLError) -> str:
    mark = error.context_mark
    if mark is None or error.context not in _OPENINGS:
        return ""
    opening = _OPENINGS[error.context]
    return f" for {opening} of line {mark.line + 1} column {mark.column + 1}"
