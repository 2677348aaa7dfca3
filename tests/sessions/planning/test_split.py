"""Splits of cases: every case in one part, parts of the right sizes, classes everywhere."""

from collections import Counter

import pytest

from deepseg.errors import DeepsegError
from deepseg.sessions.planning.facts import CaseFacts
from deepseg.sessions.planning.split import split


def case(name, **voxels):
    """A case with so many voxels of each label, such as ``l1=20``."""
    counts = {int(label[1:]): count for label, count in voxels.items()}
    return CaseFacts(
        name=name,
        shape=(9, 8, 7),
        spacing_mm=(1.0, 1.0, 1.0),
        orientation="RAS",
        class_voxels={0: 1000, **counts},
        object_mm=5.0,
        sides={},
        zero_share=0.0,
        body_mm=9.0,
        intensity=(),
        foreground_range=None,
        has_roi=False,
    )


@pytest.mark.parametrize(
    ("count", "sizes"), [(3, (1, 1, 1)), (5, (3, 1, 1)), (12, (8, 2, 2)), (103, (63, 20, 20))]
)
def test_a_fifth_is_validated_and_a_fifth_tested(count, sizes):
    parts = Counter(split([case(f"c{n}", l1=n) for n in range(count)], {}).values())
    assert (parts["training"], parts["validation"], parts["test"]) == sizes


def test_a_rare_class_is_in_every_part():
    common = [case(f"a{n}", l1=30) for n in range(20)]
    parts = split([*common, *(case(f"b{n}", l1=30, l2=5) for n in range(5))], {})
    assert {parts[f"b{n}"] for n in range(5)} == {"training", "validation", "test"}


def test_large_and_small_lesions_are_in_every_part():
    cases = [case(f"c{n}", l1=4 ** (n % 2 + 3)) for n in range(20)]
    parts = split(cases, {})
    for remainder in (0, 1):
        members = {parts[f"c{n}"] for n in range(remainder, 20, 2)}
        assert members == {"training", "validation", "test"}


def test_neither_the_order_of_cases_nor_the_day_matters():
    cases = [case(f"c{n}", l1=n) for n in range(9)]
    assert split(cases, {}) == split(cases[::-1], {})


def test_cases_of_one_patient_stay_together():
    patients = {f"c{n}": f"p{n // 3}" for n in range(12)}
    parts = split([case(f"c{n}", l1=n) for n in range(12)], patients)
    for patient in range(4):
        assert len({parts[f"c{n}"] for n in range(3 * patient, 3 * patient + 3)}) == 1


def test_many_cases_of_two_patients_are_too_few():
    patients = {f"c{n}": f"p{n % 2}" for n in range(8)}
    with pytest.raises(DeepsegError, match="got 8 cases of 2 patients with labels"):
        split([case(f"c{n}", l1=n) for n in range(8)], patients)
