"""Several looks at a case, block by block: what is held meanwhile, and where blocks are cut."""

import tracemalloc
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deepseg.data.images.resampling import resampled_geometry
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, volume
from deepseg.inference import ensemble as looks
from deepseg.inference.averaging import SCRATCH
from deepseg.inference.ensemble import View, blocks, combine
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.prediction import BoxPrediction, RequestedMaps

SHAPE = (96, 50, 40)
WHOLE = Box((0, 0, 0), SHAPE)
GRID = Geometry(SHAPE, np.diag([1.0, 1.2, 2.0, 1.0]))
MAP = 4 * volume(SHAPE)


def look(classes=5, grid=GRID, **changes):
    plan = SimpleNamespace(fc=SimpleNamespace(outputs=classes))
    network = SimpleNamespace(layout=plan, device=SimpleNamespace(type="cpu"))
    channels = np.zeros((1, *grid.shape), np.float32)
    case = PreparedCase("case", channels, None, None, None, grid)
    return replace(View(network, case, (), GRID, None, 0.0, SplitOnOutOfMemory()), **changes)


@pytest.fixture
def planes(monkeypatch):
    """Jobs are planes of the image; every class is as probable in them."""

    def jobs(network, case, *, within, **_):
        starts = range(within.start[0], within.stop[0])
        size = (1, *within.size[1:])
        return [SimpleNamespace(boxes=[Box((x, *within.start[1:]), size)]) for x in starts]

    def pieces(network, case, todo, *, wanted, on_boxes, room):
        for job in todo:
            (box,) = job.boxes
            share = np.full(box.size, 1 / len(wanted), np.float32)
            yield job, BoxPrediction(box, share, {label: share.copy() for label in wanted})
            on_boxes(1)

    monkeypatch.setattr(looks, "work_units", jobs)
    monkeypatch.setattr(looks, "box_predictions", pieces)


def quiet(_total):
    return nullcontext(lambda _: None)


def most_held(many, wanted, memory):
    """The most maps of the whole case that exist at once."""
    tracemalloc.start()
    combine(many, WHOLE, wanted, memory=memory, put=lambda _: None, progress=quiet)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / MAP


COARSE = resampled_geometry(GRID, (1.1, 1.3, 2.2))
SEVERAL = {
    "one look": ([look()], RequestedMaps((), ("entropy",))),
    "mirror images": ([look(), look(axes=(0,)), look(axes=(2,))], RequestedMaps((1, 2), ())),
    "all doubts": ([look(), look()], RequestedMaps(range(5), ("entropy", "variance"))),
    "another grid": ([look(), look(grid=COARSE, axes=(1,))], RequestedMaps()),
}


@pytest.mark.parametrize(("many", "wanted"), SEVERAL.values(), ids=SEVERAL.keys())
def test_no_more_maps_are_held_than_are_counted(planes, many, wanted):
    counted = 5 + max(one.maps_held for one in many) + SCRATCH
    assert most_held(many, wanted, 1 << 40) < counted + 0.1
    assert counted < 14.1  # 2 x 5 maps, and some for a moment


@pytest.mark.parametrize(("many", "wanted"), SEVERAL.values(), ids=SEVERAL.keys())
def test_with_less_memory_a_block_of_them_is_held(planes, many, wanted):
    assert most_held(many, wanted, 10 * MAP) < 0.4 * 10 + 0.05


def test_boxes_have_the_memory_that_the_maps_of_a_block_leave(planes, monkeypatch):
    given, jobs = [], looks.work_units

    def noted(network, case, *, memory, **others):
        given.append(memory)
        return jobs(network, case, **others)

    monkeypatch.setattr(looks, "work_units", noted)
    pair, wanted = [look(), look(axes=(0,))], RequestedMaps()
    maps = 5 + (5 + 1) + SCRATCH  # of the mean, of one look, and some for a moment
    most_held(pair, wanted, 100 * MAP)
    assert given == [(100 - maps) * MAP] * 2
    given.clear()
    most_held(pair, wanted, 10 * MAP)  # 4 of them are for blocks, of which there are 4 then
    assert given == [10 * MAP - maps * MAP // 4] * 8


def test_the_classes_that_are_equally_probable_make_entropy_1_and_no_variance(planes):
    wanted = RequestedMaps([4], ["entropy", "variance"])
    pair, found = [look(), look(axes=(0, 1))], []
    combine(pair, WHOLE, wanted, memory=10 * MAP, put=found.append, progress=quiet)
    assert sum(volume(piece.box.size) for piece in found) == volume(SHAPE)
    for piece in found:
        assert not piece.labels.any()
        np.testing.assert_allclose(piece.probabilities[4], 0.2, rtol=1e-6)
        np.testing.assert_allclose(piece.uncertainty["entropy"], 1, rtol=1e-5)
        np.testing.assert_allclose(piece.uncertainty["variance"], 0, atol=1e-7)


def test_blocks_are_cut_across_x_and_hold_everything_once():
    around = Box((3, 7, 1), (90, 9, 11))
    found = blocks(around, 30 * 9 * 11, [look()])
    assert found == [Box((3 + 30 * number, 7, 1), (30, 9, 11)) for number in range(3)]


def test_blocks_are_never_thinner_than_some_planes():
    assert [block.size[0] for block in blocks(WHOLE, 1, [look()])] == [16] * 6
    assert blocks(Box((0, 0, 0), (9, 9, 9)), 1, [look()]) == [Box((0, 0, 0), (9, 9, 9))]


def test_tiles_of_their_own_are_not_cut():
    assert blocks(WHOLE, 1, [look(), look(tile=(9, 9, 9))]) == [WHOLE]
