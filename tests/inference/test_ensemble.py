"""Several views of a case averaged block by block: maps that are held, and where blocks are cut."""

import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from deepseg.config.cases import Preparation
from deepseg.data.images.resampling import resampled_geometry
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, volume
from deepseg.inference import ensemble
from deepseg.inference.averaging import SCRATCH
from deepseg.inference.ensemble import Member, View, blocks, predict_mean
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.prediction import BoxPrediction, RequestedMaps

SHAPE = (96, 50, 40)
WHOLE = Box((0, 0, 0), SHAPE)
GRID = Geometry(SHAPE, np.diag([1.0, 1.2, 2.0, 1.0]))
MAP = 4 * volume(SHAPE)


def view(classes=5, grid=GRID, axes=(), tile=None):
    plan = SimpleNamespace(classes=classes)
    network = SimpleNamespace(layout=plan, device=SimpleNamespace(type="cpu"))
    member = Member(network, network, Preparation(), tile, (9, 9, 9), SplitOnOutOfMemory())
    channels = np.zeros((1, *grid.shape), np.float32)
    case = PreparedCase("case", channels, None, None, None, grid)
    return View(member, case, axes, GRID)


@pytest.fixture
def planes(monkeypatch):
    """Units of work are planes of the image; every class is as probable in them."""

    def units(network, case, *, within, **_):
        starts = range(within.start[0], within.stop[0])
        size = (1, *within.size[1:])
        return [SimpleNamespace(boxes=[Box((x, *within.start[1:]), size)]) for x in starts]

    def pieces(network, case, work, *, labels, on_boxes, splitter, limits):
        for unit in work:
            (box,) = unit.boxes
            share = np.full(box.size, 1 / len(labels), np.float32)
            yield unit, BoxPrediction(box, share, {label: share.copy() for label in labels})
            on_boxes(1)

    monkeypatch.setattr(ensemble, "work_units", units)
    monkeypatch.setattr(ensemble, "box_predictions", pieces)


def quiet(_total):
    return nullcontext(lambda _: None)


def most_held(many, wanted, memory):
    """The most maps of the whole case that exist at once."""
    tracemalloc.start()
    predict_mean(many, WHOLE, wanted, memory=memory, put=lambda _: None, progress=quiet)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / MAP


COARSE = resampled_geometry(GRID, (1.1, 1.3, 2.2))
SEVERAL = {
    "one view": ([view()], RequestedMaps((), ("entropy",))),
    "mirror images": ([view(), view(axes=(0,)), view(axes=(2,))], RequestedMaps((1, 2), ())),
    "all uncertainty maps": ([view(), view()], RequestedMaps(range(5), ("entropy", "variance"))),
    "another grid": ([view(), view(grid=COARSE, axes=(1,))], RequestedMaps()),
}


@pytest.mark.parametrize(("many", "wanted"), SEVERAL.values(), ids=SEVERAL.keys())
def test_no_more_maps_are_held_than_are_counted(planes, many, wanted):
    counted = 5 + max(view.maps_held for view in many) + SCRATCH
    assert most_held(many, wanted, 1 << 40) < counted + 0.1
    assert counted < 14.1  # 2 x 5 maps, and some for a moment


@pytest.mark.parametrize(("many", "wanted"), SEVERAL.values(), ids=SEVERAL.keys())
def test_with_less_memory_a_block_of_them_is_held(planes, many, wanted):
    assert most_held(many, wanted, 10 * MAP) < 0.4 * 10 + 0.05


def test_boxes_have_the_memory_that_the_maps_of_a_block_leave(planes, monkeypatch):
    budgets, units = [], ensemble.work_units

    def noted(network, case, *, memory, **others):
        budgets.append(memory)
        return units(network, case, **others)

    monkeypatch.setattr(ensemble, "work_units", noted)
    pair, expected = [view(), view(axes=(0,))], RequestedMaps()
    maps = 5 + (5 + 1) + SCRATCH  # of the mean, of one view, and some for a moment
    most_held(pair, expected, 100 * MAP)
    assert budgets == [(100 - maps) * MAP] * 2
    budgets.clear()
    most_held(pair, expected, 10 * MAP)  # 4 of them are for blocks, of which there are 4 then
    assert budgets == [10 * MAP - maps * MAP // 4] * 8


def test_the_classes_that_are_equally_probable_make_entropy_1_and_no_variance(planes):
    expected = RequestedMaps([4], ["entropy", "variance"])
    pair, result = [view(), view(axes=(0, 1))], []
    predict_mean(pair, WHOLE, expected, memory=10 * MAP, put=result.append, progress=quiet)
    assert sum(volume(piece.box.size) for piece in result) == volume(SHAPE)
    for piece in result:
        assert not piece.labels.any()
        np.testing.assert_allclose(piece.probabilities[4], 0.2, rtol=1e-6)
        np.testing.assert_allclose(piece.uncertainty["entropy"], 1, rtol=1e-5)
        np.testing.assert_allclose(piece.uncertainty["variance"], 0, atol=1e-7)


def test_blocks_are_cut_across_x_and_hold_everything_once():
    around = Box((3, 7, 1), (90, 9, 11))
    result = blocks(around, 30 * 9 * 11, [view()])
    assert result == [Box((3 + 30 * number, 7, 1), (30, 9, 11)) for number in range(3)]


def test_blocks_are_never_thinner_than_some_planes():
    assert [block.size[0] for block in blocks(WHOLE, 1, [view()])] == [16] * 6
    assert blocks(Box((0, 0, 0), (9, 9, 9)), 1, [view()]) == [Box((0, 0, 0), (9, 9, 9))]


def test_tiles_of_their_own_are_not_cut():
    assert blocks(WHOLE, 1, [view(), view(tile=(9, 9, 9))]) == [WHOLE]
