"""Segments: what a network sees, moved or not, against slices of a plain padded image."""

import numpy as np
import pytest

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.augmentation import (
    ElasticDeformation,
    SegmentTransform,
    random_transform,
)
from deepseg.data.segments.intensity_changes import IntensityChange
from deepseg.data.segments.lattice_reading import AxisPermutation
from deepseg.data.segments.segment import cut, enclosing_lattice, inputs
from deepseg.geometry.boxes import Box
from deepseg.geometry.context import Lattice, NetworkGeometry, PathwayGeometry

SHAPE = (40, 44, 48)
GEOMETRY = NetworkGeometry(
    (
        PathwayGeometry((1, 1, 1), (4, 4, 4)),
        PathwayGeometry((3, 3, 3), (4, 4, 4)),
        PathwayGeometry((1, 5, 3), (4, 2, 6)),
    ),
    fc_shrink=(2, 0, 0),
    alignment="centred",
)


def case() -> PreparedCase:
    rng = np.random.default_rng(0)
    return PreparedCase(
        name="case",
        channels=rng.normal(size=(2, *SHAPE)).astype(np.float32),
        labels=rng.integers(0, 4, SHAPE).astype(np.uint8),
        roi=None,
        weights=None,
        geometry=Geometry(SHAPE, np.diag([1.0, 1.0, 2.0, 1.0])),
    )


def test_a_segment_is_centred_with_the_odd_voxel_behind():
    assert Box.around((10, 10, 10), (5, 6, 1)) == Box((8, 8, 10), (5, 6, 1))


def test_inputs_and_labels_are_slices_of_the_image_inside_it():
    prepared = case()
    segment = Box((16, 17, 18), (13, 11, 9))
    result = cut(prepared, segment, GEOMETRY)
    # prediction: (16+2+1, 17+2, 18+2), size (13-6, 11-4, 9-4)
    assert np.array_equal(result.labels, prepared.labels[19:26, 19:26, 20:25])
    assert np.array_equal(result.inputs[0], prepared.channels[:, 16:29, 17:28, 18:27])
    # x3 pathway: the normal core is 9 x 7 x 5 from (18, 19, 20); 3 x 3 x 2 coarse + 4 = 7 x 7 x 6
    # points from core + 1 - 3 * 2
    x3 = prepared.channels[:, 13:34:3, 14:35:3, 15:33:3]
    assert np.array_equal(result.inputs[1], x3)
    # (1, 5, 3): coarse 9 x 2 x 2, + (4, 2, 6); starts 18 - 2, 19 + 2 - 5, 20 + 1 - 9
    assert np.array_equal(result.inputs[2], prepared.channels[:, 16:29, 16:36:5, 12:36:3])


@pytest.mark.parametrize(
    ("turn", "turned"),
    [
        (AxisPermutation(signs=(-1, 1, 1)), lambda a: np.flip(a, -3)),
        (AxisPermutation((0, 2, 1), (1, 1, -1)), lambda a: np.rot90(a, axes=(-2, -1))),
    ],
)
def test_turning_a_segment_turns_the_whole_world_around_it(turn, turned):
    """The same as turning the image first: also the context, whose grid is not symmetric."""
    prepared = case()
    cubes = NetworkGeometry(
        (PathwayGeometry((1, 1, 1), (4, 4, 4)), PathwayGeometry((3, 3, 3), (4, 4, 4))),
        (0, 0, 0),
        "centred",
    )
    square = PreparedCase(
        "square",
        prepared.channels[:, :, 2:42, 2:42].copy(),
        prepared.labels[:, 2:42, 2:42].copy(),
        None,
        None,
        Geometry((40, 40, 40), np.eye(4)),
    )
    whole = PreparedCase(
        "turned",
        np.ascontiguousarray(turned(square.channels)),
        np.ascontiguousarray(turned(square.labels)),
        None,
        None,
        square.geometry,
    )
    # A prediction of 8 voxels around 19.5, the middle of 40 voxels, is turned onto itself.
    segment = Box((14, 14, 14), (12, 12, 12))
    moved = cut(square, segment, cubes, transform=SegmentTransform(permutation=turn))
    still = cut(whole, segment, cubes)
    assert np.array_equal(moved.labels, still.labels)
    for first, second in zip(moved.inputs, still.inputs, strict=True):
        assert np.array_equal(first, second)


def test_the_identity_matrix_interpolates_nothing_away():
    prepared = case()
    segment = Box((2, 17, 30), (13, 11, 9))
    still, moved = (
        cut(prepared, segment, GEOMETRY, transform=m)
        for m in (SegmentTransform(), SegmentTransform(matrix=np.eye(3)))
    )
    assert np.array_equal(moved.labels, still.labels)
    for first, second in zip(moved.inputs, still.inputs, strict=True):
        np.testing.assert_allclose(first, second, atol=2e-4)


def test_a_quarter_turn_as_a_matrix_is_the_quarter_turn():
    prepared = case()
    turn = AxisPermutation((1, 0, 2), (1, -1, 1))
    segment = Box((14, 15, 16), (13, 11, 9))
    exact = cut(prepared, segment, GEOMETRY, transform=SegmentTransform(permutation=turn))
    by_matrix = cut(prepared, segment, GEOMETRY, transform=SegmentTransform(matrix=turn.matrix))
    # The prediction is 7 x 7 x 5: turning it about its middle lands on voxels.
    assert np.array_equal(by_matrix.labels, exact.labels)
    for first, second in zip(by_matrix.inputs, exact.inputs, strict=True):
        np.testing.assert_allclose(first, second, atol=2e-4)


def test_a_constant_displacement_shifts_the_segment():
    prepared = case()
    segment = Box((14, 15, 16), (13, 11, 9))
    control = np.zeros((3, 30, 30, 30))
    control[1] = 2.0
    moved = cut(
        prepared,
        segment,
        GEOMETRY,
        transform=SegmentTransform(deformation=ElasticDeformation((-40.0,) * 3, 5.0, control)),
    )
    shifted = cut(prepared, segment.moved((0, 2, 0)), GEOMETRY)
    assert np.array_equal(moved.labels, shifted.labels)
    for first, second in zip(moved.inputs, shifted.inputs, strict=True):
        np.testing.assert_allclose(first, second, atol=2e-4)


def test_intensities_are_shifted_then_scaled_the_same_in_all_pathways():
    prepared = case()
    segment = Box((14, 15, 16), (13, 11, 9))
    moved = SegmentTransform(
        intensity=IntensityChange(
            shift=np.array([1, -2], np.float32), scale=np.array([3, 0.5], np.float32)
        )
    )
    for plain, changed in zip(
        inputs(prepared, segment, GEOMETRY),
        inputs(prepared, segment, GEOMETRY, transform=moved),
        strict=True,
    ):
        np.testing.assert_allclose(changed[0], (plain[0] + 1) * 3, rtol=1e-6)
        np.testing.assert_allclose(changed[1], (plain[1] - 2) * 0.5, rtol=1e-6)


def test_a_segment_far_outside_is_unknown_and_constant():
    prepared = case()
    result = cut(prepared, Box((-60, 10, 10), (13, 11, 9)), GEOMETRY)
    assert (result.labels == -1).all()
    assert np.ptp(result.inputs[0], axis=(1, 2, 3)).tolist() == [0, 0]


def test_an_image_smaller_than_the_segment_is_mirrored_and_filled():
    small = PreparedCase(
        "small",
        np.ones((1, 3, 20, 1), np.float32),
        np.ones((3, 20, 1), np.uint8),
        None,
        None,
        Geometry((3, 20, 1), np.eye(4)),
    )
    result = cut(small, Box.around((1, 9, 0), (13, 11, 9)), GEOMETRY)
    assert result.inputs[0].shape == (1, 13, 11, 9)
    assert (result.inputs[0] == 1).all()
    assert (result.labels == 1).sum() == 3 * 7 * 1
    assert (result.labels == -1).sum() == result.labels.size - 21


def test_the_reach_covers_all_lattices():
    points = (Lattice((0, -3, 4), (1, 2, 3), (5, 2, 2)), Lattice((-1, 0, 5), (1, 1, 1), (2, 9, 1)))
    assert enclosing_lattice(points) == Lattice((-1, -3, 4), (1, 1, 1), (6, 12, 4))


def test_a_full_augmentation_keeps_shapes_and_repeats_with_its_generator():
    prepared = case()
    segment = Box((14, 15, 16), (13, 11, 9))
    settings = Augmentation.model_validate(
        {
            "intensity": {"shift": {"mean": 0, "deviation": 0.1}},
            "reflect": [0.5, 0.5, 0.5],
            "rotate90": {"xy": [1, 1, 1, 1]},
            "affine": {"probability": 1},
            "elastic": {"probability": 1},
        }
    )

    def drawn(seed):
        moved = random_transform(
            settings,
            channels=2,
            spacing_mm=prepared.geometry.spacing_mm,
            extent=enclosing_lattice(GEOMETRY.lattices(segment)),
            rng=np.random.default_rng(seed),
        )
        return cut(prepared, segment, GEOMETRY, transform=moved)

    first, same, second = drawn(1), drawn(1), drawn(2)
    still = cut(prepared, segment, GEOMETRY)
    for index, block in enumerate(first.inputs):
        assert block.shape == still.inputs[index].shape
        assert np.array_equal(block, same.inputs[index])
        assert not np.array_equal(block, second.inputs[index])
        assert np.isfinite(block).all()


def test_a_single_pathway_reaches_as_far_as_its_own_points():
    points = Lattice((-2, 3, 5), (1, 1, 1), (7, 8, 9))
    assert enclosing_lattice((points,)) == points
