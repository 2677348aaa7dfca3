"""Names under which a program registers functions and modules, for its settings files to name."""

from __future__ import annotations

from collections.abc import Collection

from deepseg.errors import DeepsegError, Problem


def raise_if_unusable(
    name: str,
    function: object,
    *,
    code: str,
    expected: str,
    fix: str,
    reserved: Collection[str] = (),
) -> None:
    """Refuse a name that settings files cannot use, or something that cannot be called.

    >>> raise_if_unusable("tversky", max, code="loss-name", expected="a word", fix="choose one")
    >>> raise_if_unusable("my loss", max, code="loss-name", expected="a word", fix="choose one")
    Traceback (most recent call last):
    deepseg.errors.DeepsegError: [loss-name] got 'my loss'; expected a word; fix: choose one

    Args:
        name: A word of letters, digits and underscores.
        function: Is registered under it.
        code: Of the problem.
        expected: In the problem.
        fix: In the problem.
        reserved: Names that have a meaning already.

    Raises:
        DeepsegError: ``code``.
    """
    if name.isidentifier() and name not in reserved and callable(function):
        return
    got = f"{name!r}" if callable(function) else f"{type(function).__name__} as {name!r}"
    raise DeepsegError(Problem(code, got, expected, fix))
