"""Gradients of every operator of imported networks: against those of torch's own autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepseg.exports.gradients.arithmetic import multiply, total
from deepseg.exports.gradients.tape import Tape
from deepseg.exports.train_step.construction import Construction
from deepseg.exports.train_step.imported import translated
from deepseg.exports.train_step.onnx_file import onnx_content
from deepseg.exports.train_step.operators import OPERATORS
from deepseg.exports.train_step.step import StepGraph
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.graph.network import GraphNetwork
from tests.exports.train_step.steps import computed, opened

SHAPE = (2, 4, 6, 5, 7)


def weight(*shape: int, seed: int = 3, least: float | None = None) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=rng) / max(1, len(shape) - 1)
    return values if least is None else values.abs() + least


def node(operator: str, *inputs: str, outputs=("y",), **attributes) -> GraphNode:
    return GraphNode(operator, ("image", *inputs), outputs, attributes)


def case(name: str, *nodes: GraphNode, opset: int = 17, image=None, **tensors):
    return pytest.param(nodes, tensors, opset, SHAPE if image is None else image, id=name)


KERNEL = weight(6, 4, 3, 2, 3)
POINTWISE = ("Relu", "Sigmoid", "Tanh", "Softplus", "Exp", "Neg")
CASES = [
    *(case(operator, node(operator)) for operator in POINTWISE),
    case("Conv", node("Conv", "w", "b"), w=KERNEL, b=weight(6)),
    case(
        "Conv with stride, dilation and uneven borders",
        node("Conv", "w", strides=(2, 1, 3), dilations=(1, 2, 1), pads=(1, 0, 2, 0, 1, 1)),
        w=KERNEL,
    ),
    case("Conv with uneven borders", node("Conv", "w", pads=(1, 0, 2, 0, 1, 1)), w=KERNEL),
    case("Conv with wide borders", node("Conv", "w", pads=(3, 2, 3, 3, 2, 3)), w=KERNEL),
    case("Conv in groups", node("Conv", "w", "b", group=2), w=weight(6, 2, 3, 3, 3), b=weight(6)),
    case(
        "ConvTranspose",
        node("ConvTranspose", "w", "b", strides=(2, 2, 2), pads=(1, 0, 1, 0, 1, 0)),
        w=weight(4, 3, 3, 2, 3),
        b=weight(3),
    ),
    case(
        "ConvTranspose with output_padding and dilation",
        node(
            "ConvTranspose", "w", strides=(2, 3, 1), dilations=(1, 1, 2), output_padding=(1, 0, 0)
        ),
        w=weight(4, 3, 3, 2, 3),
    ),
    case("ConvTranspose in groups", node("ConvTranspose", "w", group=2), w=weight(4, 3, 2, 2, 2)),
    case("PRelu", node("PRelu", "w"), w=weight(4, 1, 1, 1)),
    case("PRelu with one slope", node("PRelu", "w"), w=weight(1)),
    case("LeakyRelu", node("LeakyRelu", alpha=0.2)),
    case("Elu", node("Elu", alpha=0.7)),
    case("Selu", node("Selu")),
    case("Gelu", node("Gelu"), opset=20),
    case("Gelu by tanh", node("Gelu", approximate="tanh"), opset=20),
    case("Clip", node("Clip", "low", "high"), low=torch.tensor(-0.5), high=torch.tensor(0.7)),
    case("Softmax", node("Softmax", axis=1)),
    case("Sqrt", node("Exp", outputs=("e",)), GraphNode("Sqrt", ("e",), ("y",))),
    case("Reciprocal", node("Exp", outputs=("e",)), GraphNode("Reciprocal", ("e",), ("y",))),
    case(
        "Pow",
        node("Exp", outputs=("e",)),
        GraphNode("Pow", ("e", "p"), ("y",)),
        p=torch.tensor(1.5),
    ),
    case("Add", node("Add", "w"), w=weight(1, 4, 1, 5, 1)),
    case("Sub", node("Sub", "w"), w=weight(4, 1, 1, 7)),
    case("Sub from a weight", GraphNode("Sub", ("w", "image"), ("y",)), w=weight(1, 4, 1, 1, 1)),
    case("Mul", node("Mul", "w"), w=weight(4, 1, 1, 1)),
    case("Mul by itself", GraphNode("Mul", ("image", "image"), ("y",))),
    case("Div", node("Div", "w"), w=weight(1, 4, 1, 1, 1, least=0.5)),
    case("Sum", node("Sum", "w", "image"), w=weight(4, 1, 1, 1)),
    case("MatMul", node("MatMul", "w"), w=weight(7, 3)),
    case("MatMul from a weight", GraphNode("MatMul", ("w", "image"), ("y",)), w=weight(3, 5)),
    case(
        "BatchNormalization",
        node("BatchNormalization", "w", "b", "mean", "var"),
        w=weight(4),
        b=weight(4, seed=4),
        mean=weight(4, seed=5),
        var=weight(4, least=0.5),
    ),
    case(
        "InstanceNormalization", node("InstanceNormalization", "w", "b"), w=weight(4), b=weight(4)
    ),
    case(
        "GroupNormalization of groups",
        node("GroupNormalization", "w", "b", num_groups=2),
        w=weight(2),
        b=weight(2, seed=4),
        opset=18,
    ),
    case(
        "GroupNormalization of maps",
        node("GroupNormalization", "w", "b", num_groups=2),
        w=weight(4),
        b=weight(4, seed=4),
        opset=21,
    ),
    case(
        "LayerNormalization",
        node("LayerNormalization", "w", "b", axis=-2),
        w=weight(5, 7),
        b=weight(5, 7, seed=4),
    ),
    case("MaxPool", node("MaxPool", kernel_shape=(2, 2, 2), strides=(2, 2, 2))),
    case(
        "MaxPool with borders",
        node("MaxPool", kernel_shape=(3, 2, 3), strides=(2, 1, 2), pads=(1, 1, 0, 0, 0, 1)),
    ),
    case(
        "MaxPool of ends", node("MaxPool", kernel_shape=(2, 2, 2), strides=(2, 2, 2), ceil_mode=1)
    ),
    case("AveragePool", node("AveragePool", kernel_shape=(2, 3, 2), strides=(2, 1, 2))),
    case(
        "AveragePool without borders",
        node("AveragePool", kernel_shape=(3, 3, 3), pads=(1, 1, 1, 1, 1, 1)),
    ),
    case(
        "AveragePool with borders",
        node("AveragePool", kernel_shape=(3, 3, 3), pads=(1, 1, 1, 1, 1, 1), count_include_pad=1),
    ),
    case("GlobalAveragePool", node("GlobalAveragePool")),
    *(
        case(
            f"Resize {mode}",
            node("Resize", "", "s", mode=mode),
            s=torch.tensor([1.0, 1, 2, 2, 1.5]),
        )
        for mode in ("nearest", "linear", "cubic")
    ),
    case(
        "Concat",
        GraphNode("Concat", ("image", "w", "image"), ("y",), {"axis": 1}),
        w=weight(2, 3, 6, 5, 7),
    ),
    case(
        "Split",
        node("Split", "n", outputs=("a", "b"), axis=1),
        GraphNode("Mul", ("a", "a"), ("c",)),
        GraphNode("Concat", ("c", "b"), ("y",), {"axis": 1}),
        n=torch.tensor([1, 3]),
    ),
    case(
        "Slice",
        node("Slice", "s", "e", "a"),
        s=torch.tensor([1, -4]),
        e=torch.tensor([5, 100]),
        a=torch.tensor([2, 4]),
    ),
    case(
        "Slice backwards",
        node("Slice", "s", "e", "a", "d"),
        s=torch.tensor([5]),
        e=torch.tensor([-100]),
        a=torch.tensor([2]),
        d=torch.tensor([-2]),
    ),
    *(
        case(
            f"Pad {mode}",
            node("Pad", "p", mode=mode),
            p=torch.tensor([0, 0, 1, 0, 2, 0, 0, 2, 1, 0]),
        )
        for mode in ("constant", "edge", "reflect", "wrap")
    ),
    case("Gather", node("Gather", "n", axis=2), n=torch.tensor([3, 0, 3, -1])),
    case("ReduceMean", node("ReduceMean", axes=(2, 4), keepdims=0)),
    case("ReduceSum", node("ReduceSum", "a"), a=torch.tensor([1, -1])),
    case("Transpose", node("Transpose", perm=(0, 2, 1, 4, 3))),
    case("Reshape", node("Reshape", "n"), n=torch.tensor([0, 2, -1, 7])),
    case("Flatten", node("Flatten", axis=2)),
    case("Squeeze", node("Squeeze", "a"), a=torch.tensor([1]), image=(2, 1, 3, 4)),
    case("Unsqueeze", node("Unsqueeze", "a"), a=torch.tensor([0, 3])),
    case("Expand", node("Expand", "n"), n=torch.tensor([2, 4, 6, 5, 7]), image=(2, 4, 1, 5, 1)),
    case("Identity", node("Identity")),
    case("Cast", node("Cast", to="float32")),
]


def graph_of(nodes, tensors, opset, shape) -> Graph:
    floats = {n: v for n, v in tensors.items() if v.is_floating_point() and v.ndim}
    constants = {n: v for n, v in tensors.items() if n not in floats or n == "s"}
    weights = {n: v for n, v in floats.items() if n not in constants}
    return Graph(tuple(nodes), (GraphInput("image", shape),), ("y",), weights, constants, opset)


@pytest.mark.parametrize(("nodes", "tensors", "opset", "shape"), CASES)
def test_values_and_gradients_are_those_of_torch(nodes, tensors, opset, shape):
    module = GraphNetwork(graph_of(nodes, tensors, opset, shape), drops_softmax=False).train()
    values = {f"p.{name}": v.detach().numpy().copy() for name, v in module.state_dict().items()}
    learnt = frozenset(f"p.{name}" for name, _ in module.named_parameters())
    tape = Tape()
    work = Construction(tape, values, frozenset(values), learnt, trains=True)
    image = tape.watch(tape.input("image", shape))
    (y,) = translated(work, module, "p", image)
    factors = tape.input("factors", y.shape)
    result = total(tape, multiply(tape, y, factors), range(len(y.shape)), keeps=False)
    names = ["image", *sorted(learnt)]
    gradients = tape.gradients(result, [image, *(work[name] for name in names[1:])])
    pairs = [("y", y), *zip(names, gradients, strict=True), *work.statistics.items()]
    outputs = tuple(tape.rename(variable, f"new.{name}") for name, variable in pairs)
    session = opened(onnx_content(StepGraph(tape, outputs, {}), defaults={}, metadata={}))

    x = weight(*shape, seed=8).mul_(2).requires_grad_()
    (expected,) = module(x)
    assert y.shape == tuple(expected.shape)
    mix = weight(*y.shape, seed=9)
    torch.autograd.backward((expected * mix).sum())
    feeds = {"image": x.detach().numpy(), "factors": mix.numpy(), **values}
    results = computed(session, feeds)
    parameters = {f"p.{name}": v.grad for name, v in module.named_parameters()}
    buffers = {f"p.{name}": v for name, v in module.named_buffers() if f"p.{name}" in values}
    target = {"y": expected.detach(), "image": x.grad, **parameters, **buffers}
    assert {n.removeprefix("new.") for n in results} == target.keys()
    for name, value in target.items():
        limit = 1e-5 * max(1.0, float(value.abs().max()))
        np.testing.assert_allclose(results[f"new.{name}"], value, atol=limit, rtol=0, err_msg=name)


def test_every_operator_is_tried():
    tried = {node.operator for parameter in CASES for node in parameter.values[0]}
    assert OPERATORS.keys() - tried == {"Upsample", "Dropout"}


def test_of_equal_largest_values_the_first_one_learns():
    nodes = [node("MaxPool", kernel_shape=(2,), strides=(2,))]
    module = GraphNetwork(graph_of(nodes, {}, 17, (1, 1, 6)), drops_softmax=False)
    tape = Tape()
    image = tape.watch(tape.input("image", (1, 1, 6)))
    work = Construction(tape, {}, frozenset(), frozenset(), trains=True)
    (y,) = translated(work, module, "p", image)
    (gradient,) = tape.gradients(total(tape, y, range(3), keeps=False), [image])
    graph = StepGraph(tape, (tape.rename(gradient, "gradient"),), {})
    session = opened(onnx_content(graph, defaults={}, metadata={}))
    equal = np.array([[[2, 2, 0, 0, 1, 3]]], np.float32)
    assert computed(session, {"image": equal})["gradient"].tolist() == [[[1, 0, 1, 0, 0, 1]]]


def test_a_mask_that_is_fed_drops_voxels_and_scales_the_others():
    module = GraphNetwork(
        graph_of([node("Dropout", "r")], {"r": torch.tensor(0.75)}, 17, (1, 1, 4))
    ).train()
    tape = Tape()
    image = tape.watch(tape.input("image", (1, 1, 4)))
    work = Construction(tape, {}, frozenset(), frozenset(), trains=True)
    (y,) = translated(work, module, "p", image)
    (gradient,) = tape.gradients(total(tape, y, range(3), keeps=False), [image])
    outputs = (tape.rename(y, "value"), tape.rename(gradient, "gradient"))
    session = opened(onnx_content(StepGraph(tape, outputs, {}), defaults={}, metadata={}))
    (name,) = work.masks
    feeds = {name: np.array([[[1, 0, 0, 1]]], np.float32)}
    results = computed(session, {**feeds, "image": np.array([[[1, 2, 3, 4]]], np.float32)})
    assert results["value"].tolist() == [[[4, 0, 0, 16]]]
    assert results["gradient"].tolist() == [[[4, 0, 0, 4]]]
    assert work.masks[name].share == 0.25
