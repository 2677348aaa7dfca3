"""Reading lattices of voxels: against numpy's own padding, flips, turns and slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from deepseg.data.segments.lattice_reading import (
    AxisPermutation,
    interpolated,
    mirrored,
    nearest_labels,
    outside_values,
    read,
    read_labels,
)
from deepseg.geometry.context import Lattice

IMAGE = np.random.default_rng(1).normal(size=(2, 7, 11, 5)).astype(np.float32)
NO_MARGIN = ((0, 0, 0), (0, 0, 0))


def test_mirroring_by_hand():
    positions = np.arange(-2, 7)
    assert mirrored(positions, 5).tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert mirrored(positions, 1).tolist() == [0] * 9


@given(size=st.integers(1, 6), low=st.integers(0, 14), high=st.integers(0, 14))
def test_mirroring_is_numpys_reflect_however_far(size, low, high):
    expected = np.pad(np.arange(size), (low, high), "reflect")
    assert mirrored(np.arange(-low, size + high), size).tolist() == expected.tolist()


starts = st.tuples(*[st.integers(-9, 9)] * 3)
steps = st.tuples(*[st.integers(1, 4)] * 3)
counts = st.tuples(*[st.integers(1, 6)] * 3)
margins = st.tuples(*[st.tuples(*[st.integers(0, 4)] * 3)] * 2)


@settings(max_examples=60, deadline=None)
@given(start=starts, step=steps, count=counts, margin=margins)
def test_a_lattice_reads_the_reflected_image_and_the_corner_mean_beyond(start, step, count, margin):
    padded = np.pad(IMAGE, [(0, 0), *zip(*margin, strict=True)], "reflect")
    ends = np.ix_([0, 1], *[[0, -1]] * 3)
    outside = padded[ends].reshape(2, 8).mean(1)
    far = 60
    endless = np.stack(
        [
            np.pad(item, [(far, far)] * 3, constant_values=value)
            for item, value in zip(padded, outside, strict=True)
        ]
    )
    x, y, z = (
        slice(far + low + a, far + low + a + s * n, s)
        for low, a, s, n in zip(margin[0], start, step, count, strict=True)
    )
    np.testing.assert_allclose(
        read(IMAGE, Lattice(start, step, count), margin), endless[:, x, y, z], atol=1e-6
    )


def test_the_value_outside_is_the_mean_of_the_eight_corners():
    assert np.allclose(
        outside_values(IMAGE, NO_MARGIN), IMAGE[:, ::6, ::10, ::4].reshape(2, 8).mean(1)
    )


@pytest.mark.parametrize(
    ("turn", "turned"),
    [
        pytest.param(AxisPermutation(signs=(-1, 1, 1)), lambda a: a[:, ::-1], id="mirror X"),
        pytest.param(
            AxisPermutation(signs=(1, -1, -1)), lambda a: a[:, :, ::-1, ::-1], id="mirror Y and Z"
        ),
        pytest.param(
            AxisPermutation((1, 0, 2), (1, -1, 1)),
            lambda a: np.rot90(a, axes=(1, 2)),
            id="quarter turn in XY",
        ),
        pytest.param(
            AxisPermutation((0, 2, 1), (1, 1, -1)),
            lambda a: np.rot90(a, axes=(2, 3)),
            id="quarter turn in YZ",
        ),
    ],
)
def test_turning_the_lattice_turns_the_block(turn, turned):
    image = np.random.default_rng(2).normal(size=(2, 12, 13, 14)).astype(np.float32)
    points = Lattice((3, 4, 5), (1, 1, 1), (5, 5, 5))
    doubled_centre = (2 * 3 + 4, 2 * 4 + 4, 2 * 5 + 4)
    expected = turned(image[:, 3:8, 4:9, 5:10])
    assert np.array_equal(
        read(image, points, NO_MARGIN, permutation=turn, doubled_centre=doubled_centre), expected
    )
    labels = (image[0] * 10).astype(np.int16)
    result = read_labels(labels, points, permutation=turn, doubled_centre=doubled_centre)
    assert np.array_equal(result, turned(labels[None, 3:8, 4:9, 5:10])[0])


def test_a_quarter_turn_keeps_the_shape_of_an_oblong_block():
    points = Lattice((3, 4, 1), (1, 1, 1), (3, 5, 2))
    block = read(
        IMAGE,
        points,
        NO_MARGIN,
        permutation=AxisPermutation((1, 0, 2), (1, -1, 1)),
        doubled_centre=(8, 12, 3),
    )
    assert block.shape == (2, 3, 5, 2)
    assert block[0, 1, 2, 0] == IMAGE[0, 4, 6, 1]  # the middle stays
    assert block[0, 2, 2, 0] == IMAGE[0, 4, 5, 1]  # one along X comes from one back along Y


@given(
    one=st.permutations(range(3)),
    other=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 6),
)
def test_turns_combine_as_their_matrices_do(one, other, signs):
    first, then = AxisPermutation(tuple(one), signs[:3]), AxisPermutation(tuple(other), signs[3:])
    assert np.array_equal(first.then(then).matrix, then.matrix @ first.matrix)


def test_labels_beyond_the_image_are_unknown():
    labels = np.arange(24).reshape(2, 3, 4)
    result = read_labels(labels, Lattice((-1, 1, 2), (1, 1, 1), (3, 3, 1)))
    assert result[..., 0].tolist() == [[-1, -1, -1], [6, 10, -1], [18, 22, -1]]


def test_interpolation_agrees_with_scipy_inside_the_image():
    rng = np.random.default_rng(4)
    coordinates = np.stack([rng.uniform(0, n - 1, (3, 4, 2)) for n in IMAGE.shape[1:]])
    expected = [map_coordinates(item, coordinates, order=1) for item in IMAGE]
    np.testing.assert_allclose(interpolated(IMAGE, coordinates, NO_MARGIN), expected, atol=2e-6)


def test_interpolation_at_whole_voxels_is_reading():
    margin = ((2, 3, 1), (1, 2, 2))
    points = Lattice((-4, -5, -3), (2, 3, 1), (7, 6, 11))
    coordinates = np.stack(
        np.meshgrid(
            *(
                a + s * np.arange(n)
                for a, s, n in zip(points.start, points.step, points.count, strict=True)
            ),
            indexing="ij",
        )
    ).astype(float)
    np.testing.assert_allclose(
        interpolated(IMAGE, coordinates, margin), read(IMAGE, points, margin), atol=1e-6
    )


def test_labels_are_taken_from_the_nearest_voxel():
    labels = np.arange(24).reshape(2, 3, 4)
    points = np.array([[0.4, 1.6, 2.9], [1.4, 0.2, 0.0], [1.6, 0.0, 0.0], [-0.6, 0.0, 0.0]])
    assert nearest_labels(labels, points.T).tolist() == [11, 12, -1, -1]
