"""Layers against independent arithmetic: their order, norms, dropout, low rank, first values."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepseg.config.model import BatchNorm, ModelConfig
from deepseg.model.layers import Norm
from deepseg.model.network import Network
from tests.networks import small_config

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


def test_a_layer_acts_in_the_order_norm_activation_padding_convolution():
    config = model(subsampled=None, fc={"feature_maps": [4], "kernels": 3, "padding": "mirror"})
    network = built(config).eval()
    layer = network.fc.get_submodule("1")
    for tensor in (layer.norm.running_mean, layer.norm.bias, layer.activation.weight):
        tensor.data.normal_(generator=torch.Generator().manual_seed(1))
    layer.norm.running_var.data.uniform_(0.5, 2)
    x = torch.randn(2, 5, 4, 6, 5)

    def per_map(tensor):
        return tensor.view(-1, 1, 1, 1)

    y = (x - per_map(layer.norm.running_mean)) / (per_map(layer.norm.running_var) + 1e-5).sqrt()
    y = y * per_map(layer.norm.weight) + per_map(layer.norm.bias)
    y = y.clamp(min=0) + per_map(layer.activation.weight) * y.clamp(max=0)
    y = torch.from_numpy(np.pad(y.detach().numpy(), [(0, 0), (0, 0)] + [(1, 1)] * 3, "symmetric"))
    torch.testing.assert_close(layer(x), F.conv3d(y, layer.conv.weight))


def test_the_first_layer_of_a_pathway_adds_a_bias_and_activates_nothing():
    layer = built(model()).normal.get_submodule("1")
    layer.input_bias.data = torch.tensor([2.0, -3.0])
    x = torch.randn(1, 2, 5, 6, 7)
    shifted = x + torch.tensor([2.0, -3.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(layer(x), F.conv3d(shifted, layer.conv.weight))


def test_low_rank_layers_join_three_flat_convolutions():
    config = model(normal={"feature_maps": [3, 7], "low_rank": [2], "kernels": [3, [3, 5, 7]]})
    layer = built(config).normal.get_submodule("2").conv
    x = torch.randn(1, 3, 6, 8, 10)
    xy = F.conv3d(x, layer.xy.weight)[..., 3:-3]
    yz = F.conv3d(x, layer.yz.weight)[:, :, 1:-1]
    xz = F.conv3d(x, layer.xz.weight)[:, :, :, 2:-2]
    assert [part.shape[1] for part in (xy, yz, xz)] == [2, 2, 3]
    torch.testing.assert_close(layer(x), torch.cat([xy, yz, xz], 1))


def test_kernels_have_the_variance_of_their_fan_in():
    config = model(normal={"feature_maps": [40, 60], "low_rank": [2]}, subsampled=None)
    network = built(config)
    for layer in network.normal.layers():
        weights = torch.cat([p.flatten() for p in layer.conv.parameters()])
        expected = (2 / (layer.plan.inputs * 27)) ** 0.5
        assert weights.std().item() == pytest.approx(expected, rel=0.05)


def norm(**settings) -> Norm:
    return Norm(2, BatchNorm.model_validate(settings))


def test_window_statistics_are_the_mean_over_all_rows_seen_or_not():
    """mu = (t/N) mean(mu), var = (t/N) mean(var) + 1 - t/N after t of N steps, then the last N."""
    layer = norm(statistics="window", length=4)
    batches = [torch.randn(3, 2, 4, 5, 6) * (1 + step) + step for step in range(6)]
    means = torch.stack([x.mean((0, 2, 3, 4)) for x in batches])
    variances = torch.stack([x.var((0, 2, 3, 4), correction=0) for x in batches])
    for step, x in enumerate(batches, start=1):
        layer(x)
        if step == 3:
            torch.testing.assert_close(layer.running_mean, 3 / 4 * means[:3].mean(0))
            torch.testing.assert_close(layer.running_var, 3 / 4 * variances[:3].mean(0) + 1 / 4)
    torch.testing.assert_close(layer.running_mean, means[2:].mean(0))
    torch.testing.assert_close(layer.running_var, variances[2:].mean(0))


def test_exponential_statistics_move_by_their_momentum():
    layer = norm(momentum=0.25)
    x = torch.randn(3, 2, 4, 5, 6) * 3 + 2
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.25 * x.mean((0, 2, 3, 4)))
    variance = x.var((0, 2, 3, 4), correction=0)
    torch.testing.assert_close(layer.running_var, 0.75 + 0.25 * variance)


def test_training_normalises_with_the_batch_and_a_frozen_norm_with_its_statistics():
    layer = norm()
    x = torch.randn(3, 2, 4, 5, 6) * 3 + 2
    assert layer(x).mean().abs() < 1e-5
    layer.is_frozen = True
    before = layer.running_mean.clone()
    assert layer(x).mean() > 1
    assert torch.equal(layer.running_mean, before)


def test_dropout_masks_in_training_and_scales_in_inference():
    config = model(
        subsampled=None, normal={"feature_maps": [3, 4], "dropout": [0, 0.25]}, batch_norm="none",
        activation="linear",
    )  # fmt: skip
    layer = built(config).normal.get_submodule("2")
    layer.conv = torch.nn.Identity()
    x = torch.ones(2, 3, 20, 21, 22)
    trained = layer(x)
    assert set(trained.unique().tolist()) == {0.0, 1.0}
    assert trained.mean().item() == pytest.approx(0.75, abs=0.01)
    layer.dropout_enabled = False
    assert layer(x).unique().tolist() == [0.75]
    layer.dropout_enabled = True
    assert layer.eval()(x).unique().tolist() == [0.75]
