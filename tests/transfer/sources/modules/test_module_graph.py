"""Modules of torch become graphs that compute, learn and are called as the modules are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepseg.errors import DeepsegError
from deepseg.model.graph.network import GraphNetwork
from deepseg.transfer.sources.modules import module_graph
from deepseg.transfer.sources.modules.module_graph import graph_of_module
from tests.networks import trained_network
from tests.onnx_models import NETWORKS, trained


@pytest.fixture(autouse=True)
def _small_images(monkeypatch):
    monkeypatch.setattr(module_graph, "SIZES", ((8, 12, 16),))


class Gates(nn.Module):
    """Sizes of the image, pieces of it, shared weights and operations that work in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(2, 4, (3, 1, 3), padding="same", padding_mode="zeros", bias=False)
        self.norm = nn.InstanceNorm3d(4)
        self.same = self.stem
        self.scale = nn.Linear(4, 4)
        self.drop = nn.Dropout3d(0.5)
        self.register_buffer("shift", torch.tensor([0.5]))

    def forward(self, image):
        x = F.relu_(self.norm(self.stem(image)))
        first, second = x.chunk(2, 1)
        x = torch.cat([second.mul(2), first - self.shift], 1)
        weights = self.scale(F.adaptive_avg_pool3d(x, 1).flatten(1))
        x = self.drop(x * weights.view(weights.shape[0], -1, 1, 1, 1))
        low = F.avg_pool3d(F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate"), (3, 1, 1), stride=1)
        half = F.max_pool3d(low, 2)
        return x + F.interpolate(half, size=x.shape[2:], mode="trilinear", align_corners=True)


class OfValues(nn.Module):
    def forward(self, image):
        return image * 2 if image.mean() > 0 else image


class OtherLater(nn.Module):
    """Computes something else after its first images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 1)

    def forward(self, image):
        y = self.conv(image)
        y.view(-1).mul_(3)
        return y


def image(shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def gates():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Gates().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_computes_what_the_module_does_at_other_sizes(name):
    module = trained(name)
    network = GraphNetwork(graph_of_module(module), drops_softmax=False).eval()
    for shape in [(1, 2, 16, 8, 12), (3, 2, 8, 24, 16)]:
        with torch.no_grad():
            (scores,), right = network(image(shape)), module(image(shape))
        assert torch.equal(scores, right)
    expected = {key: v for key, v in module.state_dict().items() if "num_batches" not in key}
    state = network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


class Reading(nn.Module):
    """A network of our own with one pathway, as a module that reads an image."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network([image])


def test_networks_of_our_own_are_modules_too():
    """Residuals around wider and narrower layers, flat kernels, borders of mirrored voxels."""
    module = Reading(
        trained_network(
            subsampled=None,
            normal={"feature_maps": [3, 6, 4], "residuals": [2, 3], "low_rank": [2]},
            fc={"feature_maps": [5], "kernels": [3, 1], "padding": ["mirror", "none"]},
        )
    )
    network = GraphNetwork(graph_of_module(module), drops_softmax=False).eval()
    for shape in [(1, 2, 9, 11, 13), (2, 2, 15, 8, 10)]:
        with torch.no_grad():
            (scores,), right = network(image(shape)), module(image(shape))
        assert (scores - right).abs().max() <= 1e-5
    assert dict(network.named_parameters()).keys() == dict(module.named_parameters()).keys()


def test_sizes_that_follow_the_image_and_pieces_of_it_stay_free(gates):
    network = GraphNetwork(graph_of_module(gates)).eval()
    for shape in [(1, 2, 9, 7, 11), (2, 2, 8, 6, 4)]:
        with torch.no_grad():
            assert torch.allclose(network(image(shape))[0], gates(image(shape)), atol=1e-6)


def test_weights_with_two_names_have_the_first_and_buffers_stay_constant(gates):
    network = GraphNetwork(graph_of_module(gates))
    assert {key for key, _ in network.named_parameters()} == {
        "stem.weight", "scale.weight", "scale.bias",
    }  # fmt: skip
    assert set(network.state_dict()) == {"stem.weight", "scale.weight", "scale.bias"}


def test_whole_maps_are_dropped_in_training(gates):
    network = GraphNetwork(graph_of_module(gates), outputs=["drop"]).train()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        (y,) = network(image((4, 2, 8, 8, 8)).abs())
    dropped = (y == 0).flatten(2)
    whole = dropped.all(2)
    assert whole.any()
    assert not whole.all()
    assert torch.equal(dropped[whole].all(1), torch.ones(int(whole.sum()), dtype=torch.bool))


def test_a_training_step_moves_statistics_and_weights_as_that_of_the_module():
    module = trained("residual").train()
    network = GraphNetwork(graph_of_module(module), drops_softmax=False).train()
    for net in (module, network):
        y = net(image((2, 2, 8, 8, 8)))
        (y if isinstance(y, torch.Tensor) else y[0]).square().sum().backward()
    state = network.state_dict()
    for name, value in module.state_dict().items():
        if "num_batches" not in name:
            assert torch.allclose(state[name], value, atol=1e-6), name
    gradients = dict(network.named_parameters())
    for name, weight in module.named_parameters():
        assert torch.allclose(gradients[name].grad, weight.grad, atol=1e-5), name


def test_the_module_and_its_mode_stay_as_they_are():
    module = trained("residual").train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph_of_module(module)
    assert module.training
    assert all(weight.requires_grad for weight in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_parts_are_called_by_the_names_of_modules():
    graph = graph_of_module(trained("unet"))
    network = GraphNetwork(graph, outputs=["encoder.1"])
    with torch.no_grad():
        (y,) = network.eval()(image((1, 2, 8, 8, 8)))
        blocks = trained("unet").encoder
        assert torch.equal(y, blocks[1](blocks[0](image((1, 2, 8, 8, 8)))))


def test_an_operation_that_is_not_covered_is_refused_where_it_is_needed_only():
    with torch.random.fork_rng():
        module = nn.Sequential(nn.Conv3d(1, 2, 1), nn.LPPool3d(2, 2))
    graph = graph_of_module(module)
    (y,) = GraphNetwork(graph, outputs=["0"])(image((1, 1, 4, 4, 4)))
    assert y.shape == (1, 2, 4, 4, 4)
    with pytest.raises(DeepsegError) as caught:
        GraphNetwork(graph)
    assert caught.value.problems[0].code == "graph-operator"
    assert "aten.sign at 'sign'" in caught.value.problems[0].got


@pytest.mark.parametrize(
    ("module", "code", "got"),
    [
        pytest.param(
            lambda: nn.Conv2d(1, 2, 3), "module-image",
            "a module that computes no image of 8 x 12 x 16 to 8 x 12 x 16 voxels: Expected 3D "
            "(unbatched) or 4D (batched) input to conv2d, but got input of size: [2, 1, 8, 12, 16]",
            id="of two axes",
        ),
        pytest.param(
            OfValues, "module-untraceable",
            "a computation that torch.export cannot trace: ", id="that looks at values",
        ),
        pytest.param(
            OtherLater, "module-untraceable",
            "a graph that differs by ", id="that changes values through another name",
        ),
    ],
)  # fmt: skip
def test_modules_that_no_graph_can_be_made_of(module, code, got):
    with torch.random.fork_rng():
        network = module()
    with pytest.raises(DeepsegError) as caught:
        graph_of_module(network)
    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.got.startswith(got)
