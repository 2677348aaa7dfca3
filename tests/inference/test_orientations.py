"""All 48 orders and directions of axes: the same voxels, the same results."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from deepseg.config.cases import Preparation
from deepseg.data.images.orientation import Reorientation
from deepseg.data.images.volumes import Geometry
from deepseg.inference.predictor import Predictor
from deepseg.model.checkpoint import Checkpoint
from tests.networks import trained_network

SHAPE = (13, 11, 12)
AFFINE = np.array([[1.5, 0.1, 0, -4], [0, 2.0, 0, 5], [0.1, 0, 1.0, 6], [0, 0, 0, 1]])
ORIENTATIONS = [
    "".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)
]


def turned(image, orientation):
    """By nibabel."""
    return image.as_reoriented(
        ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(orientation)))
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_arrays_and_places_are_those_of_nibabel_and_the_way_back_is_exact(orientation):
    array = np.random.default_rng(0).normal(size=SHAPE)
    expected = turned(nibabel.Nifti1Image(array, AFFINE), orientation)
    change = Reorientation.between("RAS", orientation)
    assert np.array_equal(change.array(array), expected.get_fdata())
    assert np.array_equal(change.inverse.array(change.array(array)), array)
    geometry = change.geometry(Geometry(SHAPE, AFFINE))
    np.testing.assert_allclose(geometry.affine, expected.affine, atol=1e-12)
    assert (geometry.shape, geometry.orientation) == (expected.shape, orientation)


def test_results_are_those_of_the_models_orientation_voxel_by_voxel():
    network = trained_network(3)
    models = [
        Checkpoint(network.config, network.state_dict(), Preparation(orientation=letters))
        for letters in ("RAS", "PIR")
    ]
    rng = np.random.default_rng(1)
    images = [nibabel.Nifti1Image(rng.normal(size=SHAPE), AFFINE) for _ in range(2)]
    for members in (models[:1], models):
        predictor = Predictor(members, {"mirror": ["x"]}, device="cpu")
        straight = predictor.segment(images, probabilities=True)
        assert len(np.unique(straight.labels)) > 1
        for orientation in ORIENTATIONS:
            result = predictor.segment(
                [turned(image, orientation) for image in images], probabilities=True
            )
            change = Reorientation.between("RAS", orientation)
            assert np.array_equal(result.labels, change.array(straight.labels))
            for name, values in straight.probabilities.items():
                assert np.array_equal(result.probabilities[name], change.array(values))
