"""Which cases are trained on, validated on and tested on: every part with all classes, if possible.

The split follows from names and labels only, and is the same whenever they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from deepseg.errors import DeepsegError, Problem
from deepseg.sessions.planning.facts import CaseFacts
from deepseg.sessions.planning.rules import split_counts

FEWEST = 3
PARTS = ("training", "validation", "test")


def split(cases: Sequence[CaseFacts], patients: Mapping[str, str]) -> dict[str, str]:
    """The part of each case, by its name.

    Patients are ordered by the classes that they have and the size of their foreground, and dealt
    out in turn, so that each part gets large and small ones. All cases of a patient are in one
    part: a model knows again whom it has learnt from.

    Args:
        cases: Facts about them.
        patients: Of each case by its name; a case that is not in it is a patient of its own.

    Raises:
        DeepsegError: ``plan-cases``, for fewer than three patients.
    """
    by_patient: dict[str, list[CaseFacts]] = {}
    for case in cases:
        by_patient.setdefault(patients.get(case.name, case.name), []).append(case)
    if len(by_patient) < FEWEST:
        raise DeepsegError(_too_few(len(cases), len(by_patient)))
    counts = dict(zip(PARTS, split_counts(len(by_patient)), strict=True))
    ordered = sorted(by_patient, key=lambda patient: _stratum(by_patient[patient]))
    parts: dict[str, str] = {}
    dealt = dict.fromkeys(PARTS, 0)
    for number, patient in enumerate(ordered, start=1):
        behind = {
            part: counts[part] * number / len(ordered) - dealt[part]
            for part in PARTS
            if dealt[part] < counts[part]
        }
        part = max(behind, key=behind.__getitem__)  # the first of equal ones: to train on
        dealt[part] += 1
        parts |= {case.name: part for case in by_patient[patient]}
    return {case.name: parts[case.name] for case in cases}


def _stratum(cases: Sequence[CaseFacts]) -> tuple[tuple[int, ...], int, str]:
    """Classes, foreground in powers of two, and a number that follows from the name."""
    counts = [(label, n) for case in cases for label, n in case.class_voxels.items() if label > 0]
    labels = tuple(sorted({label for label, voxels in counts if voxels}))
    foreground = sum(voxels for _, voxels in counts)
    shuffled = hashlib.blake2b(cases[0].name.encode(), digest_size=8).hexdigest()
    return labels, foreground.bit_length(), shuffled


def _too_few(cases: int, patients: int) -> Problem:
    of = "" if cases == patients else f" of {patients} patient{'s' * (patients != 1)}"
    return Problem(
        code="plan-cases",
        got=f"{cases} case{'s' * (cases != 1)}{of} with labels",
        expected=f"at least {FEWEST}: to train, to validate and to test on",
        fix="add labelled cases, or write the settings files by hand",
    )
