"""Folds: equal sizes, all classes in each, patients whole, the same for the same seed."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseg.data.cases.case import Case
from deepseg.data.cases.summary import CaseSummary
from deepseg.errors import DeepsegError
from deepseg.sessions.folds.split import divided_patients, lost_classes, stratified_folds


def case(name, patient=None):
    return Case(name, (Path(f"{name}.nii"),), None, None, (), (), False, "c.csv", patient=patient)


def summary(name, voxels=(90, 10), images=None):
    return CaseSummary(
        name=name,
        where="c.csv",
        shape=(5, 5, 4),
        spacing_mm=(1.0, 1.0, 1.0),
        orientation="RAS",
        missing_channels=(),
        intensity=(None,),
        images=images or name,
        class_voxels=voxels,
        roi_voxels=None,
        foreground_outside_roi=0.0,
        problems=(),
        warnings=(),
    )


def split(names, folds, seed=0, voxels=None, patients=None, images=None):
    voxels, patients, images = voxels or {}, patients or {}, images or {}
    return stratified_folds(
        [case(name, patients.get(name)) for name in names],
        [summary(name, voxels.get(name, (90, 10)), images.get(name)) for name in names],
        folds=folds,
        seed=seed,
    )


@settings(deadline=None, max_examples=40)
@given(count=st.integers(2, 30), folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_every_case_is_in_one_fold_and_folds_differ_by_one_case_at_most(count, folds, seed):
    names = [f"p{number}" for number in range(max(count, folds))]
    fold_of = split(names, folds, seed)
    sizes = Counter(fold_of.values())
    assert list(fold_of) == names
    assert set(sizes) == set(range(1, folds + 1))
    assert max(sizes.values()) - min(sizes.values()) <= 1


@settings(deadline=None, max_examples=20)
@given(order=st.permutations([f"p{n}" for n in range(9)]))
def test_the_order_of_the_list_does_not_matter(order):
    assert split(order, 3) == split(sorted(order), 3)


def test_another_seed_gives_other_folds_and_the_same_seed_the_same():
    names = [f"p{number}" for number in range(12)]
    assert split(names, 3, 7) == split(names, 3, 7)
    assert split(names, 3, 7) != split(names, 3, 8)


def test_every_fold_gets_a_case_with_the_rare_class():
    names = [f"p{number}" for number in range(9)]
    rare = dict.fromkeys(("p0", "p4", "p5"), (80, 10, 10))
    voxels = {name: rare.get(name, (90, 10, 0)) for name in names}
    fold_of = split(names, 3, voxels=voxels)
    assert {fold_of[name] for name in rare} == {1, 2, 3}


def test_every_fold_gets_large_and_small_lesions():
    names = [f"p{number}" for number in range(8)]
    large = names[:4]
    voxels = {name: (100, 1000) if name in large else (100, 3) for name in names}
    fold_of = split(names, 4, voxels=voxels)
    assert Counter(fold_of[name] for name in large) == {1: 1, 2: 1, 3: 1, 4: 1}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_all_cases_of_a_patient_and_cases_with_the_same_images_are_in_one_fold(seed):
    rng = random.Random(seed)
    names = [f"c{number}" for number in range(12)]
    patients = {name: f"patient{rng.randrange(4)}" for name in names[:8]}
    images = {"c9": "twins", "c10": "twins", "c0": "twins"}
    fold_of = split(names, 2, seed, patients=patients, images=images)
    for patient in set(patients.values()):
        assert len({fold_of[name] for name in names if patients.get(name) == patient}) == 1
    assert fold_of["c9"] == fold_of["c10"] == fold_of["c0"]


def test_fewer_patients_than_folds_are_too_few():
    with pytest.raises(DeepsegError) as refusal:
        split(["a", "b", "c"], 3, patients={"a": "anna", "c": "anna"})
    assert str(refusal.value) == (
        "[folds-too-many] got 3 folds for 3 cases of 2 patients; expected a patient for every "
        "fold; fix: lower folds to 2"
    )


def test_a_class_of_one_fold_only_is_lost_to_its_model():
    summaries = [summary("a", (9, 1, 0)), summary("b", (8, 1, 1)), summary("c", (8, 1, 1))]
    classes = ("air", "rim", "core")
    (problem,) = lost_classes(summaries, {"a": 1, "b": 2, "c": 2}, classes)
    assert str(problem) == (
        "[folds-without-class] got class 2 (core) in cases of fold 2 only: b, c; expected every "
        "class in cases of at least two folds, so that each model learns it; fix: add cases that "
        "have it, or set 'allow_missing_classes: true'"
    )
    assert list(lost_classes(summaries, {"a": 1, "b": 2, "c": 1}, classes)) == []


def test_a_patient_in_two_folds_is_noticed():
    cases = [case("a", "anna"), case("b", "ben"), case("c", "anna")]
    summaries = [summary(c.name) for c in cases]
    assert divided_patients(cases, summaries, {"a": 1, "b": 1, "c": 2}) == [["a", "c"]]
    assert divided_patients(cases, summaries, {"a": 1, "b": 2, "c": 1}) == []
