"""Triples and boxes: hand arithmetic, and laws against sets of voxels."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.geometry import boxes
from deepseg.geometry.boxes import Box, add, ceil_div, floor_div, mul, negate, sub

triples = st.tuples(*[st.integers(-9, 9)] * 3)
sizes = st.tuples(*[st.integers(0, 5)] * 3)
divisors = st.tuples(*[st.integers(1, 7)] * 3)
a_box = st.builds(Box, start=triples, size=sizes)


def voxels(box: Box) -> set[tuple[int, ...]]:
    ends = zip(box.start, box.size, strict=True)
    return set(product(*(range(start, start + size) for start, size in ends)))


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("add", (9, -3, 25)),
        ("sub", (5, -11, 15)),
        ("mul", (14, -28, 100)),
        ("floor_div", (3, -2, 4)),
        ("ceil_div", (4, -1, 4)),
        ("minimum", (2, -7, 5)),
        ("maximum", (7, 4, 20)),
    ],
)
def test_arithmetic_by_hand(name, result):
    assert getattr(boxes, name)((7, -7, 20), (2, 4, 5)) == result


@given(a=triples, n=st.integers(1, 9))
def test_an_integer_stands_for_three_equal_entries(a, n):
    for name in ("add", "sub", "mul", "floor_div", "ceil_div", "minimum", "maximum"):
        function = getattr(boxes, name)
        assert function(a, n) == function(a, (n, n, n))


@given(a=triples, b=triples, c=triples)
def test_sums_and_differences_undo_each_other(a, b, c):
    assert sub(add(a, b), b) == a
    assert add(a, negate(a)) == (0, 0, 0)
    assert add(a, b, c) == add(add(a, b), c)
    assert add(mul(a, c), mul(b, c)) == mul(add(a, b), c)


@given(a=triples, d=divisors)
def test_quotients_are_the_nearest_whole_numbers_below_and_above(a, d):
    low, high = floor_div(a, d), ceil_div(a, d)
    for n, divisor, below, above in zip(a, d, low, high, strict=True):
        assert below * divisor <= n < (below + 1) * divisor
        assert (above - 1) * divisor < n <= above * divisor


def test_triples_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        add((1, 2, 3), (1, 2))


@given(a=a_box, b=a_box)
def test_an_intersection_holds_the_voxels_of_both_boxes(a, b):
    assert voxels(a.intersection(b)) == voxels(a) & voxels(b)
    assert min(a.intersection(b).size) >= 0


@given(box=a_box, shape=sizes)
def test_the_part_within_an_image_indexes_the_same_voxels_of_an_array(box, shape):
    image = np.zeros(shape, int)
    image[box.within(shape).slices] = 1
    assert set(zip(*map(list, image.nonzero()), strict=True)) == voxels(box) & voxels(
        Box.whole(shape)
    )


@given(members=st.lists(st.builds(Box, start=triples, size=divisors), min_size=1, max_size=4))
def test_a_hull_contains_all_boxes_and_touches_one_of_them_on_each_side(members):
    hull = Box.hull(members)
    assert all(box.intersection(hull) == box for box in members)
    for axis in range(3):
        assert hull.start[axis] in {box.start[axis] for box in members}
        assert hull.stop[axis] in {box.stop[axis] for box in members}


@given(box=a_box, origin=triples)
def test_a_box_counted_from_an_origin_and_moved_there_is_the_box(box, origin):
    assert box.relative_to(origin).moved(origin) == box
    assert box.relative_to(box.start) == Box.whole(box.size)
    assert Box.between(box.start, box.stop) == box


@given(centre=triples, size=divisors)
def test_a_box_around_a_voxel_has_as_many_voxels_before_it_as_after_it_or_one_less(centre, size):
    box = Box.around(centre, size)
    before, after = sub(centre, box.start), sub(sub(box.stop, 1), centre)
    assert box.size == size
    assert set(sub(after, before)) <= {0, 1}
