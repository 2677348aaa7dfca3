"""Whole cases by tiles: against one pass over the whole image, and against each tile alone."""

import numpy as np
import pytest
import torch

from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.segment import inputs
from deepseg.geometry.boxes import Box
from deepseg.inference.out_of_memory import EXHAUSTED, SplitOnOutOfMemory
from deepseg.inference.tilewise import predict, tiles_to_compute
from tests.networks import trained_network

SHAPE = (19, 23, 17)


def case(roi=None, shape=SHAPE) -> PreparedCase:
    channels = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    return PreparedCase(
        "case", channels, None, None, None, Geometry(shape, np.eye(4)), to_compute=roi
    )


def probabilities(own, ready, **choices):
    settings = {"tile": (11, 12, 13), "batch_size": 3, **choices}
    return predict(own, ready, **settings).probabilities


def test_one_pathway_gives_the_same_for_any_tiles():
    network, ready = trained_network(subsampled=None), case()
    image = torch.from_numpy(np.pad(ready.channels, [(0, 0), (2, 2), (2, 2), (2, 2)], "reflect"))
    with torch.inference_mode():
        whole = network([image[None]]).softmax(1)[0].numpy()
    for tile in ((11, 12, 13), (5, 50, 7), (99, 99, 99)):
        np.testing.assert_allclose(probabilities(network, ready, tile=tile), whole, atol=1e-6)


def test_every_tile_has_its_own_context_and_the_later_one_counts():
    network, ready = trained_network(), case()
    result = probabilities(network, ready)
    # tiles of 11 x 12 x 13 predict 7 x 8 x 9; the last one along X begins at 23 - 11 - 2 = 10
    last = Box((10, 13, 6), (11, 12, 13))
    with torch.inference_mode():
        tensors = [torch.from_numpy(x)[None] for x in inputs(ready, last, network.geometry)]
        expected = network(tensors).softmax(1)[0].numpy()
    np.testing.assert_allclose(result[:, 12:19, 15:23, 8:17], expected, atol=1e-6)


def test_tiles_in_phase_with_the_context_agree_with_one_large_tile():
    network, ready = trained_network(), case()
    whole = probabilities(network, ready, tile=(99, 99, 99))
    in_phase = probabilities(network, ready, tile=(10, 13, 13))  # predictions of 6, 9 and 9 voxels
    # The last tile of an axis is flush with its end, from 13, 14 and 8 on, and out of phase.
    np.testing.assert_allclose(in_phase[:, :13, :14, :8], whole[:, :13, :14, :8], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_memory_that_runs_out_is_enough_for_halves(batch_size, monkeypatch):
    """Of tiles in phase with the context, so that halves are; feature maps with them."""
    network, ready = trained_network(), case()
    choices = {
        "tile": (16, 16, 16),
        "batch_size": batch_size,
        "feature_maps": {"normal.1": slice(0, 2), "sub1.2": slice(1, 2), "fc.1": slice(0, 3)},
    }
    whole = predict(network, ready, **choices)
    forward, sizes, lines = network.forward, [], []

    def limited(images):
        if images[0].numel() > 2 * 10 * 16 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(tuple(images[0].shape[2:]))
        return forward(images)

    monkeypatch.setattr(network, "forward", limited)
    halves = predict(
        network, ready, splitter=SplitOnOutOfMemory(lines.append, smallest_edge=4), **choices
    )
    assert lines == [EXHAUSTED]
    assert max(n for size in sizes for n in size) == 16
    np.testing.assert_allclose(halves.probabilities, whole.probabilities, atol=1e-6)
    for address, maps in whole.feature_maps.items():
        np.testing.assert_allclose(halves.feature_maps[address], maps, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_the_batch_size_changes_nothing(batch_size):
    network, ready = trained_network(), case()
    np.testing.assert_allclose(
        probabilities(network, ready, batch_size=batch_size),
        probabilities(network, ready),
        atol=1e-6,
    )


def test_probabilities_sum_to_one_everywhere():
    np.testing.assert_allclose(probabilities(trained_network(), case()).sum(0), 1, atol=1e-6)


def test_only_tiles_with_voxels_of_the_region_of_interest_are_computed():
    roi = np.zeros(SHAPE, bool)
    roi[18, 22, 16] = True
    network = trained_network()
    done = []
    result = probabilities(network, case(roi), on_tiles=done.append)
    todo = tiles_to_compute(network, case(roi), (11, 12, 13), with_feature_maps=False)
    assert sum(done) == len(todo) == 1
    assert (result[:, :10] == 0).all()
    whole = probabilities(network, case())
    np.testing.assert_allclose(result[:, 18, 22, 16], whole[:, 18, 22, 16], atol=1e-6)


def test_an_image_smaller_than_the_receptive_field_is_predicted_whole():
    network = trained_network(normal={"feature_maps": [3, 4], "kernels": 5})
    result = probabilities(network, case(shape=(3, 20, 1)))
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-6)


def test_feature_maps_are_convolution_outputs_at_full_resolution():
    network, ready = trained_network(), case()
    target = {"normal.1": slice(1, 3), "sub1.2": slice(None), "fc.2": slice(None)}
    result = predict(
        network, ready, tile=(99, 99, 99), batch_size=1, feature_maps=target
    ).feature_maps
    assert {address: maps.shape for address, maps in result.items()} == {
        "normal.1": (2, *SHAPE), "sub1.2": (4, *SHAPE), "fc.2": (3, *SHAPE),
    }  # fmt: skip
    segment = Box((-2, -2, -2), tuple(n + 4 for n in SHAPE))
    normal, coarse = (torch.from_numpy(x)[None] for x in inputs(ready, segment, network.geometry))
    with torch.inference_mode():
        first = network.normal.get_submodule("1")(normal)[0, 1:3, 1:-1, 1:-1, 1:-1]
        second = network.sub1(coarse)[0].repeat_interleave(3, 1).repeat_interleave(3, 2)
        second = second.repeat_interleave(3, 3)[:, : SHAPE[0], : SHAPE[1], : SHAPE[2]]
        logits = network([normal, coarse])[0] - network.fc.get_submodule("2").bias.view(3, 1, 1, 1)
    for address, expected in {"normal.1": first, "sub1.2": second, "fc.2": logits}.items():
        np.testing.assert_allclose(result[address], expected, atol=1e-5)


def test_feature_maps_are_computed_for_every_tile_that_sees_the_region_of_interest():
    roi = np.zeros(SHAPE, bool)
    roi[3, 3, 3] = True
    choices = {"tile": (11, 12, 13), "batch_size": 3, "feature_maps": {"normal.2": slice(0, 1)}}
    network = trained_network()
    result = predict(network, case(roi), **choices).feature_maps["normal.2"]
    whole = predict(network, case(), **choices).feature_maps["normal.2"]
    # Tiles begin at -2, 5 and 10 along X, at -2, 6 and 13 along Y, at -2 and 6 along Z: only the
    # first of each axis sees voxel 3; it predicts 7 x 8 x 9 voxels.
    np.testing.assert_allclose(result[:, :7, :8, :8], whole[:, :7, :8, :8], atol=1e-5)
    assert (result[:, 7:] == 0).all()
    assert (result[:, :, 8:] == 0).all()


def test_a_mirrored_voxel_of_the_region_of_interest_is_seen():
    roi = np.zeros(SHAPE, bool)
    roi[1, 22, 0] = True  # beyond the image it stands at (-1, 22, 0) too
    network = trained_network()
    expected = {"normal.1": slice(0, 1)}
    result = predict(network, case(roi), tile=(5, 5, 5), batch_size=9, feature_maps=expected)
    whole = predict(network, case(), tile=(5, 5, 5), batch_size=9, feature_maps=expected)
    first, second = (p.feature_maps["normal.1"][0] for p in (result, whole))
    # Segments of 5 voxels predict their middle one: those from 0 to 3 along X see voxel 1 or -1.
    calls = np.zeros(SHAPE, bool)
    calls[0:4, 20:23, 0:3] = True
    np.testing.assert_allclose(first[calls], second[calls], atol=1e-5)
    assert (first[~calls] == 0).all()
