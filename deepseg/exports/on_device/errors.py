"""Mistakes as one line, with an exit code."""

from __future__ import annotations


class DeviceError(Exception):
    """One line about something that is wrong and what to do about it, with an exit code."""

    def __init__(self, code: str, got: str, expected: str, fix: str, *, exit_code: int = 2) -> None:
        super().__init__(f"[{code}] got {got}; expected {expected}; fix: {fix}")
        self.exit_code = exit_code
