"""Facts about cases by hand arithmetic, and the rules that follow from them."""

from dataclasses import replace

import pytest

from deepseg.data.cases.summary import Intensity
from deepseg.sessions.planning.facts import CaseFacts, StudyFacts
from deepseg.sessions.planning.rules import Request, choices
from deepseg.sessions.planning.speed import Speed

SCANNED = Intensity(100.0, 20.0, 0.0, 200.0, 0.5, 1.0, 5.0, 190.0)
SPEED = Speed(step_s=0.1, case_s=1.0, prepare_s=0.1)


def case(number, **changes):
    facts = CaseFacts(
        name=f"c{number}",
        shape=(90, 80, 70),
        spacing_mm=(1.0, 1.0, 1.0),
        orientation="RAS",
        class_voxels={0: 900_000, 1: 100_000},
        object_mm=20.0,
        sides={1: 0.0},
        zero_share=0.0,
        body_mm=60.0,
        intensity=(SCANNED,),
        foreground_range=(10.0, 90.0),
        has_roi=False,
    )
    return replace(facts, **changes)


def study(count=6, channels=("T1",), names=None, **changes):
    cases = tuple(case(number, **changes) for number in range(count))
    return StudyFacts("folders", channels, cases, {} if names is None else names)


def chosen(facts, *, minutes=10, memory=8 * 10**9, cores=2, speed=SPEED):
    request = Request(minutes, memory, cores, speed=speed)
    return {choice.key: choice.value for choice in choices(facts, request)}


def test_voxel_sizes_of_turned_cases_are_compared_along_the_same_axes():
    facts = StudyFacts(
        "folders",
        ("T1",),
        (
            case(1, spacing_mm=(1.0, 1.0, 4.0)),
            case(2, spacing_mm=(1.0, 1.0, 4.0)),
            case(3, spacing_mm=(4.0, 1.0, 1.0), orientation="SPL"),
        ),
        {},
    )
    assert facts.spacing_mm == (1.0, 1.0, 4.0)
    assert (facts.spacing_spread, facts.anisotropy, facts.coarse_axis) == (1.0, 4.0, 2)


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        ({"body_mm": 60.0}, [3]),  # 13 voxels x 3 = 39 mm, for 1.5 objects of 20 mm
        ({"object_mm": 40.0}, [3, 5]),  # 60 mm
        ({"object_mm": 50.0}, [3, 7]),  # 75 mm
        ({"object_mm": 500.0}, [3, 7]),  # more is not there
        ({"spacing_mm": (0.5, 0.5, 0.5)}, [3, 5]),  # half as far
    ],
)
def test_the_last_pathway_sees_the_largest_object_with_its_surroundings(changes, factors):
    assert chosen(study(**changes), minutes=20)["model.subsampled.factors"] == factors


@pytest.mark.parametrize(
    ("minutes", "cores", "layers"), [(14, 2, 4), (15, 2, 6), (119, 2, 6), (120, 2, 8), (30, 8, 8)]
)
def test_a_larger_network_needs_more_core_minutes(minutes, cores, layers):
    maps = chosen(study(), minutes=minutes, cores=cores)["model.normal.feature_maps"]
    assert len(maps) == layers


def test_less_memory_gives_a_smaller_batch():
    batches = [
        chosen(study(), memory=m * 10**6)["train.training.batch_size"] for m in (60, 120, 8000)
    ]
    assert batches == sorted(batches)
    assert batches[0] < batches[1] < batches[2] == 12


@pytest.mark.parametrize(
    ("names", "sides", "mirrored"),
    [
        ({0: "background", 1: "lesion"}, {1: 0.0}, True),
        ({0: "background", 1: "left_kidney", 2: "right_kidney"}, {1: 0.0, 2: 0.0}, False),
        ({0: "background", 1: "liver"}, {1: 0.5}, False),
    ],
)
def test_left_and_right_are_never_exchanged_where_classes_are_sides(names, sides, mirrored):
    voxels = dict.fromkeys(names, 100)
    facts = study(names=names, sides=sides, class_voxels=voxels)
    assert ("train.training.augmentation.reflect" in chosen(facts)) == mirrored


def test_mirror_images_are_along_the_axis_from_left_to_right():
    facts = study(orientation="ASL")
    assert chosen(facts)["train.training.augmentation.reflect"] == [0, 0, 0.5]


def test_a_rare_class_makes_overlap_count():
    rare = study(class_voxels={0: 999_000, 1: 1_000})
    assert chosen(rare)["train.loss.dice"] == 1
    assert "train.loss.dice" not in chosen(study())


def test_ct_is_clipped_and_normalised_images_are_not_normalised_again():
    air = replace(SCANNED, minimum=-1024.0)
    assert chosen(study(intensity=(air,)))["train.preparation.clip"] == [10, 90]
    assert "train.preparation.clip" not in chosen(study())
    ready = replace(SCANNED, mean=0.02, deviation=1.05)
    assert chosen(study(intensity=(ready,)))["train.preparation.z_score"] == "none"
    assert chosen(study())["train.preparation.z_score"] == {}


def test_zeros_are_left_out_only_where_there_are_no_masks():
    assert chosen(study(zero_share=0.4))["train.preparation.roi"] == "nonzero"
    assert "train.preparation.roi" not in chosen(study(zero_share=0.4, has_roi=True))


@pytest.mark.parametrize("minutes", [3, 10, 60, 600])
@pytest.mark.parametrize("step_s", [0.02, 0.3, 2.0])
def test_the_planned_time_is_a_little_less_than_the_minutes(minutes, step_s):
    speed = Speed(step_s=step_s, case_s=3.0, prepare_s=0.5)
    values = chosen(study(12), minutes=minutes, speed=speed)
    batch = values["train.training.batch_size"]
    steps = values["train.epochs"] * 2 * values["train.training.segments_per_subepoch"] // batch
    every = values["train.validation.volumes"]["every"]
    rounds = -(-values["train.epochs"] // every)
    seconds = 8 + 10 * 0.5 + steps * step_s + rounds * 2 * 3.0 + values["train.epochs"] * 0.5
    assert 0.85 * minutes * 60 < seconds <= 0.96 * minutes * 60
