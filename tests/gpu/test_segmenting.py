"""Segmenting on a pretended GPU: the maps of the processor, with few launches."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import volume
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.limits import DEFAULT_LIMITS, Limits
from deepseg.inference.out_of_memory import EXHAUSTED, SplitOnOutOfMemory
from deepseg.inference.predictor import Predictor
from deepseg.model.checkpoint import Checkpoint, new_checkpoint
from deepseg.model.network import Network
from deepseg.transfer.imported import read_imported
from tests.gpu import pretended
from tests.imported_networks import IMPORTED_MODEL, write_encoder
from tests.networks import trained_network

SHAPE = (19, 23, 17)
FC = {"feature_maps": [15, 6], "kernels": [3, 1, 1], "padding": ["mirror", "none", "none"]}
RESIDUALS = {"fc": {**FC, "residuals": [2]}}
NETWORKS = {
    "two resolutions": {},
    "a factor per axis": {"subsampled": {"factors": [[3, 1, 2], 5]}, **RESIDUALS},
    "zeros around the FC pathway": {"fc": {**FC, "kernels": [5, 3, 1], "padding": "zero"}},
    "a wide mirrored border": {"fc": {**FC, "kernels": [[5, 4, 1], 1, 1]}},
    "no norm": {"batch_norm": "none", "activation": "elu", **RESIDUALS},
    "a single resolution": {"subsampled": None, "activation": "relu"},
    "a head alone": {"fc": {}},
}
# So small that every case has several boxes and slices.
SMALL = Limits(edges=(11,), fc_voxels=200, fc_voxels_of_gpu=400, context_edge=4)


def case(shape=SHAPE, *, roi=None) -> PreparedCase:
    channels = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    geometry = Geometry(shape, np.eye(4))
    return PreparedCase("case", channels, None, roi, None, geometry, to_compute=roi)


def probabilities(network, device, *, tile=None, splitter=None, memory=1 << 30):
    """``(K, X, Y, Z)`` of the case, box by box."""
    boxwise, ready = BoxwiseNetwork(network.to(device)), case()
    maps = np.zeros((3, *SHAPE), np.float32)
    plan = work_units(boxwise, ready, memory=memory, tile=tile, limits=SMALL)
    for _, piece in box_predictions(
        boxwise, ready, plan, labels=range(3), limits=SMALL, splitter=splitter
    ):
        for label, values in piece.probabilities.items():
            maps[label][piece.box.slices] = values
    return maps


@pytest.mark.parametrize(
    ("kind", "tile"),
    [*((kind, None) for kind in NETWORKS), ("a factor per axis", (17, 19, 15))],
)
def test_every_kind_of_model_segments_as_on_the_processor(kind, tile):
    maps = [
        probabilities(trained_network(seed=2, **NETWORKS[kind]), device, tile=tile)
        for device in (pretended.set_up(), torch.device("cpu"))
    ]
    np.testing.assert_allclose(*maps, atol=1e-5)
    assert maps[1].std() > 0.01


def test_boxes_are_halved_where_the_memory_of_the_device_runs_out():
    network, warnings = trained_network(seed=2), []
    expected = probabilities(network, torch.device("cpu"))
    splitter = SplitOnOutOfMemory(warnings.append, smallest_edge=4)
    with pretended.with_memory(1 << 16):
        maps = probabilities(network, pretended.set_up(), splitter=splitter)
    assert warnings == [EXHAUSTED]
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def predicted(models, device, settings, **requests):
    predictor = Predictor(models, settings, device=device, preparation={"z_score": "none"})
    return predictor.segment(case().channels, spacing_mm=1, **requests)


def checkpoint(seed, **changes) -> Checkpoint:
    network = trained_network(seed=seed, **changes)
    return Checkpoint(network.config, dict(network.state_dict()))


def assert_same_segmentation(models, settings, **requests):
    there, here = (
        predicted(models, device, settings, **requests)
        for device in (pretended.set_up(), torch.device("cpu"))
    )
    assert (there.labels != here.labels).mean() < 0.002
    for name in ("probabilities", "uncertainty", "feature_maps"):
        maps, expected = getattr(there, name), getattr(here, name)
        assert maps.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(maps[key], values, rtol=1e-4, atol=2e-5, err_msg=str(key))


def test_an_ensemble_with_mirror_images_and_all_maps_is_that_of_the_processor():
    assert_same_segmentation(
        [checkpoint(1), checkpoint(2, subsampled=None)], {"mirror": ["x"]}, probabilities=True,
        uncertainty=["entropy", "variance"], feature_maps={"normal.2": (0, 2), "fc.1": "all"},
    )  # fmt: skip


def test_an_imported_network_segments_as_on_the_processor(tmp_path):
    write_encoder(tmp_path / "net.onnx")
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(tmp_path / "net.onnx")))
    model = read_imported(ModelConfig.model_validate(values), tmp_path / "model.yaml")
    imported = new_checkpoint(model.config, seed=1, imported=model.weights)
    assert_same_segmentation([imported], {}, probabilities=True)


def test_a_u_net_segments_as_on_the_processor():
    levels = [{"feature_maps": 4}, {"feature_maps": 3}, {"feature_maps": 2, "stride": [2, 2, 1]}]
    values = {
        "channels": ["T1", "FLAIR"], "classes": ["background", "a", "b"],
        "unet": {"levels": levels}, "fc": "none", "segments": {"train": 16},
    }  # fmt: skip
    config = read_imported(ModelConfig.model_validate(values), Path("model.yaml")).config
    assert_same_segmentation([new_checkpoint(config, seed=1)], {}, probabilities=True)


def test_a_whole_brain_starts_few_kernels(request):
    """Of the default model: 4,300 for 1.8 million voxels on the grid of BraTS, in benchmarks."""
    file = request.config.rootpath / "configs/model/deepmedic.yaml"
    network = Network(load(ModelConfig, file).config, rng=torch.Generator().manual_seed(1))
    shape = (70, 60, 50)
    axes = [np.linspace(-1.2, 1.2, n) for n in shape]
    ready = case(shape, roi=axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1)
    with pretended.shapes_only():
        boxwise = BoxwiseNetwork(network.eval().to(pretended.set_up()))
        plan = work_units(boxwise, ready, memory=1 << 36, tile=None)
        with pretended.recorded() as record:
            parts = list(box_predictions(boxwise, ready, plan, labels=()))
    assert len(record.waits) == len(parts)
    assert max(volume(part.box.size) for _, part in parts) > DEFAULT_LIMITS.fc_voxels
    assert record.launched <= 60 * sum(len(unit.boxes) for unit in plan) + 40 * len(parts)


def test_nothing_needs_numbers_of_64_bits_on_the_device():
    """Apple's GPUs have none."""
    with pretended.without(torch.float64):
        assert_same_segmentation([checkpoint(1)], {"mirror": ["x"]}, uncertainty=["variance"])
