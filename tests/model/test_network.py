"""Networks: sizes and counts against the published ones, layers against independent arithmetic."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layers import Norm, crop_offset, cropped, padded
from deepseg.model.layout import layout
from deepseg.model.network import Network, repeated, with_residual


def model(**changes) -> ModelConfig:
    settings = {
        "channels": ["FLAIR", "T1c"],
        "classes": ["background", "a", "b"],
        "normal": {"feature_maps": [3, 4, 5]},
        "subsampled": {"factors": [3, [2, 1, 4]]},
        "fc": {"feature_maps": [6]},
        "segments": {"train": [13, 11, 15]},
        **changes,
    }
    return ModelConfig.model_validate(settings)


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


def inputs_for(network: Network, segment, batch=2):
    rng = torch.Generator().manual_seed(7)
    from deepseg.geometry.boxes import Box

    return [
        torch.randn(batch, len(network.config.channels), *points.count, generator=rng)
        for points in network.geometry.lattices(Box((0, 0, 0), segment))
    ]


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
            pytest.param({"activation": one}, id=one)
            for one in ("linear", "relu", "prelu", "elu", "selu")
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
        logits = network(inputs_for(network, segment))
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


def test_a_layer_acts_in_the_order_norm_activation_padding_convolution():
    config = model(subsampled=None, fc={"feature_maps": [4], "kernels": 3, "padding": "mirror"})
    network = built(config).eval()
    layer = network.fc.get_submodule("1")
    for tensor in (layer.norm.running_mean, layer.norm.bias, layer.activation.weight):
        tensor.data.normal_(generator=torch.Generator().manual_seed(1))
    layer.norm.running_var.data.uniform_(0.5, 2)
    x = torch.randn(2, 5, 4, 6, 5)
    own = lambda tensor: tensor.view(-1, 1, 1, 1)  # noqa: E731
    y = (x - own(layer.norm.running_mean)) / (own(layer.norm.running_var) + 1e-5).sqrt()
    y = y * own(layer.norm.weight) + own(layer.norm.bias)
    y = y.clamp(min=0) + own(layer.activation.weight) * y.clamp(max=0)
    y = torch.from_numpy(np.pad(y.detach().numpy(), [(0, 0), (0, 0)] + [(1, 1)] * 3, "symmetric"))
    torch.testing.assert_close(layer(x), F.conv3d(y, layer.conv.weight))


def test_the_first_layer_of_a_pathway_adds_a_bias_and_activates_nothing():
    layer = built(model()).normal.get_submodule("1")
    layer.input_bias.data = torch.tensor([2.0, -3.0])
    x = torch.randn(1, 2, 5, 6, 7)
    shifted = x + torch.tensor([2.0, -3.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(layer(x), F.conv3d(shifted, layer.conv.weight))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (3, [0, 0, 1, 2, 3, 4, 4]),
        (5, [1, 0, 0, 1, 2, 3, 4, 4, 3]),
        (2, [0, 1, 2, 3, 4, 4]),
        (4, [0, 0, 1, 2, 3, 4, 4, 3]),
    ],
)
def test_mirror_padding_of_0_to_4(kernel, expected):
    x = torch.arange(5.0).view(1, 1, 1, 5, 1)
    assert padded(x, (1, kernel, 1), "mirror").flatten().tolist() == expected


@pytest.mark.parametrize("kernel", [(3, 1, 5), (2, 4, 3), (7, 9, 5)])
def test_mirror_padding_is_numpys_symmetric_on_every_axis(kernel):
    x = torch.randn(2, 3, 4, 3, 5)
    width = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernel]
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), *width], "symmetric")
    assert np.array_equal(padded(x, kernel, "mirror").numpy(), expected)


def test_zero_padding_puts_the_odd_voxel_behind():
    x = torch.ones(1, 1, 2, 1, 1)
    assert padded(x, (4, 1, 1), "zero").flatten().tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(("earlier", "later"), [(2, 4), (4, 2), (3, 3)])
def test_a_residual_adds_the_middle_of_the_maps_that_both_have(earlier, later):
    y, x = torch.randn(2, later, 3, 4, 2), torch.randn(2, earlier, 7, 7, 5)
    expected = y.clone()
    both = min(earlier, later)
    expected[:, :both] += x[:, :both, 2:5, 2:6, 2:4]
    # starts (7-1)//2 - (3-1)//2 = 2, (7-1)//2 - (4-1)//2 = 2, (5-1)//2 - (2-1)//2 = 2
    torch.testing.assert_close(with_residual(y, x), expected)


def test_the_centre_crop_rounds_as_deepmedic_does():
    assert [crop_offset(larger, smaller) for larger, smaller in ((7, 4), (6, 3), (6, 4))] == [
        2,
        1,
        1,
    ]
    assert cropped(torch.arange(6.0).view(1, 1, 6, 1, 1), (3, 1, 1)).flatten().tolist() == [1, 2, 3]


def test_a_residual_reaches_the_input_of_the_layer_before():
    config = model(
        subsampled=None, normal={"feature_maps": [3, 4, 5], "residuals": [3]}, batch_norm="none"
    )
    network = built(config)
    first, second, third = network.normal.layers()
    x = torch.randn(1, 2, 9, 8, 7)
    maps = first(x)
    expected = with_residual(third(second(maps)), maps)
    torch.testing.assert_close(network.normal(x), expected)


def test_repetition_keeps_the_first_voxels():
    x = torch.arange(6.0).view(1, 1, 3, 2, 1)
    assert repeated(x, (3, 1, 2), (7, 1, 2))[0, 0].tolist() == [
        [[v, v]] for v in [0, 0, 0, 2, 2, 2, 4]
    ]


def test_context_is_a_function_of_place_only():
    """Two segments that overlap say the same about the voxels they share, if they are in phase."""
    config = model(subsampled={"factors": [3]}, fc={})
    network = built(config).eval()
    from deepseg.data.segments.lattice_reading import read
    from deepseg.geometry.boxes import Box

    image = np.random.default_rng(3).normal(size=(2, 40, 41, 42)).astype(np.float32)

    def predicted(start):
        points = network.geometry.lattices(Box(start, (13, 13, 13)))
        no_margin = ((0, 0, 0), (0, 0, 0))
        return network([torch.from_numpy(read(image, p, no_margin))[None] for p in points])

    here, there = predicted((12, 12, 12)), predicted((15, 12, 12))
    torch.testing.assert_close(here[:, :, 3:], there[:, :, :-3])


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


def test_the_same_seed_gives_the_same_weights():
    one, same, other = (built(model(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["normal.1.conv.weight"], other["normal.1.conv.weight"])


def norm(**settings) -> Norm:
    from deepseg.config.model import BatchNorm

    return Norm(2, BatchNorm.model_validate(settings))


def test_window_statistics_are_the_mean_over_all_rows_seen_or_not():
    """mu = (t/N) mean(mu), var = (t/N) mean(var) + 1 - t/N after t of N steps, then the last N."""
    own = norm(statistics="window", length=4)
    batches = [torch.randn(3, 2, 4, 5, 6) * (1 + step) + step for step in range(6)]
    means = torch.stack([x.mean((0, 2, 3, 4)) for x in batches])
    variances = torch.stack([x.var((0, 2, 3, 4), correction=0) for x in batches])
    for step, x in enumerate(batches, start=1):
        own(x)
        if step == 3:
            torch.testing.assert_close(own.running_mean, 3 / 4 * means[:3].mean(0))
            torch.testing.assert_close(own.running_var, 3 / 4 * variances[:3].mean(0) + 1 / 4)
    torch.testing.assert_close(own.running_mean, means[2:].mean(0))
    torch.testing.assert_close(own.running_var, variances[2:].mean(0))


def test_exponential_statistics_move_by_their_momentum():
    own = norm(momentum=0.25)
    x = torch.randn(3, 2, 4, 5, 6) * 3 + 2
    own(x)
    torch.testing.assert_close(own.running_mean, 0.25 * x.mean((0, 2, 3, 4)))
    variance = x.var((0, 2, 3, 4), correction=0)
    torch.testing.assert_close(own.running_var, 0.75 + 0.25 * variance)


def test_training_normalises_with_the_batch_and_a_frozen_norm_with_its_statistics():
    own = norm()
    x = torch.randn(3, 2, 4, 5, 6) * 3 + 2
    assert own(x).mean().abs() < 1e-5
    own.is_frozen = True
    before = own.running_mean.clone()
    assert own(x).mean() > 1
    assert torch.equal(own.running_mean, before)


def test_layers_can_be_named_by_ranges_and_wildcards():
    plan = layout(model())
    assert plan.addresses(["normal.2-3", "sub*.1", "head"]) == (
        "normal.2",
        "normal.3",
        "sub1.1",
        "sub2.1",
        "fc.2",
    )


def test_a_name_of_no_layer_is_refused_with_the_nearest_one():
    with pytest.raises(DeepsegError) as refusal:
        layout(model()).addresses(["nromal.1", "fc.9"])
    assert str(refusal.value) == (
        "[layer-unknown] got 'nromal.1'; expected layers of normal.1-3, sub1.1-3, sub2.1-3, "
        "fc.1-2; fix: name layers as pathway.number or pathway.first-last; did you mean "
        "'normal.1'?\n"
        "[layer-unknown] got 'fc.9'; expected layers of normal.1-3, sub1.1-3, sub2.1-3, fc.1-2; "
        "fix: name layers as pathway.number or pathway.first-last; did you mean 'fc.2'?"
    )


def test_depth_counts_parallel_layers_together_and_fc_layers_behind_the_longest():
    config = model(
        subsampled={"factors": [3], "feature_maps": [2, 7], "kernels": [3, [5, 5, 5]]}, fc={}
    )
    assert {layer.address: layer.depth for layer in layout(config)} == {
        "normal.1": 1, "normal.2": 2, "normal.3": 3, "sub1.1": 1, "sub1.2": 2, "fc.1": 4,
    }  # fmt: skip


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
    layer.drops = False
    assert layer(x).unique().tolist() == [0.75]
    layer.drops = True
    assert layer.eval()(x).unique().tolist() == [0.75]
