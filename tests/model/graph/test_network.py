"""Networks that torch has exported compute, learn and freeze as the originals do."""

import copy

import pytest
import torch
from torch import nn

from deepseg.errors import DeepsegError
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.graph.initialisation import initialised
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.record import graph_from_record, graph_record
from deepseg.storage.save_file import SaveFile, read_save, write_save
from deepseg.transfer.sources.onnx_file import read_onnx
from tests.onnx_models import NETWORKS, export, trained

SIZES = [(1, 2, 8, 16, 12), (2, 2, 16, 12, 20)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The graph of a network by its name and its exporter, and the network."""
    folder, done = tmp_path_factory.mktemp("onnx"), {}

    def graph(name, exporter="torchscript"):
        if (name, exporter) not in done:
            network = trained(name)
            image = torch.randn(1, 2, 8, 16, 12, generator=torch.Generator().manual_seed(1))
            file = export(network, image, folder / f"{name}_{exporter}.onnx", exporter)
            done[name, exporter] = read_onnx(file), network
        return done[name, exporter]

    return graph


def image(shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expected_weights(network):
    """Parameters and statistics, without the counters that no graph has."""
    state = network.state_dict()
    return {name: value for name, value in state.items() if "num_batches" not in name}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_exported_network_computes_the_same_at_two_sizes(exported, name, exporter):
    graph, original = exported(name, exporter)
    network = GraphNetwork(graph, drops_softmax=False).eval()
    for shape in SIZES if exporter == "torchscript" else [SIZES[0], (1, *SIZES[1][1:])]:
        with torch.no_grad():
            (scores,), right = network(image(shape)), original(image(shape))
        assert (scores - right).abs().max() <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_and_statistic_has_its_name_and_value(exported, name):
    graph, original = exported(name)
    network = GraphNetwork(graph)
    state, right = network.state_dict(), expected_weights(original)
    assert state.keys() == right.keys()
    assert all(torch.equal(state[key], value) for key, value in right.items())
    parameters = {key for key, _ in original.named_parameters()}
    assert {key for key, _ in network.named_parameters()} == parameters


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_every_parameter_learns(exported, name, exporter):
    network = GraphNetwork(exported(name, exporter)[0]).train()
    (scores,) = network(image((2, 2, 8, 16, 12) if exporter == "torchscript" else SIZES[0]))
    scores.square().sum().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_is_that_of_the_original(exported, name):
    graph, original = exported(name)
    network, twin = (
        GraphNetwork(graph, drops_softmax=False).train(),
        copy.deepcopy(original).train(),
    )
    for module, compute in ((network, lambda x: network(x)[0]), (twin, twin)):
        optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
        for seed in range(3):
            optimizer.zero_grad()
            compute(image((2, 2, 8, 16, 12), seed)).square().mean().backward()
            optimizer.step()
    right = expected_weights(twin)
    assert all(
        torch.allclose(value, right[key], rtol=1e-4, atol=1e-5)
        for key, value in network.state_dict().items()
    )


def test_five_steps_of_a_new_head_leave_the_network_as_it_was_to_the_bit(exported):
    network = GraphNetwork(exported("residual")[0], outputs=["pool"]).train()
    network.requires_grad_(False)
    network.freeze_statistics()
    before = copy.deepcopy(network.state_dict())
    head = nn.Conv3d(6, 5, 1)
    optimizer = torch.optim.SGD(
        [*network.parameters(), *head.parameters()], 0.1, momentum=0.9, weight_decay=0.1
    )
    start = head.weight.clone()
    for seed in range(5):
        optimizer.zero_grad()
        (maps,) = network(image((2, 2, 8, 16, 12), seed))
        head(maps).square().mean().backward()
        optimizer.step()
    assert not torch.equal(head.weight, start)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_statistics_move_without_being_frozen_and_only_where_they_are_not(exported):
    network = GraphNetwork(exported("residual")[0]).train()
    network.freeze_statistics(["norm1"])
    before = copy.deepcopy(network.state_dict())
    network(image(SIZES[0]))
    moved = [key for key, value in network.state_dict().items() if not before[key].equal(value)]
    assert moved == ["norm2.running_mean", "norm2.running_var"]
    network.freeze_statistics([])
    network(image(SIZES[0]))
    assert not before["norm1.running_mean"].equal(network.state_dict()["norm1.running_mean"])


def test_inner_tensors_are_outputs(exported):
    graph, original = exported("unet")
    network = GraphNetwork(graph, outputs=["encoder.1", "decoder.0"]).eval()
    calls = []
    for block in (original.encoder[1], original.decoder[0]):
        block.register_forward_hook(lambda _module, _inputs, y: calls.append(y))
    with torch.no_grad():
        results = network(image(SIZES[0]))
        original(image(SIZES[0]))
    assert [torch.equal(y, right) for y, right in zip(results, calls, strict=True)] == [True, True]
    assert not any(key.startswith("head") for key in network.state_dict())


def test_the_softmax_is_dropped_with_a_notice(exported):
    graph, original = exported("unet")
    network = GraphNetwork(graph).eval()
    with torch.no_grad():
        (scores,) = network(image(SIZES[0]))
        assert torch.allclose(scores.softmax(1), original(image(SIZES[0])), atol=1e-6)
    assert len(network.notices) == 1
    assert network.notices[0].startswith("Softmax ")


def test_layers_are_named_after_their_modules(exported):
    layers = GraphNetwork(exported("residual")[0]).layers
    assert [(layer.name, layer.operator) for layer in layers] == [
        ("stem", "Conv"),
        ("norm1", "BatchNormalization"),
        ("slope", "Unsqueeze"),
        ("conv", "Conv"),
        ("norm2", "BatchNormalization"),
        ("head", "Conv"),
    ]
    assert layers[3].weights == ("conv.weight",)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_save_holds_the_graph_and_its_weights(exported, name, tmp_path):
    network = GraphNetwork(exported(name)[0]).eval()
    record = graph_record(network.graph, with_weights=False)
    assert all(isinstance(shape, list) for shape in record["weights"].values())
    write_save(tmp_path / "m.save", SaveFile({"graph": record}, network.state_dict()))
    save = read_save(tmp_path / "m.save")
    copied = GraphNetwork(graph_from_record(save.model["graph"])).eval()
    copied.load_state_dict(dict(save.weights))
    with torch.no_grad():
        assert torch.equal(copied(image(SIZES[0]))[0], network(image(SIZES[0]))[0])


def test_a_record_with_weights_is_whole(exported):
    graph = GraphNetwork(exported("vnet", "dynamo")[0]).graph
    copied = graph_from_record(graph_record(graph))
    assert copied.nodes == graph.nodes
    assert copied.inputs == graph.inputs
    with torch.no_grad():
        first, second = GraphNetwork(graph).eval(), GraphNetwork(copied).eval()
        assert torch.equal(first(image(SIZES[0]))[0], second(image(SIZES[0]))[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"format": 2}, "ValueError: format 2, not 1", id="newer"),
        pytest.param({"nodes": [{}]}, "KeyError: 'attributes'", id="no attributes"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(exported, change, reason):
    record = graph_record(exported("residual")[0]) | change
    with pytest.raises(DeepsegError) as error:
        graph_from_record(record)
    assert str(error.value) == (
        f"[graph-record] got a graph that cannot be read ({reason}); expected nodes, weights and "
        "constants as deepseg writes them; fix: use the deepseg that wrote the file, or an earlier "
        "file of the session"
    )


def test_the_topology_alone_gets_new_weights_from_a_seed(exported):
    graph = exported("residual")[0]
    first, second = (
        GraphNetwork(initialised(graph, rng=torch.Generator().manual_seed(4))).state_dict()
        for _ in range(2)
    )
    old = GraphNetwork(graph).state_dict()
    assert all(first[key].equal(second[key]) for key in first)
    assert [key for key in first if first[key].equal(old[key])] == []
    assert first["norm1.running_var"].tolist() == [1.0] * 6
    assert first["norm1.weight"].tolist() == [1.0] * 6
    assert first["norm1.running_mean"].tolist() == [0.0] * 6
    assert first["stem.bias"].tolist() == [0.0] * 6
    kernel = initialised(wide_graph(), rng=torch.Generator().manual_seed(4)).weights[
        "w"
    ]  # fan-in 8 x 27
    assert abs(kernel.std().item() / (2 / 216) ** 0.5 - 1) < 0.02


def wide_graph():
    conv = GraphNode("Conv", ("x", "w"), ("y",))
    return Graph((conv,), (GraphInput("x"),), ("y",), {"w": torch.zeros(64, 8, 3, 3, 3)}, {}, 17)


def test_names_that_torch_uses_itself_are_kept_apart():
    names = ("train", "a", "a.type", "a..b")
    tensors = ("x", *(f"{name} sum" for name in names))
    nodes = tuple(
        GraphNode("Add", (tensors[n], name), (tensors[n + 1],)) for n, name in enumerate(names)
    )
    weights = {name: torch.tensor([float(n)]) for n, name in enumerate(names)}
    graph = Graph(nodes, (GraphInput("x"),), tensors[-1:], weights, {}, 17)
    network = GraphNetwork(graph)
    assert network(torch.zeros(1))[0].item() == 0 + 1 + 2 + 3
    keys = ("train_", "a", "a_.type_", "a_._.b")
    assert dict(network.keys) == dict(zip(names, keys, strict=True))
    assert network.state_dict().keys() == set(network.keys.values())


def test_a_weight_that_two_nodes_share_is_one_parameter():
    nodes = tuple(GraphNode("Mul", (x, "w"), (y,)) for x, y in [("x", "a"), ("a", "b")])
    graph = Graph(nodes, (GraphInput("x"),), ("b",), {"w": torch.tensor([3.0])}, {}, 17)
    network = GraphNetwork(graph)
    assert network(torch.tensor([2.0]))[0].item() == 18.0
    assert [key for key, _ in network.named_parameters()] == ["w"]


def test_tensors_are_released_after_their_last_reader():
    nodes = tuple(GraphNode("Relu", (x,), (y,)) for x, y in ["xa", "ab", "bc"])
    network = GraphNetwork(Graph(nodes, (GraphInput("x"),), ("c",), {}, {}, 17))
    assert [step.released for step in network.program.steps] == [("x",), ("a",), ("b",)]
