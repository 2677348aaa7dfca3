"""Reading and moving segments quickly: against plain versions that do one thing after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.augmentation import IDENTITY, random_transform
from deepseg.data.segments.lattice_reading import (
    AxisPermutation,
    interpolated,
    mirrored,
    nearest_labels,
    read,
    read_labels,
)
from deepseg.data.segments.segment import Segment, cut, enclosing_lattice
from deepseg.geometry.boxes import Box
from deepseg.geometry.context import Lattice, NetworkGeometry, PathwayGeometry

# The plain versions


def plain_mesh(along):
    return np.stack(np.meshgrid(*along, indexing="ij"))


def plain_positions(points, permutation, doubled_centre):
    """``(3, *count)``: the voxel of every point, by the permutation's matrix."""
    steps = zip(points.start, points.step, points.count, strict=True)
    straight = plain_mesh([a + s * np.arange(n) for a, s, n in steps])
    doubled_centre = np.array(doubled_centre).reshape(3, 1, 1, 1)
    doubled = (
        np.tensordot(permutation.matrix.astype(int), 2 * straight - doubled_centre, 1)
        + doubled_centre
    )
    return doubled // 2


def plain_outside(image, margin):
    padded = np.pad(image.astype(np.float64), [(0, 0), *zip(*margin, strict=True)], "reflect")
    return padded[:, :: padded.shape[1] - 1 or 1][
        :, :, :: padded.shape[2] - 1 or 1, :: padded.shape[3] - 1 or 1
    ].mean((1, 2, 3))


def is_beyond(places, shape, margin):
    low, last = (
        np.reshape(item, (3, 1, 1, 1)) for item in (margin[0], np.add(shape, margin[1]) - 1)
    )
    return ((places < -low) | (places > last)).any(0)


def plain_read(image, points, margin, *, permutation, doubled_centre):
    places = plain_positions(points, permutation, doubled_centre)
    x, y, z = (mirrored(place, n) for place, n in zip(places, image.shape[1:], strict=True))
    block = image[:, x, y, z]
    beyond = is_beyond(places, image.shape[1:], margin)
    block[:, beyond] = plain_outside(image, margin)[:, None].astype(np.float32)
    return block


def plain_labels(labels, places):
    """Labels at whole voxels, -1 beyond the image."""
    x, y, z = (place.clip(0, n - 1) for place, n in zip(places, labels.shape, strict=True))
    block = labels[x, y, z].astype(np.int16)
    block[is_beyond(places, labels.shape, ((0, 0, 0), (0, 0, 0)))] = -1
    return block


def plain_interpolated(image, coordinates, margin):
    """Torch's interpolation of the whole image, in float64."""
    shape = np.array(image.shape[1:]).reshape(3, 1, 1, 1)
    scaled = coordinates * (2.0 / np.maximum(shape - 1, 1)) - 1.0
    grid = torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, 0, -1)[..., ::-1]))
    block = F.grid_sample(
        torch.from_numpy(image.astype(np.float64))[None],
        grid[None],
        mode="bilinear",
        padding_mode="reflection",
        align_corners=True,
    )[0].numpy()
    beyond = is_beyond(coordinates, image.shape[1:], margin)
    block[:, beyond] = plain_outside(image, margin)[:, None]
    return block


def plain_coordinates(points, moved, middle):
    steps = zip(points.start, points.step, points.count, middle, strict=True)
    grid = plain_mesh([a + s * np.arange(n) - m for a, s, n, m in steps])
    landed = np.tensordot(moved.matrix @ moved.permutation.matrix, grid, 1) + middle.reshape(
        3, 1, 1, 1
    )
    return landed if moved.deformation is None else landed + moved.deformation.at(points)


def plain_cut(case, box, geometry, moved):
    core = geometry.prediction(box)
    middle = np.array(core.start) + (np.array(core.size) - 1) / 2
    change = moved.intensity
    inputs = [
        plain_interpolated(case.channels, plain_coordinates(points, moved, middle), geometry.margin)
        for points in geometry.lattices(box)
    ]
    inputs = [
        (block + change.shift.reshape(-1, 1, 1, 1)) * change.scale.reshape(-1, 1, 1, 1)
        for block in inputs
    ]
    predicted = Lattice(core.start, (1, 1, 1), core.size)
    nearest = np.rint(plain_coordinates(predicted, moved, middle)).astype(int)
    return Segment(tuple(inputs), plain_labels(case.labels, nearest))


# Against them

sizes = st.tuples(*[st.integers(1, 9)] * 3)
lattices = st.builds(
    Lattice,
    start=st.tuples(*[st.integers(-12, 12)] * 3),
    step=st.tuples(*[st.integers(1, 4)] * 3),
    count=st.tuples(*[st.integers(1, 6)] * 3),
)
margins = st.tuples(*[st.tuples(*[st.integers(0, 4)] * 3)] * 2)
turns = st.builds(
    AxisPermutation,
    axes=st.permutations(range(3)).map(tuple),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
halves = st.tuples(*[st.integers(-9, 9)] * 3)


def image_of(size, channels=2):
    return np.random.default_rng(sum(size)).normal(size=(channels, *size)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(size=sizes, points=lattices, margin=margins, permutation=turns, doubled_centre=halves)
def test_a_turned_lattice_is_read_bit_for_bit(size, points, margin, permutation, doubled_centre):
    image = image_of(size)
    result = read(image, points, margin, permutation=permutation, doubled_centre=doubled_centre)
    expected = plain_read(
        image, points, margin, permutation=permutation, doubled_centre=doubled_centre
    )
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)  # the mean of the corners
    inside = ~is_beyond(plain_positions(points, permutation, doubled_centre), size, margin)
    assert np.array_equal(result[:, inside], expected[:, inside])
    assert result.flags.c_contiguous


@settings(max_examples=150, deadline=None)
@given(size=sizes, points=lattices, permutation=turns, doubled_centre=halves)
def test_labels_of_a_turned_lattice_are_equal(size, points, permutation, doubled_centre):
    labels = np.arange(np.prod(size), dtype=np.uint16).reshape(size)
    result = read_labels(labels, points, permutation=permutation, doubled_centre=doubled_centre)
    assert np.array_equal(
        result, plain_labels(labels, plain_positions(points, permutation, doubled_centre))
    )
    assert result.dtype == np.int16


@settings(max_examples=150, deadline=None)
@given(size=sizes, margin=margins, spread=st.sampled_from([0.5, 1.0, 4.0]), seed=st.integers(0, 99))
def test_interpolation_is_torchs_inside_mirrored_and_beyond(size, margin, spread, seed):
    image = image_of(size, channels=3)
    rng = np.random.default_rng(seed)
    middle = (np.array(size).reshape(3, 1, 1, 1) - 1) / 2
    coordinates = middle + rng.uniform(-spread, spread, (3, 4, 5, 6)) * (middle + 1)
    np.testing.assert_allclose(
        interpolated(image, coordinates, margin),
        plain_interpolated(image, coordinates, margin),
        atol=1e-6,
    )
    labels = np.arange(np.prod(size)).reshape(size)
    nearest = np.rint(coordinates).astype(int)
    assert np.array_equal(nearest_labels(labels, coordinates), plain_labels(labels, nearest))


def test_places_are_as_exact_far_from_the_origin_as_near_it():
    image = image_of((2, 700, 3))
    rng = np.random.default_rng(0)
    coordinates = np.stack([rng.uniform(0, n - 1, (3, 20, 5)) for n in (2, 700, 3)])
    np.testing.assert_allclose(
        interpolated(image, coordinates, ((0, 0, 0), (0, 0, 0))),
        plain_interpolated(image, coordinates, ((0, 0, 0), (0, 0, 0))),
        atol=2e-6,
    )


def test_how_many_points_are_interpolated_at_once_changes_no_bit():
    image = image_of((9, 8, 7))
    coordinates = np.random.default_rng(1).uniform(-12, 20, (3, 5, 7, 11))
    whole = interpolated(image, coordinates, ((1, 2, 3), (3, 2, 1)))
    chunked = interpolated(image, coordinates, ((1, 2, 3), (3, 2, 1)), chunk=37)
    assert np.array_equal(chunked, whole)


@pytest.mark.parametrize(
    ("place", "voxel"),
    [
        pytest.param((4, 0, 2), (4, 0, 2), id="the last one"),
        pytest.param((8, 0, 4), (0, 0, 0), id="the first one, mirrored at the last"),
        pytest.param((-4, 0, -1), (4, 0, 1), id="mirrored at the first"),
    ],
)
def test_the_ends_of_an_image_by_hand(place, voxel):
    image = image_of((5, 1, 3))
    result = interpolated(image, np.array(place, float).reshape(3, 1, 1, 1), ((4, 0, 2), (4, 0, 2)))
    np.testing.assert_allclose(result[:, 0, 0, 0], image[(slice(None), *voxel)], atol=1e-6)


SHAPE = (31, 26, 37)
THREE = NetworkGeometry(
    tuple(PathwayGeometry((f, f, f), (8, 8, 8)) for f in (1, 3, 5)),
    fc_shrink=(2, 2, 2),
    alignment="centred",
)
MOVING = {
    "intensity": {"shift": {"mean": 0, "deviation": 0.1}, "scale": {"mean": 1, "deviation": 0.1}},
    "reflect": (0.5, 0.5, 0.5),
    "rotate90": {"xy": (1, 1, 1, 1), "xz": (1, 1, 1, 1)},
    "affine": {"probability": 1},
}


@pytest.mark.parametrize("elastic", [None, {"probability": 1, "grid": 5}])
@pytest.mark.parametrize("seed", range(12))
def test_a_moved_segment_of_three_pathways_is_the_plain_one(seed, elastic):
    rng = np.random.default_rng(seed)
    case = PreparedCase(
        "case",
        rng.normal(size=(2, *SHAPE)).astype(np.float32),
        rng.integers(0, 5, SHAPE).astype(np.uint8),
        None,
        None,
        Geometry(SHAPE, np.diag([1.0, 0.8, 1.5, 1.0])),
    )
    centre = tuple(int(rng.integers(n)) for n in SHAPE)
    box = Box.around(centre, (17, 18, 19))
    moved = random_transform(
        Augmentation.model_validate({**MOVING, "elastic": elastic}),
        channels=2,
        spacing_mm=case.geometry.spacing_mm,
        extent=enclosing_lattice(THREE.lattices(box)),
        rng=rng,
    )
    assert moved != IDENTITY
    result, plain = cut(case, box, THREE, transform=moved), plain_cut(case, box, THREE, moved)
    assert np.array_equal(result.labels, plain.labels)
    for item, expected in zip(result.inputs, plain.inputs, strict=True):
        assert item.dtype == np.float32
        np.testing.assert_allclose(item, expected, atol=1e-5)
