"""The fast network against the plain one on the whole image as one segment, and tile by tile."""

from functools import partialmethod
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import volume
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.limits import Limits
from deepseg.inference.out_of_memory import EXHAUSTED, SplitOnOutOfMemory
from deepseg.inference.prediction import Prediction, RequestedMaps
from deepseg.inference.tilewise import predict
from deepseg.model.network import Network
from tests.networks import trained_network

CONFIGS = Path(__file__).parents[3] / "configs"
SHAPE = (19, 23, 17)

NETWORKS = {
    "two resolutions": {},
    "one resolution": {"subsampled": None},
    "even factors": {"subsampled": {"factors": [2, 4]}},
    "a factor per axis": {
        "subsampled": {"factors": [[3, 1, 2], 5]},
        "fc": {
            "feature_maps": [5, 6], "kernels": [3, 1, 1], "padding": ["mirror", "none", "none"],
            "residuals": [2],
        },
    },
    "residuals everywhere": {
        "normal": {"feature_maps": [3, 4, 6, 5], "residuals": [3, 4]},
        "fc": {
            "feature_maps": [15, 6], "kernels": [5, 3, 1], "padding": ["mirror", "zero", "none"],
            "residuals": [2],
        },
        "segments": {"train": 15},
    },
    "padded pathways": {
        "normal": {
            "feature_maps": [6, 6, 6], "padding": ["zero", "mirror", "none"], "residuals": [2],
            "low_rank": [3],
        },
        "fc": {"feature_maps": [5], "kernels": [3, 1], "padding": ["zero", "none"]},
        "segments": {"train": 15},
    },
    "no norm": {
        "batch_norm": "none", "activation": "elu",
        "fc": {"feature_maps": [5, 6], "kernels": [3, 3, 1]}, "segments": {"train": 17},
    },
    "only the head": {"fc": {}},
}  # fmt: skip


def case(roi=None) -> PreparedCase:
    channels = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    return PreparedCase(
        "case", channels, None, None, None, Geometry(SHAPE, np.eye(4)), to_compute=roi
    )


def put_together(fast, ready, plan, *, labels, **choices):
    whole = Prediction(ready.shape, fast.layout.fc.outputs, RequestedMaps(labels))
    for _, prediction in box_predictions(fast, ready, plan, labels=labels, **choices):
        whole.put(prediction)
    return whole


def predicted(
    network, ready, *, tile=None, labels=(0, 1, 2), memory=1 << 30, dtype=torch.float32, edges=None
):
    limits = Limits() if edges is None else Limits(edges=edges)
    fast = BoxwiseNetwork(network, dtype)
    plan = work_units(fast, ready, memory=memory, tile=tile, limits=limits)
    return put_together(fast, ready, plan, labels=labels)


def stacked(found):
    return np.stack([found.probabilities[label] for label in (0, 1, 2)])


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("edge", [9, 96])
def test_probabilities_are_those_of_the_whole_image_as_one_segment(changes, edge):
    network, ready = trained_network(**changes), case()
    plain = predict(network, ready, tile=(99, 99, 99), batch_size=1).probabilities
    result = predicted(network, ready, edges=(edge,))
    np.testing.assert_allclose(stacked(result), plain, atol=1e-4)
    assert (result.labels == plain.argmax(0)).mean() > 0.999


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS.keys())
def test_the_result_does_not_depend_on_boxes(changes):
    network, ready = trained_network(**changes), case()
    result = []
    for edge in (7, 10, 96):
        result.append(stacked(predicted(network, ready, edges=(edge,))))
    np.testing.assert_allclose(result[0], result[2], atol=1e-5)
    np.testing.assert_allclose(result[1], result[2], atol=1e-5)


def test_the_default_model_predicts_what_the_plain_computation_predicts():
    """At full width, with its three pathways, in boxes."""
    rng = torch.Generator().manual_seed(0)
    network = Network(load(ModelConfig, CONFIGS / "model/deepmedic.yaml").config, rng=rng).eval()
    for name, tensor in network.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            tensor.uniform_(-0.5, 0.5, generator=rng)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5, generator=rng)
    ready = case()
    plain = predict(network, ready, tile=(99, 99, 99), batch_size=1).probabilities
    result = predicted(network, ready, labels=range(5), edges=(13,))
    shares = np.stack([result.probabilities[label] for label in range(5)])
    np.testing.assert_allclose(shares, plain, atol=1e-4)
    assert plain.std((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("alignment", ["centred", "deepmedic"])
def test_tiles_of_their_own_are_those_of_the_plain_network(alignment):
    network, ready = trained_network(context_alignment=alignment), case()
    plain = predict(network, ready, tile=(11, 12, 13), batch_size=1).probabilities
    np.testing.assert_allclose(
        stacked(predicted(network, ready, tile=(11, 12, 13))), plain, atol=1e-5
    )


def test_deepmedics_context_lies_on_one_grid_too():
    network, ready = trained_network(context_alignment="deepmedic"), case()
    # Inside the image, a segment that begins at a multiple of the factor has the phase of the grid:
    # this one, of 13 voxels in front of whose prediction there are 2, begins at 3 - 2 + 2.
    result = stacked(predicted(network, ready))
    tile = predict(network, ready, tile=(7, 7, 7), batch_size=1).probabilities  # predicts 3 voxels
    np.testing.assert_allclose(result[:, 9:15, 9:18, 9:12], tile[:, 9:15, 9:18, 9:12], atol=1e-5)


@pytest.mark.parametrize("edge", [7, 96])
def test_the_region_of_interest_is_predicted_and_what_is_far_is_not_computed(edge):
    roi = np.zeros(SHAPE, bool)
    roi[1:4, 2:20, 3] = roi[15, 20, 11:16] = True
    network = trained_network()
    whole, part = (predicted(network, ready, edges=(edge,)) for ready in (case(), case(roi)))
    np.testing.assert_allclose(stacked(part)[:, roi], stacked(whole)[:, roi], atol=1e-5)
    np.testing.assert_array_equal(part.labels[roi], whole.labels[roi])
    assert not stacked(part)[:, 6:14, :, :].any() or edge == 96


def test_only_the_requested_probabilities_are_computed():
    result = predicted(trained_network(), case(), labels=[2])
    assert list(result.probabilities) == [2]


@pytest.mark.parametrize("name", ["two resolutions", "only the head"])
def test_bfloat16_predicts_nearly_the_same(name):
    network, ready = trained_network(**NETWORKS[name]), case()
    exact, rough = predicted(network, ready), predicted(network, ready, dtype=torch.bfloat16)
    assert 0 < np.abs(stacked(exact) - stacked(rough)).max() < 0.1
    assert (exact.labels == rough.labels).mean() > 0.95


class Exhausted:
    """Computes no box or piece of more than some voxels, as a small GPU would."""

    def __init__(self, function, most):
        self.function, self.most = function, most

    def __call__(self, fast, number, whole, output, read):
        if volume(output.size) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.function(fast, number, whole, output, read)


def test_where_memory_is_exhausted_halves_are_computed_and_it_is_said(monkeypatch):
    network, ready, lines = trained_network(), case(), []
    expected = predicted(network, ready)
    exhausted = Exhausted(BoxwiseNetwork.pathway, volume((19, 12, 17)))
    monkeypatch.setattr(BoxwiseNetwork, "pathway", partialmethod(exhausted))
    fast = BoxwiseNetwork(network)
    plan = work_units(fast, ready, memory=1 << 30, tile=None)
    result = put_together(
        fast, ready, plan, labels=(0, 1, 2), splitter=SplitOnOutOfMemory(lines.append)
    )
    np.testing.assert_allclose(stacked(result), stacked(expected), atol=1e-5)
    assert lines == [EXHAUSTED]


def test_context_is_computed_in_smaller_pieces_where_memory_is_exhausted(monkeypatch):
    network, ready = trained_network(fc={"feature_maps": [5], "kernels": [1, 1]}), case()
    expected = predicted(network, ready)
    exhausted = Exhausted(BoxwiseNetwork.pathway, 300)
    monkeypatch.setattr(
        BoxwiseNetwork, "pathway",
        lambda *given: (exhausted if given[1] > 0 else exhausted.function)(*given),
    )  # fmt: skip
    fast = BoxwiseNetwork(network)
    plan = work_units(fast, ready, memory=1 << 30, tile=None)
    splitter = SplitOnOutOfMemory(smallest_edge=4)
    result = put_together(fast, ready, plan, labels=(0, 1, 2), splitter=splitter)
    np.testing.assert_allclose(stacked(result), stacked(expected), atol=1e-5)


def test_memory_that_no_box_is_small_enough_for_is_an_error(monkeypatch):
    monkeypatch.setattr(BoxwiseNetwork, "pathway", partialmethod(Exhausted(None, 0)))
    with pytest.raises(torch.OutOfMemoryError):
        predicted(trained_network(), case())


def test_less_memory_means_more_boxes_and_the_same_result():
    network, ready = trained_network(), case()
    fast = BoxwiseNetwork(network)
    few, many = (work_units(fast, ready, memory=n, tile=None) for n in (1 << 30, 1))
    assert sum(len(unit.boxes) for unit in few) < sum(len(unit.boxes) for unit in many)
    np.testing.assert_allclose(
        stacked(predicted(network, ready, memory=1)), stacked(predicted(network, ready)), atol=1e-5
    )


def test_progress_counts_the_boxes():
    fast, ready, done = BoxwiseNetwork(trained_network()), case(), []
    plan = work_units(fast, ready, memory=1, tile=None)
    put_together(fast, ready, plan, labels=(), on_boxes=done.append)
    assert sum(done) == sum(len(unit.boxes) for unit in plan)


def test_the_number_of_threads_of_later_threads_is_as_before():
    network, ready, counts = trained_network(), case(), []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predicted(network, ready)
        thread = Thread(target=lambda: counts.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        counts.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert counts == [2, 2]
