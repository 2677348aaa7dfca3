"""Graphs that prepare a case and bring its probabilities back, against deepseg's own arrays."""

from __future__ import annotations

import numpy as np
import pytest

from deepseg.config.cases import Preparation, ZScore
from deepseg.data.images.resampling import resample, resampled_geometry
from deepseg.data.images.volumes import Geometry
from deepseg.data.intensity import z_score
from deepseg.exports.image_box import image_box
from deepseg.exports.on_device.segments import voxels_at
from deepseg.exports.preparation_graph import finishing_bytes, preparation_bytes
from deepseg.exports.verification import inference_session
from tests.networks import small_network

SHAPE, SIDES = (9, 8, 7), (1.0, 2.0, 1.5)
GEOMETRY = Geometry(SHAPE, np.diag([*SIDES, 1.0]))


def arrays(seed: int = 0):
    rng = np.random.default_rng(seed)
    image = rng.gamma(2.0, 100.0, size=(2, *SHAPE)).astype(np.float32)
    return image, rng.random(SHAPE) < 0.6


def prepared(preparation: Preparation, image, roi, **changes):
    """Results of the graph, and the voxels before the image and after it in the first."""
    network = small_network(**changes)
    box = image_box(network.layout, network.geometry)
    content = preparation_bytes(preparation, ("T1", "FLAIR"), box, network.geometry)
    feeds = {"image": image, "roi": roi, "spacing_mm": np.array(SIDES)}
    array, shape = inference_session(content).run(None, feeds)
    return array, tuple(shape), network, box


def inner(array, shape, box):
    low, _ = box.context
    return array[(slice(None), *(slice(a, a + n) for a, n in zip(low, shape, strict=True)))]


@pytest.mark.parametrize(
    "rule",
    [
        ZScore(),
        ZScore(cutoff_percentiles=(5, 90), above_mean=True),
        ZScore(cutoff_deviations=(1.0, 0.5)),
        ZScore(cutoff_deviations=(1e-9, 1e-9)),  # leaves no voxel: all count
    ],
)
@pytest.mark.parametrize("is_empty", [False, True])
def test_z_scores_are_those_of_deepseg(rule, is_empty):
    image, roi = arrays()
    roi &= not is_empty
    array, shape, _, box = prepared(Preparation(z_score=rule), image, roi)
    assert shape == SHAPE
    for channel, values in zip(inner(array, shape, box), image, strict=True):
        np.testing.assert_allclose(channel, z_score(values, roi, rule), atol=1e-6)


def test_a_constant_channel_is_0_and_others_are_left_as_they_are():
    image, roi = arrays()
    image[0, roi] = 7
    array, shape, _, box = prepared(Preparation(z_score=ZScore(channels=("T1",))), image, roi)
    result = inner(array, shape, box)
    assert not result[0].any()
    np.testing.assert_array_equal(result[1], image[1])


def test_intensities_are_cut_off_before():
    image, roi = arrays()
    array, shape, _, box = prepared(Preparation(z_score="none", clip=(50, 200)), image, roi)
    np.testing.assert_array_equal(inner(array, shape, box), image.clip(50, 200))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"subsampled": {"factors": [[3, 2, 4]]}}, id="a mean of corners far out"),
        pytest.param({"subsampled": None}, id="mirrored voxels alone"),
    ],
)
def test_around_the_image_lies_what_segments_read_there(changes):
    image, roi = arrays()
    preparation = Preparation(z_score="none")
    array, _, network, box = prepared(preparation, image, roi, **changes)
    low, _ = box.context
    places = [np.arange(n) - a for n, a in zip(array.shape[1:], low, strict=True)]
    expected = voxels_at(image, places, network.geometry.mirrored)
    np.testing.assert_allclose(array, expected, rtol=1e-6)


@pytest.mark.parametrize("sides", [(1.3, 0.9, 1.9), (0.4, 7.0, 2.3), (1.0, 2.0, 1.5)])
def test_images_and_probabilities_are_resampled_as_by_deepseg(sides):
    image, roi = arrays()
    target = resampled_geometry(GEOMETRY, sides)
    preparation = Preparation(z_score="none", resample=sides)
    array, shape, _, box = prepared(preparation, image, roi)
    assert shape == target.shape
    expected = resample(image, GEOMETRY, target, order=1)
    np.testing.assert_allclose(inner(array, shape, box), expected, rtol=1e-5)

    rng = np.random.default_rng(1)
    probabilities = rng.random((3, *target.shape)).astype(np.float32)
    session = inference_session(finishing_bytes(preparation))
    feeds = {"probabilities": probabilities, "roi": roi, "spacing_mm": np.array(SIDES)}
    (labels,) = session.run(None, feeds)
    back = resample(probabilities, target, GEOMETRY, order=1).argmax(0)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, back * roi)


def test_z_scores_follow_from_the_resampled_region():
    image, roi = arrays()
    target = resampled_geometry(GEOMETRY, (1.3, 0.9, 1.9))
    preparation = Preparation(resample=(1.3, 0.9, 1.9))
    array, shape, _, box = prepared(preparation, image, roi)
    region = resample(roi, GEOMETRY, target, order=0)
    images = resample(image, GEOMETRY, target, order=1)
    for channel, values in zip(inner(array, shape, box), images, strict=True):
        np.testing.assert_allclose(channel, z_score(values, region, ZScore()), atol=1e-5)
