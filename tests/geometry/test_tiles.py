"""Tiles: against DeepMedic's numbers, and against the law that they cover the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseg.geometry.boxes import Box, add, minimum
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.geometry.tiles import starts, tiles


def network_geometry(shrink, fc=(0, 0, 0)):
    return NetworkGeometry((PathwayGeometry((1, 1, 1), shrink),), fc, "centred")


DEEPMEDIC = network_geometry((16, 16, 16))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        pytest.param(256, [0, 29, 58, 87, 116, 145, 174, 203, 211], id="256"),
        pytest.param(171, [0, 29, 58, 87, 116, 126], id="171"),
        pytest.param(45, [0], id="one tile fits exactly"),
        pytest.param(46, [0, 1], id="one voxel more"),
        pytest.param(103, [0, 29, 58], id="the last tile is a regular one"),
        pytest.param(40, [0], id="an axis shorter than a tile"),
    ],
)
def test_starts_of_the_default_tile(length, expected):
    assert starts(length, tile=45, stride=29) == expected


def test_the_image_is_surrounded_by_the_margin():
    # X: 30 + 16 voxels, tiles from -8 and -8 + 46 - 45; Y: a tile is as long as 29 + 16
    result = tiles((30, 29, 60), (45, 45, 45), DEEPMEDIC)
    assert [box.start for box in result] == [(x, -8, z) for z in (-8, 21, 23) for x in (-8, -7)]
    assert {box.size for box in result} == {(45, 45, 45)}


def test_x_varies_fastest_and_z_slowest():
    result = tiles((2, 3, 2), (1, 1, 1), network_geometry((0, 0, 0)))
    x, y, z = np.unravel_index(range(12), (2, 3, 2), order="F")
    assert [box.start for box in result] == list(zip(x, y, z, strict=True))


def test_a_tile_larger_than_the_image_is_cut_down_along_that_axis():
    # shrink 16 + 2 of the FC pathway: 11 + 18 = 29 voxels along Y
    network = network_geometry((16, 16, 16), fc=(2, 2, 2))
    result = tiles((30, 11, 27), (45, 45, 45), network)
    assert result == [Box((-9, -9, -9), (45, 29, 45)), Box((-6, -9, -9), (45, 29, 45))]
    assert network.prediction(result[0]) == Box((0, 0, 0), (27, 11, 27))


def test_an_odd_margin_is_longer_behind():
    (box,) = tiles((4, 5, 3), (9, 9, 9), network_geometry((3, 0, 5)))
    assert box == Box((-1, 0, -2), (7, 5, 8))


triples = st.tuples(*[st.integers(1, 12)] * 3)
shrinks = st.tuples(*[st.integers(0, 5)] * 3)


@settings(deadline=None)
@given(shape=triples, prediction=triples, shrink=shrinks, fc=shrinks)
def test_predictions_cover_the_image_and_nothing_else(shape, prediction, shrink, fc):
    network = network_geometry(shrink, fc)
    tile = add(prediction, network.shrink)
    result = tiles(shape, tile, network)
    times = np.zeros(shape, int)
    for box in result:
        predicted = network.prediction(box)
        assert predicted.within(shape) == predicted
        times[predicted.slices] += 1
    assert times.min() == 1  # every voxel, and the first one only once
    assert {box.size for box in result} == {minimum(tile, add(shape, network.shrink))}
    assert len(result) == np.prod([-(-n // p) for n, p in zip(shape, prediction, strict=True)])
