"""A graph is put in order, cut and searched by names; what cannot be is refused in one line."""

import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.model.graph.cut import cut
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode, joined
from deepseg.model.graph.names import nodes_by_name, tensor_by_name


def node(operator, inputs, output, name="", scope=""):
    return GraphNode(operator, tuple(inputs.split()), (output,), {}, name, scope)


NODES = (
    node("Conv", "image stem.weight", "a", "first", "stem"),
    node("Relu", "a", "b", "/stem/act/Relu", "stem.act"),
    node("Conv", "b body.0.conv.weight", "c", scope="body.0.conv"),
    node("Sigmoid", "c", "gate", scope="body.0.gate"),
    node("Mul", "c gate", "d", scope="body.0"),
    node("Conv", "d head.weight", "e", "head"),
    node("Softmax", "e", "scores", "softmax"),
)
WEIGHTS = {name: torch.ones(1) for name in ("stem.weight", "body.0.conv.weight", "head.weight")}


def graph(nodes=NODES, outputs=("scores",), weights=WEIGHTS):
    return Graph(tuple(nodes), (GraphInput("image"),), outputs, weights, {}, 17)


def refusal(function, *arguments, **settings) -> str:
    with pytest.raises(DeepsegError) as error:
        function(*arguments, **settings)
    return str(error.value)


def labels(part) -> list[str]:
    return [n.label for n in part.graph.nodes]


def test_nodes_are_put_in_the_order_of_their_tensors():
    assert joined(graph(reversed(NODES))).nodes == NODES


def test_nodes_in_order_keep_their_order():
    twins = [node("Relu", "image", name) for name in "zxy"]
    assert joined(graph(twins, ("x",))).nodes == tuple(twins)


def test_nodes_that_wait_for_each_other_are_refused():
    nodes = [node("Add", "image y", "x", "left"), node("Relu", "x", "y"), node("Relu", "y", "z")]
    assert refusal(joined, graph(nodes, ("z",))) == (
        "[graph-cycle] got 3 nodes that wait for each other, among them Add 'left'; "
        "expected a graph without cycles; fix: export the network again"
    )


def test_everything_that_nothing_computes_is_named_at_once():
    nodes = [node("Add", "image gone", "x", "sum"), node("Relu", "lost", "y")]
    assert refusal(joined, graph(nodes, ("y", "z"))).splitlines() == [
        f"[graph-incomplete] got {got}; expected a node that computes it; "
        "fix: export the network again"
        for got in ("Add 'sum' that reads 'gone'", "Relu 'y' that reads 'lost'", "an output 'z'")
    ]


@pytest.mark.parametrize("output", ["x", "image"])
def test_a_tensor_is_computed_once(output):
    nodes = [node("Relu", "image", "x"), node("Relu", "image", output)]
    assert refusal(joined, graph(nodes, ("x",))) == (
        f"[graph-incomplete] got tensor '{output}' computed twice; expected one node for every "
        "tensor; fix: export the network again"
    )


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        pytest.param("first", ["a"], id="a node's name"),
        pytest.param("a", ["a"], id="its first output"),
        pytest.param("head", ["e"], id="a name before a prefix"),
        pytest.param("stem", ["a", "b"], id="a module"),
        pytest.param("body.0.conv", ["c"], id="a prefix of weights"),
        pytest.param("body", ["c", "gate", "d"], id="a module of modules"),
    ],
)
def test_nodes_have_several_names(name, outputs):
    assert [n.outputs[0] for n in nodes_by_name(graph(), name)] == outputs


@pytest.mark.parametrize(
    ("name", "tensor"), [("head", "e"), ("gate", "gate"), ("stem", "b"), ("body", "d")]
)
def test_a_module_returns_what_others_read_of_it(name, tensor):
    assert tensor_by_name(graph(), name) == tensor


def test_a_part_of_a_word_is_no_module():
    assert "[graph-name-unknown]" in refusal(nodes_by_name, graph(), "bod")


def test_a_wrong_name_brings_the_nearest_ones():
    assert refusal(cut, graph(), ignore=["softmux"]) == (
        "[graph-name-unknown] got the name 'softmux'; expected a node, a tensor that one computes, "
        "or a module of the network; fix: correct the name; -show lists them all; "
        "the nearest are 'softmax', 'stem', 'stem.act'"
    )


def test_a_softmax_at_the_end_is_left_out_with_a_notice():
    part = cut(graph())
    assert part.graph.outputs == ("e",)
    assert part.notices == (
        "Softmax 'softmax' at the end of the network is left out: losses work on scores",
    )
    assert labels(cut(graph(), drops_softmax=False))[-1] == "softmax"


def test_a_sigmoid_behind_an_identity_is_left_out():
    nodes = [
        node("Conv", "image stem.weight", "a"),
        node("Sigmoid", "a", "b"),
        node("Identity", "b", "c"),
    ]
    part = cut(graph(nodes, ("c",)))
    assert part.graph.outputs == ("a",)
    assert len(part.notices) == 1


def test_an_identity_without_a_softmax_stays():
    nodes = [node("Conv", "image stem.weight", "a"), node("Identity", "a", "c")]
    assert cut(graph(nodes, ("c",))).graph.outputs == ("c",)


def test_a_gate_inside_the_network_is_no_end():
    part = cut(graph(), outputs=["gate"])
    assert part.graph.outputs == ("gate",)
    assert part.notices == ()


def test_a_cut_leaves_nothing_that_is_not_needed():
    part = cut(graph(), outputs=["stem", "gate"])
    assert part.graph.outputs == ("b", "gate")
    assert labels(part) == ["first", "/stem/act/Relu", "c", "gate"]
    assert list(part.graph.weights) == ["stem.weight", "body.0.conv.weight"]


def test_ignored_nodes_at_the_end_open_the_tensor_in_front_of_them():
    assert cut(graph(), ignore=["head", "softmax"]).graph.outputs == ("d",)
    assert cut(graph(), ignore=["softmax"]).graph.outputs == ("e",)


def test_an_ignored_node_that_another_needs_is_refused_with_both():
    assert refusal(cut, graph(), ignore=["first"]) == (
        "[graph-node-needed] got Conv 'first' among the nodes to leave out, and Relu "
        "'/stem/act/Relu', which reads it; expected nodes that no other node needs; "
        "fix: leave '/stem/act/Relu' out as well, or name an output in front of both"
    )


def test_an_ignored_node_behind_the_output_does_not_matter():
    assert labels(cut(graph(), outputs=["stem"], ignore=["head"])) == ["first", "/stem/act/Relu"]


def test_an_output_that_is_ignored_is_refused():
    assert refusal(cut, graph(), outputs=["head"], ignore=["head"]) == (
        "[graph-node-needed] got Conv 'head' among the nodes to leave out, and its output 'e'; "
        "expected an output that is not left out; fix: name another output"
    )


def test_several_open_tensors_are_named():
    assert refusal(cut, graph(), ignore=["d", "head", "softmax"]) == (
        "[graph-output-undecided] got 2 open tensors after leaving nodes out: 'c', 'gate'; "
        "expected one; fix: name the output"
    )


def test_a_network_without_anything_left_is_refused():
    assert refusal(cut, graph(), ignore=["stem", "body", "head", "softmax"]) == (
        "[graph-output-undecided] got 0 open tensors after leaving nodes out; expected one; "
        "fix: name the output"
    )


def test_a_wrong_attribute_names_its_node():
    concat = GraphNode("Concat", ("a",), ("b",), {"axis": 1.5})
    assert refusal(concat.integer, "axis", 0) == (
        "[graph-node] got axis = 1.5 at Concat 'b'; expected a whole number; "
        "fix: export the network again, or cut it in front of this node"
    )
