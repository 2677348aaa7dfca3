"""A network as a graph: the same scores by another way, and the same weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepseg.exports.folding import folded_for_inference
from deepseg.exports.network_graph import LOGITS, inputs_of, network_graph
from deepseg.exports.onnx_bytes import onnx_bytes
from deepseg.exports.verification import inference_session, raise_if_different
from deepseg.geometry.boxes import add
from deepseg.model.checkpoint import new_checkpoint
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.graph.network import GraphNetwork
from deepseg.transfer.imported import read_imported
from tests.exports.networks import KINDS, kind_of_network
from tests.imported_networks import write_encoder
from tests.networks import small_config


def image(network, box, more, seed=0):
    rng = torch.Generator().manual_seed(seed)
    size = add(box.input_sizes.smallest, more)
    return torch.randn(2, len(network.config.channels), *size, generator=rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["as it is", "folded"])
def test_a_graph_computes_what_its_network_computes(kind, form):
    network = kind_of_network(kind)
    exported = network_graph(network)
    graph = exported.graph if form == "as it is" else folded_for_inference(exported.graph)
    module = GraphNetwork(graph, drops_softmax=False).eval()
    for more in ((0, 1, 2), (3, 5, 4)):
        x = image(network, exported.box, more)
        with torch.no_grad():
            (probabilities,) = module(x)
            expected = network(inputs_of(exported.box, x)).softmax(1)
        assert probabilities.shape == expected.shape
        assert torch.allclose(probabilities, expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["borders of zeros and of mirrored voxels", "low rank"])
def test_onnxruntime_computes_it_too(kind):
    network = kind_of_network(kind)
    exported = network_graph(network)
    content = onnx_bytes(
        replace(exported.graph, outputs=(LOGITS,)), output_maps={LOGITS: 3}, metadata={}
    )
    raise_if_different(content, network, exported.box)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_keep_names_and_bits(kind):
    network = kind_of_network(kind)
    weights = network_graph(network).graph.weights
    state = {
        name: value
        for name, value in network.state_dict().items()
        if not name.endswith(("window_mean", "window_var", "steps"))
    }
    assert sorted(weights) == sorted(state)
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_a_layer_is_cut_out_by_its_address():
    network = kind_of_network("residuals that get more and fewer maps")
    exported = network_graph(network)
    module = GraphNetwork(exported.graph, outputs=["normal.3"]).eval()
    x = image(network, exported.box, (2, 1, 0))
    normal, _ = inputs_of(exported.box, x)
    pathway = next(network.pathways())
    first, second, third, _ = pathway.layers()
    with torch.no_grad():
        (maps,) = module(x)
        single = first(normal)
        two = second(single)
        two[:, :2] += normal[:, :, 2:-2, 2:-2, 2:-2]
        three = third(two) + single[:, :, 2:-2, 2:-2, 2:-2]
    assert torch.allclose(maps, three, atol=1e-5)


def conv_norm():
    """2 (3 x) normalised by mean 2, variance 4, scale 10, shift 1: 10 (6 x - 2) / 2 + 1."""
    weights = {
        "conv.weight": torch.full((1, 1, 1, 1, 1), 6.0),
        "norm.weight": torch.tensor([10.0]),
        "norm.bias": torch.tensor([1.0]),
        "norm.mean": torch.tensor([2.0]),
        "norm.var": torch.tensor([4.0]),
    }
    nodes = (
        GraphNode("Conv", ("image", "conv.weight"), ("c",)),
        GraphNode(
            "BatchNormalization",
            ("c", "norm.weight", "norm.bias", "norm.mean", "norm.var"),
            ("y",),
            {"epsilon": 0.0},
        ),
    )
    shape = (None, 1, None, None, None)
    return Graph(nodes, (GraphInput("image", shape),), ("y",), weights, {}, 17)


def test_normalisation_becomes_weight_and_bias_of_the_convolution_before():
    graph = folded_for_inference(conv_norm())
    assert [node.operator for node in graph.nodes] == ["Conv"]
    assert {name: value.flatten().tolist() for name, value in graph.weights.items()} == {
        "conv.weight.folded": [30.0],
        "conv.weight.bias.folded": [-9.0],
    }


def test_a_result_that_others_read_is_left_alone():
    graph = conv_norm()
    graph = replace(graph, outputs=("y", "c"))
    assert folded_for_inference(graph) == graph


def test_folded_weights_are_never_called_like_those_of_the_model():
    network = kind_of_network("dropout and residuals in the final layers")
    weights, state = (
        folded_for_inference(network_graph(network).graph).weights,
        network.state_dict(),
    )
    assert [n for n in weights if n in state and not torch.equal(weights[n], state[n])] == []
    changed = {name.removesuffix(".folded") for name in weights if name.endswith(".folded")}
    assert "normal.1.conv.weight" in changed  # with the bias of the channels
    assert "fc.3.conv.weight" in changed  # with the share that dropout keeps
    assert not changed & weights.keys()


def test_a_file_has_no_domain_but_the_default_one_and_free_axes():
    onnx = pytest.importorskip("onnx")
    network = kind_of_network("one pathway")
    graph = network_graph(network).graph
    content = onnx_bytes(graph, output_maps={"probabilities": 3}, metadata={"note": "here"})
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("note", "here")]
    (entry,) = model.graph.input
    axes = entry.type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch", 2, "x", "y", "z"]
    session = inference_session(content)
    (shares,) = session.run(None, {"image": np.zeros((1, 2, 5, 6, 7), np.float32)})
    assert shares.shape == (1, 3, 1, 2, 3)
    assert np.allclose(shares.sum(1), 1)


IMPORTED = {
    "its own classifier": {"imported": [{"margin": 4}], "fc": "none", "classes": ["rest", "a"]},
    "maps that are repeated": {"imported": [{"output": ["last_act", "norm"], "margin": 1}]},
    "maps that are interpolated": {
        "imported": [{"output": ["last_act", "norm"], "upsampling": "linear"}],
        "normal": {"feature_maps": [3]},
        "subsampled": {"factors": [3]},
    },
}


@pytest.mark.parametrize("kind", IMPORTED)
def test_an_imported_network_computes_what_it_computes_in_a_model(kind, tmp_path):
    write_encoder(tmp_path / "net.onnx", channels=2)
    changes = {"normal": None, "subsampled": None, "segments": {"train": 24}, **IMPORTED[kind]}
    blocks = [{"file": str(tmp_path / "net.onnx"), **block} for block in changes["imported"]]
    imported = read_imported(small_config(**{**changes, "imported": blocks}), Path("model.yaml"))
    model = new_checkpoint(imported.config, seed=1, imported=imported.weights)
    network = model.network().eval()
    exported = network_graph(network)
    for graph in (exported.graph, folded_for_inference(exported.graph)):
        scores = replace(graph, outputs=(LOGITS,))
        classes = len(model.config.classes)
        content = onnx_bytes(scores, output_maps={LOGITS: classes}, metadata={})
        raise_if_different(content, network, exported.box)
    assert exported.graph.weights.keys() == network.state_dict().keys()
