"""Windows of imported networks: against a plain sliding window, and where memory is exhausted."""

from itertools import product

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.inference import tilewise
from deepseg.inference.out_of_memory import EXHAUSTED
from deepseg.inference.predictor import PYTHON_WARNINGS, Listener, Predictor, Tiles
from deepseg.model.checkpoint import new_checkpoint
from deepseg.transfer.imported import read_imported
from tests.imported_networks import MODEL_OF_ITS_OWN_HEAD, write_segmenter

WINDOW = (16, 12, 20)
NAMES = ("background", "rim", "core")
LARGER = (41, 30, 26)  # than the window along every axis
SMALLER = (13, 30, 20)  # along X


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """A network of torch with a classifier of its own, and the model that imports it."""
    folder = tmp_path_factory.mktemp("segmenter")
    network = write_segmenter(folder / "net.onnx")
    return network, folder


def model(segmenter, **changes):
    _, folder = segmenter
    values = yaml.safe_load(MODEL_OF_ITS_OWN_HEAD.replace("net.onnx", str(folder / "net.onnx")))
    imported = read_imported(ModelConfig.model_validate(values | changes), folder / "model.yaml")
    return new_checkpoint(imported.config, seed=1, imported=imported.weights)


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


def sliding_window(network, values, overlap):
    """Scores, averaged with Gaussian weights: the formula, window by window."""
    lacking = [max(w - n, 0) for w, n in zip(WINDOW, values.shape[1:], strict=True)]
    padded = np.pad(values, [(0, 0), *((n // 2, n - n // 2) for n in lacking)])
    shape = padded.shape[1:]
    starts = []
    for n, w in zip(shape, WINDOW, strict=True):
        step = max(int(w * (1 - overlap)), 1)
        starts.append([min(s, n - w) for s in range(0, n - w + step, step)])
    grids = np.meshgrid(*(np.arange(w) - (w - 1) / 2 for w in WINDOW), indexing="ij")
    distance = sum((g / (w / 8)) ** 2 for g, w in zip(grids, WINDOW, strict=True))
    weights = np.maximum(np.exp(-distance / 2), 1e-3)
    total, count = np.zeros((3, *shape)), np.zeros(shape)
    for place in product(*starts):
        inside = tuple(slice(a, a + w) for a, w in zip(place, WINDOW, strict=True))
        with torch.no_grad():
            scores = network(torch.from_numpy(padded[(slice(None), *inside)][None]))[0]
        total[(slice(None), *inside)] += weights * scores.numpy()
        count[inside] += weights
    middle = tuple(
        slice(n // 2, n // 2 + m) for n, m in zip(lacking, values.shape[1:], strict=True)
    )
    return (total / count)[(slice(None), *middle)]


def segmented(checkpoint, values, settings=None, *, listener=PYTHON_WARNINGS, **requests):
    predictor = Predictor(
        checkpoint, settings, device="cpu", preparation={"z_score": "none"}, tiles=Tiles(WINDOW),
        listener=listener,
    )  # fmt: skip
    return predictor.segment(values, spacing_mm=1, probabilities=True, **requests)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("shape", [LARGER, SMALLER], ids=["larger", "smaller"])
def test_windows_are_averaged_as_by_the_formula(segmenter, shape, overlap):
    values = image(shape)
    result = segmented(model(segmenter), values, {"overlap": overlap})
    scores = torch.from_numpy(sliding_window(segmenter[0].scores, values, overlap))
    expected = scores.softmax(0).numpy()
    actual = np.stack([result.probabilities[name] for name in NAMES])
    assert np.abs(actual - expected).max() < 1e-5
    assert np.array_equal(result.labels, actual.argmax(0))


def test_probabilities_can_be_averaged(segmenter):
    values = image(LARGER)
    network, _ = segmenter
    for windows, settings in (
        ({"average": "probabilities"}, {}),
        ({}, {"average": "probabilities"}),
    ):
        result = segmented(model(segmenter, windows=windows), values, settings)
        actual = np.stack([result.probabilities[name] for name in NAMES])
        expected = sliding_window(lambda x: network.scores(x).softmax(1), values, 0.5)
        assert np.abs(actual - expected).max() < 1e-5


def test_a_mirrored_case_is_predicted_window_by_window(segmenter):
    """The scores of a window and of its mirror image, averaged: as nnU-Net does."""
    values = image(SMALLER)
    network, _ = segmenter

    def both(x):
        return (network.scores(x) + network.scores(x.flip(2)).flip(2)) / 2

    expected = torch.from_numpy(sliding_window(both, values, 0.5)).softmax(0)[2].numpy()
    for checkpoint, settings in (
        (model(segmenter), {"mirror": ["x"]}),
        (model(segmenter, windows={"mirror": ["x"]}), {}),
    ):
        result = segmented(checkpoint, values, settings)
        assert np.abs(result.probabilities["core"] - expected).max() < 1e-5


def test_a_test_file_mirrors_nothing_where_the_model_would(segmenter):
    values = image(SMALLER)
    plain = segmented(model(segmenter), values)
    chosen = segmented(model(segmenter, windows={"mirror": ["x"]}), values, {"mirror": []})
    assert np.array_equal(plain.probabilities["core"], chosen.probabilities["core"])


def test_uncertainty_of_averaged_scores_is_that_of_probabilities(segmenter):
    values = image(SMALLER)
    settings = {"mirror": ["x"]}
    result = segmented(model(segmenter), values, settings, uncertainty=["entropy", "variance"])
    mean = np.stack([result.probabilities[name] for name in NAMES]).astype(float)
    entropy = -(mean * np.log(mean)).sum(0) / np.log(3)
    assert np.abs(result.uncertainty["entropy"] - entropy).max() < 1e-4
    network, _ = segmenter
    pair = []
    for turn in (lambda x: x, lambda x: x.flip(2)):
        scores = sliding_window(lambda x, t=turn: t(network.scores(t(x))), values, 0.5)
        pair.append(torch.from_numpy(scores).softmax(0).numpy())
    variance = np.var(pair, 0).mean(0)
    assert np.abs(result.uncertainty["variance"] - variance).max() < 1e-5


def test_a_region_of_interest_is_all_that_is_computed(segmenter):
    values = image(LARGER)
    roi = np.zeros(LARGER, np.float32)
    roi[3:9, 20:25, 2:7] = 1
    whole, part = (segmented(model(segmenter), values, roi=r) for r in (None, roi))
    inside = part.probabilities["rim"][roi > 0]
    assert np.abs(inside - whole.probabilities["rim"][roi > 0]).max() < 1e-6
    assert not part.labels[roi == 0].any()


def test_windows_are_halved_where_memory_is_exhausted(segmenter, monkeypatch):
    values, lines = image(LARGER), []
    sizes = []
    computed = tilewise._computed

    def small_only(network, images, request):
        sizes.append(images[0].shape[1:])
        if images[0].shape[3] > 12:
            raise MemoryError
        return computed(network, images, request)

    monkeypatch.setattr(tilewise, "_computed", small_only)
    listener = Listener(lines.append, PYTHON_WARNINGS.progress)
    result = segmented(model(segmenter), values, listener=listener)
    assert lines == [EXHAUSTED]
    assert set(sizes) == {(16, 12, 20), (16, 12, 12)}  # 10 voxels, and what the network computes
    total = sum(result.probabilities[name] for name in NAMES)
    assert np.abs(total - 1).max() < 1e-5


def test_halves_of_tiles_with_a_margin_make_what_tiles_make(segmenter, monkeypatch):
    """In phase with the strides of the network, so that nothing depends on memory."""
    _, folder = segmenter
    shallow = {"file": str(folder / "net.onnx"), "output": "down", "margin": 7}
    checkpoint = model(
        segmenter, imported=[shallow], fc={"feature_maps": [], "dropout": 0}, classes=["a", "b"],
        segments={"train": 28},
    )  # fmt: skip
    assert checkpoint.network().layout.sees_whole
    values = image(LARGER)

    def rim():
        predictor = Predictor(
            checkpoint, device="cpu", preparation={"z_score": "none"}, tiles=Tiles((28, 32, 24)),
            listener=Listener(lambda _: None, PYTHON_WARNINGS.progress),
        )  # fmt: skip
        return predictor.segment(values, spacing_mm=1, probabilities=True).probabilities["b"]

    whole = rim()
    computed = tilewise._computed

    def small_only(network, images, request):
        if images[0][0].size > 16000:
            raise MemoryError
        return computed(network, images, request)

    monkeypatch.setattr(tilewise, "_computed", small_only)
    assert np.abs(rim() - whole).max() < 1e-5


@pytest.mark.parametrize("shape", [LARGER, SMALLER], ids=["larger", "smaller"])
def test_a_chosen_border_is_mirrored(segmenter, shape):
    """Images that hold a window are predicted alike; a smaller one sees itself, not zeros."""
    values = image(shape)
    zero, mirror = (
        segmented(model(segmenter, windows={"beyond": b}), values).probabilities["rim"]
        for b in ("zero", "mirror")
    )
    assert np.allclose(zero, mirror, atol=1e-6) == (shape == LARGER)


def test_an_ensemble_of_windows_averages_scores(segmenter):
    values = image(SMALLER)
    network, _ = segmenter
    first = model(segmenter)
    weights = {name: 1.5 * tensor for name, tensor in first.weights.items()}
    second = type(first)(first.config, weights)
    result = segmented([first, second], values)

    class Scaled(nn.Module):
        def forward(self, x):
            return torch.func.functional_call(
                network, {k.removeprefix("imported1."): v for k, v in weights.items()}, (x,)
            ).log()

    scores = [sliding_window(n, values, 0.5) for n in (network.scores, Scaled())]
    expected = torch.from_numpy(sum(scores) / 2).softmax(0).numpy()
    actual = np.stack([result.probabilities[name] for name in NAMES])
    assert np.abs(actual - expected).max() < 1e-5


def test_windows_in_bfloat16_are_nearly_those_in_float32(segmenter):
    values = image(SMALLER)
    full, half = (
        segmented(model(segmenter), values, {"precision": p}).probabilities["rim"]
        for p in ("float32", "bfloat16")
    )
    assert 0 < np.abs(full - half).max() < 0.02


def test_a_window_that_the_network_does_not_compute_is_refused(segmenter):
    with pytest.raises(DeepsegError) as error:
        Predictor(model(segmenter), device="cpu", tiles=Tiles((16, 12, 18)))
    (problem,) = error.value.problems
    assert problem.code == "segment-size"
    assert problem.fix == "take 16 x 12 x 20, or leave it out"


def test_repeated_and_interpolated_maps_of_an_attach_point(segmenter):
    """Stride 2, first voxel at 0: linear values half way between; torch's own rule is shifted."""
    values = image((16, 16, 16))
    network, folder = segmenter
    with torch.no_grad():
        maps = network.encoder(torch.from_numpy(values[None]))
    for upsampling in ("repeat", "linear"):
        shallow = {"file": str(folder / "net.onnx"), "output": "down", "upsampling": upsampling}
        checkpoint = model(
            segmenter, imported=[shallow], fc={"feature_maps": [], "dropout": 0},
            classes=["a", "b"], segments={"train": 16},
        )  # fmt: skip
        built = checkpoint.network().eval()
        joined = []
        built.fc.register_forward_pre_hook(lambda _m, x, joined=joined: joined.append(x[0]))
        with torch.no_grad():
            built([torch.from_numpy(values[None])])
        (result,) = joined
        if upsampling == "repeat":
            expected = F.interpolate(maps, scale_factor=2, mode="nearest")
        else:
            size = [2 * n - 1 for n in maps.shape[2:]]
            expected = F.interpolate(maps, size, mode="trilinear", align_corners=True)
            expected = F.pad(expected, (0, 1) * 3, mode="replicate")
        assert torch.allclose(result, expected, atol=1e-5)
