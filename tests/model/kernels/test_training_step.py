"""A training step in its quick form against the plain one: logits, all gradients, statistics."""

import copy

import pytest
import torch
from torch.nn import functional as F

from deepseg.geometry.repetition import groups
from deepseg.model import kernels
from deepseg.model.feature_maps import cropped, padded, repeated
from deepseg.model.kernels import Statistics, dropout_mask, fused_preactivation
from deepseg.model.kernels.repeated_convolution import repeated_sums
from deepseg.model.kernels.statistics import batch_statistics
from deepseg.model.layers import LowRankConvolution, Norm, PRelu
from deepseg.model.network import Network
from tests.networks import network_inputs, trained_network

SEGMENT = (13, 11, 15)


def plain_logits(network, inputs):
    """Repeat, join, and one simple operation after the other."""
    *parallel, fc = network.pathways()
    outputs = [plain_pathway(pathway, x) for pathway, x in zip(parallel, inputs, strict=True)]
    size = tuple(outputs[0].shape[2:])
    joined = [
        repeated(y, pathway.plan.geometry.factor, size)
        for pathway, y in zip(parallel, outputs, strict=True)
    ]
    *_, head = fc.layers()
    return plain_pathway(fc, torch.cat(joined, 1)) + head.bias.view(-1, 1, 1, 1)


def plain_pathway(pathway, x):
    before = x
    for layer in pathway.layers():
        y = plain_layer(layer, x)
        if layer.plan.adds_earlier_input:
            maps = min(y.shape[1], before.shape[1])
            middle = cropped(before[:, :maps], tuple(y.shape[2:]), pathway.alignment)
            y = y + F.pad(middle, (0,) * 7 + (y.shape[1] - maps,))
        before, x = x, y
    return x


def plain_layer(layer, x):
    x = x + layer.input_bias.view(-1, 1, 1, 1) if layer.norm is None else plain_norm(layer.norm, x)
    x = (
        F.prelu(x, layer.activation.weight)
        if isinstance(layer.activation, PRelu)
        else (layer.activation(x))
    )
    x = x * (mask_like(x, layer.plan.dropout) if layer.dropout_active else 1 - layer.plan.dropout)
    x = padded(x, layer.plan.kernel, layer.plan.padding)
    if not isinstance(layer.conv, LowRankConvolution):
        return F.conv3d(x, layer.conv.weight)
    parts = []
    for flat in layer.conv.children():
        y = F.conv3d(x, flat.weight)
        for axis, k in zip((2, 3, 4), layer.plan.kernel, strict=True):
            if y.shape[axis] == x.shape[axis]:
                y = y.narrow(axis, (k - 1) // 2, x.shape[axis] - k + 1)
        parts.append(y)
    return torch.cat(parts, 1)


def mask_like(x, rate):
    """The same for maps of the same shape, whoever asks."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) > rate


def plain_norm(norm: Norm, x):
    mean, variance = norm.running_mean, norm.running_var
    if norm.training and not norm.is_frozen:
        mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
        norm.update_running(Statistics(mean.detach(), variance.detach(), norm.settings.epsilon))
    per_map = lambda one: one.view(-1, 1, 1, 1)  # noqa: E731
    y = (x - per_map(mean)) / torch.sqrt(per_map(variance) + norm.settings.epsilon)
    return y * per_map(norm.weight) + per_map(norm.bias)


def network_of(*, seed: int = 3, **changes) -> Network:
    """In float64, with values of its own in every norm, slope and bias; nothing is dropped."""
    settings = {
        "normal": {"feature_maps": [3, 4, 5], "residuals": [3]},
        "subsampled": {"factors": [3, [2, 1, 4]]},
        "fc": {
            "feature_maps": [11, 6],
            "kernels": [3, 1, 1],
            "padding": ["mirror", "none", "none"],
            "residuals": [2],
        },
        "segments": {"train": SEGMENT},
        **changes,
    }
    network = trained_network(seed=seed, **settings).double().train()
    for layer in network.layers():
        layer.dropout_enabled = False
    return network


def inputs_of(network):
    return [x.double() for x in network_inputs(network, SEGMENT)]


def step(network, forward, inputs):
    """Logits, all gradients and all statistics."""
    logits = forward(network, inputs)
    rng = torch.Generator().manual_seed(8)
    (logits * torch.randn(logits.shape, generator=rng).to(logits)).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}


def quick(network, inputs):
    return network(inputs)


def plain(network, inputs):
    with kernels.switched_off():
        return network(inputs)


def compare(network, **tolerance):
    """The quick step, and that of torch's plain operations, with the one written here."""
    dtype = next(network.parameters()).dtype
    inputs = [x.to(dtype) for x in inputs_of(network)]
    expected = step(copy.deepcopy(network), plain_logits, inputs)
    for forward in (quick, plain):
        result = step(copy.deepcopy(network), forward, inputs)
        assert result.keys() == expected.keys()
        for name, tensor in result.items():
            torch.testing.assert_close(
                tensor,
                expected[name],
                msg=lambda m, n=name, f=forward: f"{f.__name__} {n}: {m}",
                **tolerance,
            )


FC = {"feature_maps": [11, 6], "residuals": [2]}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="odd, even and anisotropic factors"),
        pytest.param({"subsampled": {"factors": [3, 5]}}, id="factors that leave a part over"),
        pytest.param({"subsampled": None}, id="one pathway"),
        pytest.param({"fc": {**FC, "kernels": [3, 1, 1]}}, id="unpadded"),
        pytest.param({"fc": {**FC, "kernels": [3, 3, 1], "residuals": [2]}}, id="cropped residual"),
        pytest.param({"fc": {**FC, "kernels": [[3, 5, 1], 1, 1], "padding": "zero"}}, id="zero"),
        pytest.param({"fc": {**FC, "kernels": [[5, 7, 3], 1, 1], "padding": "mirror"}}, id="wide"),
        pytest.param({"fc": {"feature_maps": []}}, id="only a head"),
        *[
            pytest.param(
                {
                    "normal": {
                        "feature_maps": [3, 4, 5],
                        "kernels": [[2, 3, 4], [3, 2, 1], 2],
                        "residuals": [3],
                    },
                    "fc": {**FC, "kernels": [[4, 2, 1], [2, 1, 1], 1], "padding": "none"},
                    "context_alignment": alignment,
                },
                id=f"even kernels, {alignment}",
            )
            for alignment in ("centred", "deepmedic")
        ],
        pytest.param({"fc": {**FC, "feature_maps": [40, 6]}}, id="a narrow residual"),
        pytest.param(
            {"normal": {"feature_maps": [3, 4, 5], "low_rank": [2, 3], "residuals": [3]}},
            id="low rank",
        ),
        pytest.param(
            {"normal": {"feature_maps": [3, 4, 5], "padding": ["zero", "zero", "mirror"]}},
            id="padding beside context",
        ),
        pytest.param({"fc": {**FC, "dropout": [0.25, 0.5, 0.5]}}, id="scaling of dropout"),
        *[
            pytest.param({"activation": item}, id=item)
            for item in ("linear", "relu", "elu", "selu")
        ],
        pytest.param({"batch_norm": "none"}, id="biases"),
        pytest.param({"batch_norm": {"statistics": "window", "length": 3}}, id="window"),
    ],
)
def test_the_step_is_that_of_one_simple_operation_after_the_other(changes):
    compare(network_of(**changes), rtol=1e-9, atol=1e-9)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_maps_of_many_pieces_take_the_same_step_on_one_thread_and_on_several(threads):
    """Of 739 200 values and 18 480 voxels: more than fit into a piece."""
    rng = torch.Generator().manual_seed(6)
    x, outer = torch.randn(2, 2, 40, 20, 21, 22, generator=rng).double()
    weight, bias, slopes = torch.rand(3, 40, generator=rng).double() + 0.5
    quick_x, plain_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    statistics = batch_statistics(x, 1e-5)
    y = fused_preactivation(quick_x, statistics, weight, bias, slopes)
    expected = F.prelu(F.batch_norm(plain_x, None, None, weight, bias, training=True), slopes)
    (y * outer).sum().backward()
    (expected * outer).sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(quick_x.grad, plain_x.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["prelu", "elu"])
def test_what_dropout_switches_off_has_no_part_in_the_step(monkeypatch, activation):
    monkeypatch.setattr(kernels, "dropout_mask", mask_like)
    monkeypatch.setattr(F, "dropout", lambda x, rate: x * mask_like(x, rate) / (1 - rate))
    network = network_of(activation=activation, fc={**FC, "dropout": [0.25, 0.5, 0.5]})
    for layer in network.layers():
        layer.dropout_enabled = True
    compare(network, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.75])
def test_dropout_switches_off_a_share_of_all_maps(rate):
    remaining = dropout_mask(torch.empty(3, 40, 20, 21, 22), rate)
    assert remaining.shape == (3, 40, 20, 21, 22)
    assert remaining.dtype == torch.bool
    off = 1 - remaining.float().mean((0, 2, 3, 4))
    assert (off - rate).abs().max() < 5 * (rate * (1 - rate) / (3 * 20 * 21 * 22)) ** 0.5 + 1e-9


def test_sums_over_copies_of_a_voxel_are_rounded_once():
    rng = torch.Generator().manual_seed(5)
    fine = torch.randn(2, 3, 9, 10, 15, generator=rng).bfloat16()
    fine = fine.contiguous(memory_format=torch.channels_last_3d)
    where = [
        groups(0, n, factor=f, size=n, kernel=1, border="none")[0]
        for n, f in zip((9, 10, 15), (3, 5, 5), strict=True)
    ]
    result = repeated_sums(fine, where, (3, 5, 5))
    exact = fine.double().reshape(2, 3, 3, 3, 2, 5, 3, 5).sum((3, 5, 7))
    torch.testing.assert_close(result.double(), exact, rtol=2**-8, atol=1e-5)


def test_maps_of_many_pieces_are_activated_without_gradients_too(threads):
    x = torch.randn(2, 40, 20, 21, 22)
    item = torch.ones(40)
    with torch.inference_mode():
        result = fused_preactivation(x, Statistics(0 * item, item, 0.0), item, item, 0 * item)
    assert torch.equal(result, (x + 1).clamp(min=0))


def test_frozen_layers_use_their_statistics_and_have_no_gradients():
    network = network_of()
    for layer in network.layers():
        if layer.plan.address in ("normal.1", "normal.2", "fc.1"):
            layer.requires_grad_(False)
            if layer.norm is not None:
                layer.norm.is_frozen = True
    compare(network, rtol=1e-9, atol=1e-9)
    network(inputs_of(network)).sum().backward()
    assert network.fc.get_submodule("1").conv.weight.grad is None


def test_in_float32_the_step_is_as_exact_as_its_numbers():
    network = network_of(seed=4)  # with seed 3 rounding changes the sign of one PReLU argument
    expected = step(copy.deepcopy(network), plain_logits, inputs_of(network))
    network = network.float()
    result = step(network, quick, [x.float() for x in inputs_of(network)])
    for name, tensor in result.items():
        bound = 1e-4 * (1 + expected[name].norm())  # some are 0: a bias in front of a norm
        assert (tensor - expected[name]).norm() <= bound, name


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_in_float32_every_entry_is_that_of_plain_torch(seed):
    compare(network_of(seed=seed).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["prelu", "relu", "elu"])
def test_devices_without_quick_routines_take_the_same_step_in_torchs_own(activation, dtype):
    network = network_of(activation=activation).float().to("meta")
    inputs = [x.to("meta", dtype) for x in inputs_of(network)]
    logits = network(inputs)
    logits.sum().backward()
    assert logits.shape[:2] == (2, 3)
    assert logits.dtype == torch.float32
    assert {p.grad.dtype for p in network.parameters()} == {torch.float32}
