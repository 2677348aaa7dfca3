"""Context lattices: against DeepMedic's numbers, hand arithmetic, and their own laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.geometry.boxes import Box
from deepseg.geometry.context import Lattice, PathwayGeometry, coarse_size, core, lattice, margin

NORMAL = PathwayGeometry((1, 1, 1), (16, 16, 16))
BY_3 = PathwayGeometry((3, 3, 3), (16, 16, 16))


def along_x(found: Lattice) -> list[int]:
    return [found.start[0] + found.step[0] * i for i in range(found.count[0])]


@pytest.mark.parametrize(
    ("segment", "output", "by_3", "by_5"),
    [
        (17, 1, (1, 17), (1, 17)),
        (25, 9, (3, 19), (2, 18)),
        (37, 21, (7, 23), (5, 21)),
        (45, 29, (10, 26), (6, 22)),
    ],
)
def test_the_sizes_of_the_default_network(segment, output, by_3, by_5):
    box = Box((0, 0, 0), (segment,) * 3)
    assert core(box, NORMAL.shrink).size == (output,) * 3
    assert margin(NORMAL.shrink) == ((8, 8, 8), (8, 8, 8))
    for factor, (size, read) in {3: by_3, 5: by_5}.items():
        assert coarse_size((output,) * 3, (factor,) * 3) == (size,) * 3
        geometry = PathwayGeometry((factor,) * 3, NORMAL.shrink)
        assert lattice(box, NORMAL, geometry, "centred").count == (read,) * 3


@pytest.mark.parametrize(
    ("start", "inside"),
    [
        pytest.param(0, list(range(0, 40, 3)), id="steps restart at the border of the image"),
        pytest.param(9, list(range(0, 49, 3)), id="also where the phase would be 2"),
        pytest.param(240, list(range(224, 279, 3)), id="no restart at the high border"),
    ],
)
def test_deepmedic_alignment_gives_its_indices(start, inside):
    result = lattice(Box((start,) * 3, (25, 25, 25)), NORMAL, BY_3, "deepmedic")
    assert result.count == (19, 19, 19)
    assert [x for x in along_x(result) if x >= 0] == inside


def test_deepmedic_alignment_with_an_even_factor_by_hand():
    # factor 4, field 17: before = 1 * 17 + 8 = 25, centre = 1, low = 60 + 1 - 25 = 36
    result = lattice(
        Box((60, 60, 60), (25, 25, 25)),
        NORMAL,
        PathwayGeometry((4, 4, 4), NORMAL.shrink),
        "deepmedic",
    )
    assert along_x(result)[0] == 36
    assert result.count == (3 + 16,) * 3


def test_a_centred_lattice_with_even_factors_by_hand():
    # The core begins at voxel 108, 58, 38. Along X, factor 2 repeats each output for 2 voxels,
    # whose lower middle is the first: (2 - 1) // 2 = 0. Along Y, factor 4: (4 - 1) // 2 = 1. Along
    # Z, factor 6: (6 - 1) // 2 = 2. The pathway loses 4 points before its first output.
    segment = Box((100, 50, 30), (26, 28, 30))
    points = lattice(segment, NORMAL, PathwayGeometry((2, 4, 6), (8, 8, 8)), "centred")
    assert points == Lattice(
        start=(108 + 0 - 4 * 2, 58 + 1 - 4 * 4, 38 + 2 - 4 * 6),
        step=(2, 4, 6),
        count=(5 + 8, 3 + 8, 3 + 8),
    )


factors = st.tuples(*[st.integers(1, 7)] * 3)
shrinks = st.tuples(*[st.integers(0, 8).map(lambda n: 2 * n)] * 3)
starts = st.tuples(*[st.integers(-30, 30)] * 3)
sizes = st.tuples(*[st.integers(1, 12)] * 3)


@given(start=starts, output=sizes, normal=shrinks, coarse=shrinks, factor=factors)
def test_a_centred_point_is_the_lower_middle_of_the_voxels_its_output_is_repeated_for(
    start, output, normal, coarse, factor
):
    segment = Box(start, tuple(n + m for n, m in zip(output, normal, strict=True)))
    geometry = PathwayGeometry(factor, coarse)
    if geometry == PathwayGeometry((1, 1, 1), normal):
        return
    result = lattice(segment, PathwayGeometry((1, 1, 1), normal), geometry, "centred")
    for axis in range(3):
        first_output_sees = result.start[axis] + factor[axis] * coarse[axis] // 2
        first_block = range(start[axis] + normal[axis] // 2, 99)[: factor[axis]]
        assert first_output_sees == first_block[(factor[axis] - 1) // 2]


@given(start=starts, shift=starts, output=sizes, coarse=shrinks, factor=factors)
def test_centred_context_moves_with_the_segment(start, shift, output, coarse, factor):
    normal = PathwayGeometry((1, 1, 1), (4, 6, 2))
    segment = Box(start, tuple(n + m for n, m in zip(output, normal.shrink, strict=True)))
    here = lattice(segment, normal, PathwayGeometry(factor, coarse), "centred")
    there = lattice(segment.moved(shift), normal, PathwayGeometry(factor, coarse), "centred")
    assert there.count == here.count
    if PathwayGeometry(factor, coarse) != normal:
        assert there.start == tuple(a + d for a, d in zip(here.start, shift, strict=True))


@given(output=sizes, coarse=shrinks, factor=factors)
def test_the_repeated_output_covers_the_core(output, coarse, factor):
    size = coarse_size(output, factor)
    for n, f, o in zip(size, factor, output, strict=True):
        assert (n - 1) * f < o <= n * f


def test_the_last_point_of_a_lattice():
    assert Lattice((-4, 0, 5), (3, 1, 2), (5, 7, 2)).last == (8, 6, 7)


def test_a_moved_lattice_keeps_its_steps_and_points():
    assert Lattice((-4, 0, 5), (3, 1, 2), (5, 7, 2)).moved((1, 2, -5)) == Lattice(
        (-3, 2, 0), (3, 1, 2), (5, 7, 2)
    )
