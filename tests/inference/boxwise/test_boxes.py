"""Boxes around a region of interest: they hold it, and cutting pays."""

from math import prod

import numpy as np

from deepseg.geometry.boxes import Box, volume
from deepseg.inference.boxwise.boxes import (
    bounding_box,
    even,
    fc_boxes,
    fitted,
    longest_edge,
    normal_boxes,
)
from deepseg.model.layout import layout
from tests.networks import small_config

SHAPE = (60, 50, 40)
WHOLE = Box((0, 0, 0), SHAPE)
PLAN = layout(
    small_config(channels=["T1"], normal={"feature_maps": [3, 20]}, subsampled=None, fc={})
)


def two_blocks():
    roi = np.zeros(SHAPE, bool)
    roi[1:11, 2:22, 3:13] = roi[49:59, 30:48, 21:37] = True
    return roi


def covered(boxes, shape=SHAPE):
    calls = np.zeros(shape, bool)
    for box in boxes:
        calls[box.slices] = True
    return calls


def test_a_bounding_box_is_the_smallest():
    assert bounding_box(two_blocks(), Box((0, 0, 0), SHAPE)) == Box((1, 2, 3), (58, 46, 34))
    assert bounding_box(two_blocks(), Box((5, 0, 0), (20, 50, 40))) == Box((5, 2, 3), (6, 20, 10))
    assert bounding_box(two_blocks(), Box((20, 0, 0), (9, 9, 9))) is None
    assert bounding_box(None, Box((2, 0, 0), (9, 9, 9))) == Box((2, 0, 0), (9, 9, 9))


def test_a_cut_is_made_where_it_saves_work():
    whole = Box((1, 2, 3), (58, 46, 34))
    parts = fitted(two_blocks(), whole, lambda box: volume(box.size))
    assert sorted(parts, key=lambda box: box.start) == [
        Box((1, 2, 3), (10, 20, 10)), Box((49, 30, 21), (10, 18, 16)),
    ]  # fmt: skip
    assert fitted(two_blocks(), whole, lambda _: 1.0) == [whole]


def test_boxes_hold_the_region_of_interest_and_no_side_is_longer_than_allowed():
    rng = np.random.default_rng(0)
    for roi in (two_blocks(), rng.random(SHAPE) > 0.999, np.ones(SHAPE, bool), None):
        boxes = [box for group in normal_boxes(roi, WHOLE, PLAN, 14) for box in group]
        assert (
            covered(boxes) | ~np.ones(SHAPE, bool) if roi is None else covered(boxes)[roi]
        ).all()
        assert max(max(box.size) for box in boxes) <= 14


def test_groups_of_boxes_lie_behind_each_other_along_x():
    groups = normal_boxes(None, WHOLE, PLAN, 20)
    assert [{box.start[0] for box in group} for group in groups] == [{0}, {20}, {40}]


def test_nothing_is_computed_without_a_region_of_interest():
    assert normal_boxes(np.zeros(SHAPE, bool), WHOLE, PLAN, 20) == []


def test_pieces_for_the_fc_pathway_hold_the_region_of_interest():
    roi = two_blocks()
    whole = Box((0, 0, 0), SHAPE)
    pieces = fc_boxes(roi, whole)
    assert covered(pieces)[roi].all()
    assert sum(volume(piece.size) for piece in pieces) < 0.1 * volume(SHAPE)


def test_sides_become_even_inside_the_image():
    assert even(Box((1, 2, 3), (3, 4, 5)), Box((0, 0, 0), (9, 9, 9))) == Box((1, 2, 3), (4, 4, 6))
    assert even(Box((6, 2, 0), (3, 4, 5)), Box((0, 0, 0), (9, 9, 5))) == Box((5, 2, 0), (4, 4, 5))


def test_the_memory_decides_how_long_a_side_may_be():
    # 20 maps of 4 bytes, four times: 320 bytes a voxel; 4 voxels of border for 2 layers.
    size = (500, 500, 500)
    assert longest_edge(PLAN, size, memory=320 * 44**3, value_bytes=4) == 40
    assert longest_edge(PLAN, size, memory=320 * 44**3 - 1, value_bytes=4) == 32
    assert longest_edge(PLAN, size, memory=2 * 320 * 44**3, value_bytes=4, at_once=2) == 40
    assert longest_edge(PLAN, size, memory=0, value_bytes=4) == 16


def test_context_across_the_image_is_counted():
    plan = layout(
        small_config(
            channels=["T1"], normal={"feature_maps": [3, 20]},
            subsampled={"factors": [[3, 3, 5]]}, fc={}, segments={"train": 25},
        )
    )  # fmt: skip
    context = 4 * 2 * 2 * 20 * 16 * 169 * 82  # of 40 x 500 x 400 voxels, 2 more along an axis
    memory = context + 320 * prod(40 + n for n in plan.shrink)
    assert longest_edge(plan, (500, 500, 400), memory=memory, value_bytes=4) == 40
    assert longest_edge(plan, (500, 500, 400), memory=memory - 1, value_bytes=4) == 32
