"""Older versions of operators: the same function in the newer one, or a refusal."""

import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.exports.modernisation import modernised
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.graph.network import GraphNetwork

IMAGE = (1, 2, 4, 6, 5)


def graph_of(nodes, opset, **weights):
    outputs = (nodes[-1].outputs[0],)
    return Graph(nodes, (GraphInput("x", (None,) * 5),), outputs, weights, {}, opset)


def run(graph, x):
    with torch.no_grad():
        return GraphNetwork(graph, drops_softmax=False).eval()(x)[0]


CASES = {
    "ranges": (9, 17, "Slice", {"starts": (1,), "ends": (3,), "axes": (2,)}),
    "borders": (9, 17, "Pad", {"pads": (0, 0, 1, 0, 2, 0, 0, 0, 3, 0), "value": 2.5}),
    "limits": (9, 17, "Clip", {"max": 0.5}),
    "pieces": (11, 18, "Split", {"axis": 2}),
    "means": (17, 18, "ReduceMean", {"axes": (2, 4), "keepdims": 1}),
    "finer grids": (9, 17, "Upsample", {"mode": "nearest"}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_computes_the_same_in_a_newer_version(case):
    old, new, operator, attributes = CASES[case]
    weights = {"s": torch.tensor([1.0, 1.0, 2.0, 1.0, 3.0])} if operator == "Upsample" else {}
    outputs = ("y", "z") if operator == "Split" else ("y",)
    node = GraphNode(operator, ("x", *weights), outputs, attributes)
    graph = graph_of((node,), old, **weights)
    newer = modernised(graph, new)
    assert newer.opset == new
    assert not newer.nodes[0].attributes.keys() & {"starts", "pads", "max", "axes", "scales"}
    x = torch.randn(IMAGE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(newer, x), run(graph, x))


def test_a_graph_that_is_new_enough_stays_as_it_is():
    graph = graph_of((GraphNode("Relu", ("x",), ("y",)),), 20)
    assert modernised(graph, 18) is graph


def test_an_operator_of_another_meaning_is_refused():
    nodes = (GraphNode("Softmax", ("x",), ("y",), {"axis": 1}),)
    with pytest.raises(DeepsegError) as refusal:
        modernised(graph_of(nodes, 11), 17)
    assert str(refusal.value) == (
        "[export-version] got Softmax 'y' of version 11, which means something else since 13; "
        "expected operators of one version in all of the network; "
        "fix: export the imported network again with opset_version=17"
    )
    last = (GraphNode("Softmax", ("x",), ("y",), {"axis": 4}),)
    x = torch.randn(IMAGE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(modernised(graph_of(last, 11), 17), x), x.softmax(4))
