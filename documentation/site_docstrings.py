"""Examples in docstrings as blocks of code on the site: an extension of griffe (``mkdocs.yml``)."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*?(?=\n[ \t]*\n|\Z)", re.MULTILINE | re.DOTALL)


def fenced(docstring: str) -> str:
    """The docstring with a fence around every example.

    >>> print(fenced("One.\\n\\n>>> 1 + 1\\n2\\n\\nMore."))
    One.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    More.
    """
    return EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", docstring)


class FencedExamples(griffe.Extension):
    """Called by griffe for everything that has a docstring."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Fence the examples of one function, class or module."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
