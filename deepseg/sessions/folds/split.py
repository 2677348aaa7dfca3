"""Which fold each case is held out in: folds of equal size, each with all classes if possible.

The split follows from names, patients, labels and a seed only, and is the same whenever they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from deepseg.data.cases.case import Case
from deepseg.data.cases.summary import CaseSummary
from deepseg.errors import DeepsegError, Problem

SHOWN = 5  # cases that a message names


def stratified_folds(
    cases: Sequence[Case], summaries: Sequence[CaseSummary], *, folds: int, seed: int
) -> dict[str, int]:
    """The fold in which each case is held out, counted from 1, by its name.

    All cases of a patient, and cases with the same images, are in one fold: a model knows again
    what it has learnt. Patients are ordered by their number of cases, their classes and the size of
    their foreground, and each goes to the fold with the fewest cases, so that each fold gets large
    and small ones. Cases that are alike in all of this are shuffled by the seed.

    Args:
        cases: All that are split.
        summaries: Of each.
        folds: Number of folds.
        seed: Of the session.

    Raises:
        DeepsegError: ``folds-too-many``, for fewer patients than folds.
    """
    patients = _patients(cases, summaries)
    if len(patients) < folds:
        raise DeepsegError(_too_many(folds, len(cases), len(patients)))
    by_name = {summary.name: summary for summary in summaries}
    ordered = sorted(
        patients, key=lambda names: _stratum([by_name[name] for name in names], seed=seed)
    )
    sizes = dict.fromkeys(range(1, folds + 1), 0)
    fold_of: dict[str, int] = {}
    for names in ordered:
        smallest = min(sizes, key=sizes.__getitem__)  # the first of equal ones
        sizes[smallest] += len(names)
        fold_of |= dict.fromkeys(names, smallest)
    return {case.name: fold_of[case.name] for case in cases}


def divided_patients(
    cases: Sequence[Case], summaries: Sequence[CaseSummary], fold_of: Mapping[str, int]
) -> list[list[str]]:
    """Cases of one patient, or with the same images, that are not in one fold; none if all is well.

    Args:
        cases: All that are split.
        summaries: Of each.
        fold_of: The fold of each by its name.
    """
    return [
        names for names in _patients(cases, summaries) if len({fold_of[name] for name in names}) > 1
    ]


def lost_classes(
    summaries: Sequence[CaseSummary], fold_of: Mapping[str, int], classes: Sequence[str]
) -> Iterator[Problem]:
    """A problem for every class that only cases of one fold have: without it, none is learnt.

    Args:
        summaries: Of all cases.
        fold_of: The fold of each by its name.
        classes: Names of the model's classes.
    """
    for label, name in enumerate(classes):
        having = {
            summary.name: fold_of[summary.name]
            for summary in summaries
            if summary.class_voxels is not None and summary.class_voxels[label]
        }
        if len(set(having.values())) == 1:
            fold = next(iter(having.values()))
            yield Problem(
                code="folds-without-class",
                got=f"class {label} ({name}) in cases of fold {fold} only: {shortened([*having])}",
                expected="every class in cases of at least two folds, so that each model learns it",
                fix="add cases that have it, or set 'allow_missing_classes: true'",
            )


def shortened(names: Sequence[str]) -> str:
    """The first names, and the number of the others.

    >>> shortened(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _patients(cases: Sequence[Case], summaries: Sequence[CaseSummary]) -> list[list[str]]:
    """Names of the cases of each patient; cases with the same images are of one."""
    root_of = list(range(len(cases)))

    def root(number: int) -> int:
        while root_of[number] != number:
            number = root_of[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, (case, summary) in enumerate(zip(cases, summaries, strict=True)):
        for key in (("patient", case.patient), ("images", summary.images)):
            if key[1]:
                earlier = root(first.setdefault((key[0], key[1]), number))
                later = root(number)
                root_of[max(earlier, later)] = min(earlier, later)
    groups: dict[int, list[str]] = {}
    for number, case in enumerate(cases):
        groups.setdefault(root(number), []).append(case.name)
    return list(groups.values())


def _stratum(
    summaries: Sequence[CaseSummary], *, seed: int
) -> tuple[int, tuple[int, ...], int, str]:
    """Cases from many to few, classes, foreground in powers of two, and a number of the seed."""
    counts = [summary.class_voxels or () for summary in summaries]
    labels = sorted({label for count in counts for label, n in enumerate(count) if label and n})
    foreground = sum(sum(count[1:]) for count in counts)
    name = f"{seed} {summaries[0].name}"
    shuffled = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return -len(summaries), tuple(labels), foreground.bit_length(), shuffled


def _too_many(folds: int, cases: int, patients: int) -> Problem:
    of = "" if cases == patients else f" of {patients} patient{'s' * (patients != 1)}"
    return Problem(
        code="folds-too-many",
        got=f"{folds} folds for {cases} case{'s' * (cases != 1)}{of}",
        expected="a patient for every fold",
        fix=f"lower folds to {patients}" if patients > 1 else "add cases, or leave out folds",
    )
