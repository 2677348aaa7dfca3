"""Networks: sizes and counts against the published ones, and how pathways are put together."""

import numpy as np
import pytest
import torch

from deepseg.config.model import ModelConfig
from deepseg.data.segments.lattice_reading import read
from deepseg.geometry.boxes import Box
from deepseg.model.network import Network, with_residual
from tests.networks import network_inputs, small_config

THREE_LAYERS = {
    "normal": {"feature_maps": [3, 4, 5]},
    "subsampled": {"factors": [3, [2, 1, 4]]},
    "fc": {"feature_maps": [6]},
    "segments": {"train": [13, 11, 15]},
}


def model(**changes) -> ModelConfig:
    return small_config(**{**THREE_LAYERS, **changes})


def built(config: ModelConfig, seed: int = 0) -> Network:
    return Network(config, rng=torch.Generator().manual_seed(seed))


DEFAULT = model(
    classes=["0", "1", "2", "3", "4"],
    normal={"feature_maps": [30, 30, 40, 40, 40, 40, 50, 50], "residuals": [4, 6, 8]},
    subsampled={"factors": [3, 5]},
    fc={
        "feature_maps": [250, 250],
        "kernels": [3, 1, 1],
        "padding": ["mirror", "none", "none"],
        "residuals": [2],
    },
    segments={"train": 37},
)
TINY = model(
    classes=["0", "1", "2", "3", "4"],
    normal={"feature_maps": [4, 5, 6]},
    subsampled={"factors": [3]},
    fc={},
    segments={"train": 25},
)


@pytest.mark.parametrize(
    ("config", "count"),
    [pytest.param(DEFAULT, 2_008_901, id="deepmedic"), pytest.param(TINY, 3_291, id="tinyCnn")],
)
def test_the_number_of_trainable_parameters_is_deepmedics(config, count):
    network = built(config)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.layout.parameters == count


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="odd, even and anisotropic factors"),
        pytest.param({"subsampled": None}, id="one pathway"),
        pytest.param(
            {"normal": {"feature_maps": [3, 4, 5], "low_rank": [2, 3], "residuals": [3]}},
            id="low rank",
        ),
        pytest.param(
            {"normal": {"feature_maps": [3, 4, 5], "padding": ["none", "zero", "mirror"]}},
            id="padding beside context",
        ),
        pytest.param(
            {"normal": {"feature_maps": [3, 4], "kernels": [[3, 1, 5], [1, 3, 1]]}},
            id="flat kernels",
        ),
        pytest.param({"fc": {"feature_maps": [6], "kernels": [3, 1]}}, id="large unpadded fc"),
        *[
            pytest.param({"activation": item}, id=item)
            for item in ("linear", "relu", "prelu", "elu", "selu")
        ],
        pytest.param({"batch_norm": "none"}, id="biases"),
        pytest.param({"batch_norm": {"statistics": "window", "length": 3}}, id="window"),
        pytest.param(
            {"subsampled": {"factors": [3], "feature_maps": [2, 7], "kernels": [3, [3, 5, 3]]}},
            id="a pathway of another depth",
        ),
        pytest.param(
            {"initialisation": {"method": "normal", "deviation": 0.1}}, id="plain initialisation"
        ),
    ],
)
def test_every_network_predicts_the_size_that_its_layout_promises(changes):
    config = model(**changes)
    network = built(config)
    assert network.layout.parameters == sum(p.numel() for p in network.parameters())
    for segment in ((13, 11, 15), (17, 14, 16)):
        logits = network(network_inputs(network, segment))
        assert tuple(logits.shape) == (2, 3, *network.layout.prediction_size(segment))
        logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_weights_are_named_by_address():
    names = set(built(model(normal={"feature_maps": [3, 4, 5], "low_rank": [2]})).state_dict())
    assert {
        "normal.3.conv.weight",
        "sub1.3.norm.running_mean",
        "sub2.1.input_bias",
        "normal.2.conv.xy.weight",
        "fc.1.activation.weight",
        "fc.2.bias",
    } <= names
    assert not any(name.endswith("conv.bias") for name in names)


@pytest.mark.parametrize(("earlier", "later"), [(2, 4), (4, 2), (3, 3)])
def test_a_residual_adds_the_middle_of_the_maps_that_both_have(earlier, later):
    y, x = torch.randn(2, later, 3, 4, 2), torch.randn(2, earlier, 7, 7, 5)
    expected = y.clone()
    both = min(earlier, later)
    expected[:, :both] += x[:, :both, 2:5, 2:6, 2:4]
    # starts (7-1)//2 - (3-1)//2 = 2, (7-1)//2 - (4-1)//2 = 2, (5-1)//2 - (2-1)//2 = 2
    torch.testing.assert_close(with_residual(y, x, "deepmedic"), expected)


def test_a_residual_reaches_the_input_of_the_layer_before():
    config = model(
        subsampled=None, normal={"feature_maps": [3, 4, 5], "residuals": [3]}, batch_norm="none"
    )
    network = built(config)
    first, second, third = network.normal.layers()
    x = torch.randn(1, 2, 9, 8, 7)
    maps = first(x)
    expected = with_residual(third(second(maps)), maps, "centred")
    torch.testing.assert_close(network.normal(x), expected)


def test_context_is_a_function_of_place_only():
    """Two segments that overlap say the same about the voxels they share, if they are in phase."""
    config = model(subsampled={"factors": [3]}, fc={})
    network = built(config).eval()
    image = np.random.default_rng(3).normal(size=(2, 40, 41, 42)).astype(np.float32)

    def predicted(start):
        points = network.geometry.lattices(Box(start, (13, 13, 13)))
        no_margin = ((0, 0, 0), (0, 0, 0))
        return network([torch.from_numpy(read(image, p, no_margin))[None] for p in points])

    here, there = predicted((12, 12, 12)), predicted((15, 12, 12))
    torch.testing.assert_close(here[:, :, 3:], there[:, :, :-3])


def test_the_same_seed_gives_the_same_weights():
    first, same, second = (built(model(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["normal.1.conv.weight"], second["normal.1.conv.weight"])
