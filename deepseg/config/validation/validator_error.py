"""The error of a validator of a config model: got, expected, fix, under a stable code."""

from __future__ import annotations

from pydantic_core import PydanticCustomError


def invalid(code: str, *, got: str, expected: str, fix: str) -> PydanticCustomError:
    """Error that a pydantic validator raises; it becomes a `Problem` with the place in the file."""
    # The texts travel as context, because pydantic formats the template and users may type braces.
    return PydanticCustomError(
        "refusal", "{got}", {"code": code, "got": got, "expected": expected, "fix": fix}
    )
