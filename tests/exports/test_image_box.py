"""The box of an exported network: hand arithmetic, and the lattices of segments inside an image."""

import pytest

from deepseg.exports.image_box import border, image_box
from deepseg.geometry.boxes import Box, add, mul, sub
from tests.exports.networks import KINDS, kind_of_network
from tests.networks import small_network

FAR = (1000, 2000, 3000)


def box_of(network):
    return image_box(network.layout, network.geometry)


def test_context_reaches_as_far_as_the_coarse_lattice():
    """Two 3x3x3 layers, factor 3: 5 coarse voxels around the one of the core, centred on it.

    Points lie at -5, -2, 1, 4, 7 of the core's first voxel; a core of 1 or 4 voxels ends in the
    first voxel of its last coarse one, so 2 voxels more are read after it.
    """
    box = box_of(small_network())
    assert (box.before, box.after) == ((5, 5, 5), (7, 7, 7))
    assert box.input_sizes.smallest == (13, 13, 13)
    assert box.context == ((5, 5, 5), (7, 7, 7))


def test_the_prediction_is_in_the_middle_of_its_core():
    box = box_of(small_network(fc={"feature_maps": [5], "kernels": [[3, 1, 5], 1]}))
    assert box.context == ((6, 5, 7), (8, 7, 9))
    assert box.input_sizes.smallest == (15, 13, 17)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [(0, 1, 2), (3, 4, 5), (7, 6, 8)])
def test_pathways_read_the_lattices_of_a_segment_inside_an_image(kind, more):
    network = kind_of_network(kind)
    box, geometry = box_of(network), network.geometry
    size = add(box.input_sizes.smallest, more)
    low, high = box.context
    prediction = Box(add(FAR, low), sub(size, add(low, high)))
    lattices = geometry.lattices(geometry.segment(prediction))
    for read, points in zip(box.reads, lattices, strict=True):
        assert add(FAR, read.start) == points.start
        assert read.step == points.step
        assert read.count(box.core(size)) == points.count
        assert max(sub(points.last, add(FAR, size))) < 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_voxel_of_the_smallest_box_can_be_left_out(kind):
    network = kind_of_network(kind)
    box = box_of(network)
    starts = [read.start for read in box.reads]
    assert [min(axis) for axis in zip(*starts, strict=True)] == [0, 0, 0]
    ends = [
        add(read.start, mul(read.step, sub(read.count(box.core(size)), 1)), 1)
        for read in box.reads
        for size in [add(box.input_sizes.smallest, n) for n in range(12)]
    ]
    sizes = [add(box.input_sizes.smallest, n) for _ in box.reads for n in range(12)]
    assert all(
        any(end[axis] == size[axis] for end, size in zip(ends, sizes, strict=True))
        for axis in range(3)
    )


def test_padding_is_seen_as_far_as_the_kernels_behind_it_reach():
    assert border(small_network().layout) == (0, 0, 0)
    fc = {"feature_maps": [5], "kernels": [[5, 3, 1], 3], "padding": ["mirror", "zero"]}
    assert border(small_network(fc=fc).layout) == (3, 2, 1)
    normal = {"feature_maps": [3, 4], "kernels": [3, [5, 1, 3]], "padding": ["zero", "none"]}
    # Of factor 3: one coarse voxel from the border, and the fine ones of the next.
    assert border(small_network(normal=normal).layout) == (6, 6, 6)
    assert border(small_network(normal=normal, subsampled=None).layout) == (1, 1, 1)
