"""Random motions: against hand arithmetic, numpy's flips and turns, and scipy's B-splines."""

from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.augmentation import (
    IDENTITY,
    ElasticDeformation,
    SegmentTransform,
    random_transform,
)
from deepseg.data.segments.lattice_reading import IDENTITY_AXES, AxisPermutation, read
from deepseg.data.segments.segment import cut
from deepseg.geometry.boxes import Box
from deepseg.geometry.context import Lattice, NetworkGeometry, PathwayGeometry

EXTENT = Lattice((-7, 3, 0), (3, 1, 2), (14, 25, 9))
ISOTROPIC = (1.0, 1.0, 1.0)


def drawn(seed=0, spacing_mm=ISOTROPIC, channels=3, extent=EXTENT, **changes):
    return random_transform(
        Augmentation.model_validate(changes),
        channels=channels,
        spacing_mm=spacing_mm,
        extent=extent,
        rng=np.random.default_rng(seed),
    )


def test_what_is_left_out_is_off():
    assert drawn() == IDENTITY == SegmentTransform()
    assert not IDENTITY.interpolates
    off = {name: {"probability": 0} for name in ("affine", "elastic", "gamma", "noise")}
    off |= {"rotate90": {}, "low_resolution": {"probability": 0}}
    assert drawn(**off) == IDENTITY


EVERYTHING = {
    "intensity": {
        "shift": {"mean": 0, "deviation": 1},
        "scale": {"mean": 1, "deviation": 1},
    },
    "gamma": {"probability": 1},
    "low_resolution": {"probability": 1},
    "noise": {"probability": 1},
    "reflect": (0.5, 0.5, 0.5),
    "rotate90": {"xy": (1, 1, 1, 1)},
    "affine": {"probability": 1},
    "elastic": {"probability": 1},
}


def test_the_same_generator_gives_the_same_motion():
    first, same, second = (drawn(seed, **EVERYTHING) for seed in (5, 5, 6))
    assert first.permutation == same.permutation
    for name in ("matrix", "intensity.shift", "intensity.scale", "intensity.gamma"):
        value = attrgetter(name)
        assert np.array_equal(value(first), value(same))
        assert not np.array_equal(value(first), value(second))
    assert np.array_equal(first.deformation.control, same.deformation.control)
    assert not np.array_equal(first.deformation.control, second.deformation.control)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"reflect": (1, 1, 1), "rotate90": {"xy": (0, 1, 0, 0)}}, False, id="turns"),
        pytest.param({"affine": {"probability": 1}}, True, id="affine"),
        pytest.param({"elastic": {"probability": 1}}, True, id="elastic"),
    ],
)
def test_only_turns_put_every_point_on_a_voxel(changes, expected):
    assert drawn(**changes).interpolates is expected


@pytest.mark.parametrize("kind", ["affine", "elastic"])
def test_the_probability_is_the_share_of_segments(kind):
    result = [drawn(seed, **{kind: {"probability": 0.3}}).interpolates for seed in range(1000)]
    assert np.mean(result) == pytest.approx(0.3, abs=0.05)


# Intensity


def test_without_deviation_every_channel_has_the_mean():
    result = drawn(
        channels=2,
        intensity={"shift": {"mean": 0.25, "deviation": 0}, "scale": {"mean": 3, "deviation": 0}},
    )
    assert result.intensity.shift.tolist() == [0.25, 0.25]
    assert result.intensity.scale.tolist() == [3, 3]


def test_shift_and_scale_are_drawn_for_each_channel():
    settings_ = {
        "shift": {"mean": 2, "deviation": 0.5},
        "scale": {"mean": 1, "deviation": 0.125},
    }
    result = [drawn(seed, channels=2, intensity=settings_) for seed in range(2000)]
    for values, mean, deviation in (
        (np.array([item.intensity.shift for item in result]), 2, 0.5),
        (np.array([item.intensity.scale for item in result]), 1, 0.125),
    ):
        assert values.dtype == np.float32
        assert values.mean(0) == pytest.approx([mean] * 2, abs=0.1 * deviation)
        assert values.std(0) == pytest.approx([deviation] * 2, rel=0.1)
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.1


# Mirror images and quarter turns

CUBE = np.random.default_rng(1).normal(size=(1, 5, 5, 5)).astype(np.float32)
POINTS = Lattice((0, 0, 0), (1, 1, 1), (5, 5, 5))
NO_MARGIN = ((0, 0, 0), (0, 0, 0))


def seen(turn):
    """What a segment of the whole cube reads."""
    return read(CUBE, POINTS, NO_MARGIN, permutation=turn, doubled_centre=(4, 4, 4))[0]


def test_reflections_happen_along_each_axis_with_its_own_probability():
    turns = [drawn(seed, reflect=(0.2, 0.0, 0.7)).permutation for seed in range(1000)]
    share = (np.array([turn.signs for turn in turns]) < 0).mean(0)
    assert share == pytest.approx([0.2, 0, 0.7], abs=0.05)
    assert {turn.axes for turn in turns} == {(0, 1, 2)}


def test_a_certain_reflection_is_numpys_flip():
    turn = drawn(reflect=(1, 0, 1)).permutation
    assert turn == AxisPermutation(signs=(-1, 1, -1))
    assert np.array_equal(seen(turn), np.flip(CUBE[0], (0, 2)))


PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}


@pytest.mark.parametrize("times", range(4))
@pytest.mark.parametrize("plane", PLANES)
def test_a_certain_turn_is_numpys_from_the_first_towards_the_second_axis(plane, times):
    weights = [0.0] * 4
    weights[times] = 2
    turn = drawn(rotate90={plane: weights}).permutation
    assert np.array_equal(seen(turn), np.rot90(CUBE[0], times, PLANES[plane]))


@pytest.mark.parametrize("planes", [("xy",), ("xy", "yz"), ("xy", "xz"), ("yz", "xz")])
def test_mirror_images_come_first_and_the_planes_follow_in_their_order(planes):
    turn = drawn(reflect=(1, 0, 0), rotate90=dict.fromkeys(planes, (0, 1, 0, 0))).permutation
    expected = np.flip(CUBE[0], 0)
    for plane in planes:
        expected = np.rot90(expected, 1, PLANES[plane])
    assert np.array_equal(seen(turn), expected)


def test_turns_happen_as_often_as_their_weights_say():
    turns = [drawn(seed, rotate90={"xy": (4, 3, 2, 1)}).permutation for seed in range(1000)]
    quarters = [
        AxisPermutation(),
        AxisPermutation((1, 0, 2), (1, -1, 1)),
        AxisPermutation(signs=(-1, -1, 1)),
    ]
    share = [np.mean([turn == quarter for turn in turns]) for quarter in quarters]
    assert share == pytest.approx([0.4, 0.3, 0.2], abs=0.05)


def test_a_plane_whose_weights_are_all_0_is_left_out():
    assert drawn(rotate90={"xy": (0, 0, 0, 0), "yz": (0, 0, 0, 0)}).permutation == IDENTITY_AXES


# Rotation and scaling


class Drawn:
    """A generator that gives these angles (degrees about X, Y, Z) and this scale."""

    def __init__(self, angles, scale=1.0):
        self.values = [*angles, scale]

    def random(self, size=None):
        return 0.0 if size is None else np.ones(size)

    def uniform(self, low, high):
        assert low <= self.values[0] <= high
        return self.values.pop(0)


def affine(angles, scale=1.0, spacing_mm=ISOTROPIC):
    settings_ = Augmentation.model_validate(
        {"affine": {"probability": 1, "max_rotation": (180, 180, 180), "max_scaling": 0.5}}
    )
    return random_transform(
        settings_, channels=1, spacing_mm=spacing_mm, extent=EXTENT, rng=Drawn(angles, scale)
    )


X, Y, Z = np.eye(3)


@pytest.mark.parametrize(
    ("angles", "turned"),
    [
        pytest.param((90, 0, 0), (X, Z, -Y), id="about X, from Y towards Z"),
        pytest.param((0, 90, 0), (-Z, Y, X), id="about Y, from Z towards X"),
        pytest.param((0, 0, 90), (Y, -X, Z), id="about Z, from X towards Y"),
        pytest.param((90, 90, 0), (-Z, X, -Y), id="X before Y"),
        pytest.param((0, 90, 90), (-Z, -X, Y), id="Y before Z"),
    ],
)
def test_right_angles_by_hand(angles, turned):
    """Where the steps along X, Y and Z of a segment lead in the image."""
    np.testing.assert_allclose(affine(angles).matrix, np.stack(turned, 1), atol=1e-15)


def test_an_angle_of_30_degrees_by_hand():
    expected = [[3**0.5 / 2, -1 / 2, 0], [1 / 2, 3**0.5 / 2, 0], [0, 0, 1]]
    np.testing.assert_allclose(affine((0, 0, 30)).matrix, expected, atol=1e-15)


def test_scaling_is_the_same_along_all_axes_whatever_the_spacing():
    np.testing.assert_allclose(
        affine((0, 0, 0), 1.25, spacing_mm=(0.5, 1, 3)).matrix, 1.25 * np.eye(3)
    )


def test_a_quarter_turn_of_anisotropic_voxels_is_one_in_millimetres():
    # voxels of 1 x 2 x 4 mm: 1 voxel along X is half a voxel along Y; 1 along Y are 2 along X
    result = affine((0, 0, 90), spacing_mm=(1, 2, 4)).matrix
    np.testing.assert_allclose(result, np.stack([Y / 2, -2 * X, Z], 1), atol=1e-15)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_a_random_rotation_keeps_distances_in_millimetres_but_for_its_scale(seed):
    spacing = np.array([0.7, 1.0, 2.5])
    matrix = drawn(
        seed, spacing_mm=tuple(spacing), affine={"probability": 1, "max_scaling": 0.2}
    ).matrix
    in_mm = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
    scale = np.linalg.det(in_mm) ** (1 / 3)
    assert 0.8 <= scale <= 1.2
    np.testing.assert_allclose(in_mm @ in_mm.T, scale**2 * np.eye(3), atol=1e-12)


@pytest.mark.parametrize(("axis", "limits"), [(0, (50, 0, 0)), (1, (0, 50, 0)), (2, (0, 0, 50))])
def test_every_axis_has_its_own_largest_angle(axis, limits):
    settings_ = {"probability": 1, "max_rotation": limits, "max_scaling": 0}
    first, second = (axis + 1) % 3, (axis + 2) % 3
    angles = []
    for seed in range(300):
        matrix = drawn(seed, affine=settings_).matrix
        assert matrix[axis, axis] == 1
        angles.append(np.rad2deg(np.arctan2(matrix[second, first], matrix[first, first])))
    assert -50 <= min(angles) < -45
    assert 45 < max(angles) <= 50
    assert np.std(angles) == pytest.approx(50 / 3**0.5, rel=0.1)


def whole_case(labels):
    return PreparedCase(
        name="case",
        channels=labels[None].astype(np.float32),
        labels=labels,
        roi=None,
        weights=None,
        geometry=Geometry(labels.shape, np.eye(4)),
    )


def moved_labels(labels, moved):
    geometry = NetworkGeometry((PathwayGeometry((1, 1, 1), (0, 0, 0)),), (0, 0, 0), "centred")
    return cut(whole_case(labels), Box((0, 0, 0), labels.shape), geometry, transform=moved).labels


@pytest.mark.parametrize(
    ("angles", "place"),
    [
        # o is where the matrix leads from o to (6, 0, 0), the voxel's offset from the middle
        pytest.param((0, 0, 90), (10, 4, 10), id="about Z: o = (0, -6, 0)"),
        pytest.param((0, 90, 0), (10, 10, 16), id="about Y: o = (0, 0, 6)"),
        pytest.param((90, 0, 0), (16, 10, 10), id="about X: o = (6, 0, 0)"),
        pytest.param((0, 0, 180), (4, 10, 10), id="about Z by 180: o = (-6, 0, 0)"),
    ],
)
def test_a_voxel_off_the_middle_is_found_where_the_rotation_puts_it(angles, place):
    labels = np.zeros((21, 21, 21), np.int16)
    labels[16, 10, 10] = 1
    labels[10, 10, 10] = 2
    result = moved_labels(labels, affine(angles))
    assert np.argwhere(result == 1).tolist() == [list(place)]
    assert np.argwhere(result == 2).tolist() == [[10, 10, 10]]  # the middle stays


@pytest.mark.parametrize(
    ("scale", "side"),
    [
        pytest.param(0.8, 13, id="smaller steps enlarge: 0.8 * 6 is nearest to 5"),
        pytest.param(1.2, 9, id="larger steps shrink: 1.2 * 4 is nearest to 5"),
    ],
)
def test_a_cube_of_11_voxels_is_scaled_about_its_middle(scale, side):
    labels = np.zeros((21, 21, 21), np.int16)
    labels[5:16, 5:16, 5:16] = 1
    result = moved_labels(labels, affine((0, 0, 0), scale))
    first = 10 - side // 2
    expected = np.zeros_like(labels)
    expected[(slice(first, first + side),) * 3] = 1
    assert np.array_equal(result == 1, expected == 1)


# Smooth displacements


def controls(shape=(6, 7, 5), seed=2):
    return np.random.default_rng(seed).normal(size=(3, *shape))


def test_displacements_are_a_uniform_cubic_b_spline():
    bumps = ElasticDeformation((-4.0, 1.0, 0.0), 4.0, controls())
    points = Lattice((0, 5, 4), (1, 3, 2), (12, 5, 4))
    basis = BSpline.basis_element(np.arange(5.0))  # its middle is at 2

    def weights(axis):
        at = points.start[axis] + points.step[axis] * np.arange(points.count[axis])
        distance = (at - bumps.start[axis])[:, None] / 4 - np.arange(bumps.control.shape[1 + axis])
        return np.where(np.abs(distance) < 2, basis(distance + 2), 0)

    expected = np.einsum("xi,yj,zk,cijk->cxyz", *map(weights, range(3)), bumps.control)
    np.testing.assert_allclose(bumps.at(points), expected, atol=1e-12)


def test_the_displacement_is_a_function_of_place_only():
    bumps = ElasticDeformation((-4.0, 1.0, 0.0), 4.0, controls())
    coarse = bumps.at(Lattice((1, 6, 4), (3, 2, 1), (3, 4, 5)))
    fine = bumps.at(Lattice((0, 5, 4), (1, 1, 1), (12, 12, 5)))
    np.testing.assert_allclose(coarse, fine[:, 1:10:3, 1:9:2], atol=1e-12)


extents = st.builds(
    Lattice,
    start=st.tuples(*[st.integers(-20, 20)] * 3),
    step=st.tuples(*[st.integers(1, 5)] * 3),
    count=st.tuples(*[st.integers(1, 9)] * 3),
)


@settings(max_examples=60, deadline=None)
@given(extent=extents, grid=st.floats(0.75, 15))
def test_everything_in_reach_lies_between_control_points(extent, grid):
    """There, the weights of the control points sum to 1 and reproduce their places."""
    bumps = drawn(extent=extent, elastic={"probability": 1, "grid": grid}).deformation
    shape = bumps.control.shape[1:]
    places = np.stack(
        np.meshgrid(
            *(first + grid * np.arange(n) for first, n in zip(bumps.start, shape, strict=True)),
            indexing="ij",
        )
    )
    result = ElasticDeformation(bumps.start, bumps.step, places).at(extent)
    expected = [
        a + s * index
        for a, s, index in zip(extent.start, extent.step, np.indices(extent.count), strict=True)
    ]
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_control_points_are_displaced_by_the_deviation_asked_for():
    bumps = drawn(elastic={"probability": 1, "grid": 2.5, "displacement": 0.5}).deformation
    assert bumps.step == 2.5
    assert bumps.start == (-9.5, 0.5, -2.5)
    # reaches of 39, 24 and 16 voxels: 15, 9 and 6 whole steps, and 4 points more
    assert bumps.control.shape == (3, 19, 13, 10)
    assert bumps.control.std() == pytest.approx(0.5, rel=0.05)
    assert bumps.control.mean() == pytest.approx(0, abs=0.02)
