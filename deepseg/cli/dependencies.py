"""Packages that deepseg needs, in versions that it has been tried with.

Older ones fail late, with an error that says nothing about them. Only the records of the installer
are read here: nothing is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from deepseg.errors import DeepsegError, Problem

# As setup.cfg asks for; a test compares them.
OLDEST = {
    "torch": "2.6",
    "numpy": "1.26",
    "scipy": "1.11",
    "nibabel": "5.2",
    "SimpleITK": "2.3",
    "pyyaml": "6.0",
    "pydantic": "2.7",
    "annotated-types": "0.6",
    "rich": "13",
}


def old_dependencies() -> Iterator[Problem]:
    """The problem of every package that is older than deepseg needs.

    Packages that were installed without a record are not judged.
    """
    for package, oldest in OLDEST.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if release(installed) < release(oldest):
            yield Problem(
                code="dependency-too-old",
                got=f"{package} {installed}",
                expected=f"{package} {oldest} or newer",
                fix=f"pip install --upgrade '{package}>={oldest}'",
            )


def release(version_text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end, for comparison.

    >>> release("2.13.0+cpu"), release("2.6rc1") < release("2.13")
    ((2, 13), True)
    """
    numbers = re.match(r"\d+(\.\d+)*", version_text)
    parts = [] if numbers is None else [int(part) for part in numbers[0].split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def broken_dependency(error: ImportError) -> DeepsegError:
    """The error for a package that is not there, or lacks what deepseg imports from it."""
    return DeepsegError(
        Problem(
            code="dependency-broken",
            got=str(error),
            expected="every package that deepseg needs, as setup.cfg lists them",
            fix="install deepseg again (pip install --upgrade deepseg-pathways, or make test)",
        )
    )
