"""How a validator of a config model says what is wrong: got, expected, fix, under a stable code."""

from __future__ import annotations

from pydantic_core import PydanticCustomError


def invalid(code: str, *, got: str, expected: str, fix: str) -> PydanticCustomError:
    """The error that a pydantic validator raises; reading.py turns it into a `Problem`."""
    # The parts travel as context, because pydantic formats the template and users may type braces.
    return PydanticCustomError(
        "refusal", "{got}", {"code": code, "got": got, "expected": expected, "fix": fix}
    )
