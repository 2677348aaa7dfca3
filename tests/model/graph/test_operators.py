"""Every operator computes what onnxruntime computes."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deepseg.errors import DeepsegError
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.operators.table import OPERATORS
from deepseg.transfer.sources.onnx_file import read_onnx
from tests.onnx_models import by_onnxruntime, model, write

RNG = np.random.default_rng(5)
X1, X2, X3 = (2, 3, 11), (1, 4, 7, 5), (2, 6, 7, 5, 11)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


class Case:
    """One node that reads ``x`` and the weights w0, w1, …; None is an input left out."""

    def __init__(self, name, operator, shape, *weights, opset=17, more=(), outputs=1, **attributes):
        self.name = name
        self.operator, self.shape, self.opset, self.more = operator, shape, opset, more
        self.weights = {f"w{n}": w for n, w in enumerate(weights) if w is not None}
        inputs = ["x", *("" if w is None else f"w{n}" for n, w in enumerate(weights))]
        self.outputs = ["y"] if outputs == 1 else [f"y{n}" for n in range(outputs)]
        self.node = helper.make_node(operator, inputs, self.outputs, name="node", **attributes)

    def proto(self):
        inputs = {"x": list(self.shape)}
        return model(
            [self.node, *self.more], inputs, self.outputs, weights=self.weights, opset=self.opset
        )


def scales(maps):
    return floats(maps), floats(maps)


def cube(*shape):
    return floats(*shape)


CONVOLUTIONS = [
    Case("1d", "Conv", X1, floats(4, 3, 3), floats(4), pads=[1, 1]),
    Case("2d", "Conv", X2, floats(3, 4, 3, 2), strides=[2, 1]),
    Case("3d", "Conv", X3, floats(4, 6, 3, 1, 5), floats(4), pads=[1, 0, 2, 1, 0, 2]),
    Case("groups", "Conv", X3, floats(9, 2, 3, 3, 3), floats(9), group=3),
    Case("dilation", "Conv", X3, floats(2, 6, 2, 3, 3), dilations=[3, 1, 2]),
    Case("asymmetric", "Conv", X3, floats(2, 6, 3, 3, 3), pads=[0, 1, 2, 3, 0, 1]),
    Case("upper", "Conv", X3, floats(2, 6, 2, 3, 4), auto_pad="SAME_UPPER", strides=[2, 1, 3]),
    Case("lower", "Conv", X3, floats(2, 6, 2, 3, 4), auto_pad="SAME_LOWER", strides=[2, 1, 3]),
    Case("valid", "Conv", X3, floats(2, 6, 2, 3, 4), auto_pad="VALID"),
    Case("1d", "ConvTranspose", X1, floats(3, 2, 3), floats(2), strides=[2]),
    Case("2d", "ConvTranspose", X2, floats(4, 3, 3, 2), strides=[2, 3], pads=[1, 0, 1, 0]),
    Case("3d", "ConvTranspose", X3, floats(6, 4, 2, 2, 3), floats(4), strides=[2, 2, 1]),
    Case(
        "output padding", "ConvTranspose", X3, floats(6, 2, 3, 3, 3), floats(2), strides=[2, 2, 2],
        pads=[1, 1, 1, 1, 1, 1], output_padding=[1, 0, 1],
    ),
    Case("groups", "ConvTranspose", X3, floats(6, 2, 3, 3, 3), floats(6), group=3),
    Case("dilation", "ConvTranspose", X3, floats(6, 2, 3, 2, 3), dilations=[2, 1, 2]),
    Case(
        "asymmetric", "ConvTranspose", X3, floats(6, 2, 3, 3, 3), floats(2), strides=[2, 2, 2],
        pads=[0, 1, 2, 1, 1, 0], output_padding=[1, 1, 0],
    ),
    Case(
        "upper", "ConvTranspose", X3, floats(6, 2, 3, 3, 3), strides=[2, 1, 2],
        auto_pad="SAME_UPPER",
    ),
    Case(
        "shape", "ConvTranspose", X3, floats(6, 2, 3, 3, 3), strides=[2, 2, 2],
        output_shape=[14, 10, 22],
    ),
]  # fmt: skip
NORMALISATIONS = [
    Case("3d", "BatchNormalization", X3, *scales(6), floats(6), floats(6) ** 2, epsilon=0.01),
    Case("3d", "InstanceNormalization", X3, *scales(6), epsilon=0.01),
    Case("1d", "InstanceNormalization", X1, *scales(3)),
    Case("by map", "GroupNormalization", X3, *scales(6), num_groups=3, opset=21),
    Case("by group", "GroupNormalization", X3, *scales(3), num_groups=3, opset=18),
    Case("last", "LayerNormalization", X2, floats(5), floats(5), epsilon=0.01),
    Case("two axes", "LayerNormalization", X2, floats(7, 5), axis=2),
]
ACTIVATIONS = [
    *[
        Case("", operator, X2)
        for operator in (
            "Relu", "Elu", "Selu", "Sigmoid", "Tanh", "Erf", "HardSwish", "HardSigmoid", "Softplus",
            "Softsign", "Celu", "LeakyRelu", "Neg", "Abs", "Exp", "Floor", "Ceil", "Round",
            "Identity", "Dropout",
        )
    ],
    Case("", "Mish", X2, opset=18),
    Case("settings", "Elu", X2, alpha=0.3),
    Case("settings", "Celu", X2, alpha=0.3),
    Case("settings", "Selu", X2, alpha=1.3, gamma=0.7),
    Case("settings", "LeakyRelu", X2, alpha=0.3),
    Case("settings", "HardSigmoid", X2, alpha=0.4, beta=0.3),
    Case("", "Gelu", X2, opset=20),
    Case("tanh", "Gelu", X2, opset=20, approximate="tanh"),
    Case("by map", "PRelu", X3, floats(6, 1, 1, 1)),
    Case("one slope", "PRelu", X3, floats(1, 1, 1, 1)),
    Case("by column", "PRelu", X2, floats(5)),
    Case("both", "Clip", X2, np.float32(-0.3), np.float32(0.4)),
    Case("only the maximum", "Clip", X2, None, np.float32(0.4)),
    Case("attributes", "Clip", X2, min=-0.3, max=0.4, opset=10),
    Case("last", "Softmax", X2),
    Case("maps", "Softmax", X3, axis=1),
    Case("flattened", "Softmax", X2, axis=1, opset=11),
    Case("maps", "LogSoftmax", X3, axis=1),
]  # fmt: skip
POOLINGS = [
    Case("1d", "MaxPool", X1, kernel_shape=[3], strides=[2]),
    Case("2d", "MaxPool", X2, kernel_shape=[3, 2], pads=[1, 0, 1, 1]),
    Case("3d", "MaxPool", X3, kernel_shape=[2, 3, 2], strides=[2, 2, 2]),
    Case("ceil", "MaxPool", X3, kernel_shape=[2, 2, 2], strides=[2, 2, 2], ceil_mode=1),
    Case("dilation", "MaxPool", X3, kernel_shape=[2, 2, 3], dilations=[3, 1, 2]),
    Case("asymmetric", "MaxPool", X3, kernel_shape=[3, 3, 3], pads=[0, 1, 2, 1, 0, 2]),
    Case("upper", "MaxPool", X3, kernel_shape=[2, 2, 3], strides=[2, 2, 2], auto_pad="SAME_UPPER"),
    Case("3d", "AveragePool", X3, kernel_shape=[2, 3, 2], strides=[2, 1, 2]),
    Case("border", "AveragePool", X3, kernel_shape=[3, 3, 3], pads=[1] * 6),
    Case(
        "counted border", "AveragePool", X3, kernel_shape=[3, 3, 3], pads=[1] * 6,
        count_include_pad=1,
    ),
    Case("asymmetric", "AveragePool", X3, kernel_shape=[3, 3, 3], pads=[0, 1, 1, 1, 0, 0]),
    Case(
        "asymmetric, counted", "AveragePool", X3, kernel_shape=[3, 3, 3], pads=[0, 1, 1, 1, 0, 0],
        count_include_pad=1,
    ),
    Case("ceil", "AveragePool", X3, kernel_shape=[2, 2, 2], strides=[2, 2, 2], ceil_mode=1),
    Case("", "GlobalAveragePool", X3),
    Case("", "GlobalMaxPool", X3),
]  # fmt: skip
X5 = (1, 2, 4, 5, 3)
RESIZINGS = [
    *[
        Case(
            f"{mode} {way} {scale}", "Resize", X5, None,
            np.array([1, 1, scale, 2, scale], np.float32), mode=mode,
            coordinate_transformation_mode=way,
        )
        for mode in ("nearest", "linear")
        for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        for scale in (2.0, 1.7, 0.6)
    ],
    *[
        Case(
            rounding, "Resize", X5, None, np.array([1, 1, 2, 3, 1.5], np.float32),
            nearest_mode=rounding, coordinate_transformation_mode=way,
        )
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for way in ("half_pixel", "asymmetric")
    ],
    *[
        Case(
            f"cubic {way} {out}", "Resize", (1, 2, 7, 5), None,
            np.array([1, 1, 2.5, 1.5], np.float32), mode="cubic",
            coordinate_transformation_mode=way, exclude_outside=out, cubic_coeff_a=-0.5,
        )
        for way in ("half_pixel", "align_corners", "asymmetric")
        for out in (0, 1)
    ],
    Case("sizes", "Resize", X5, None, None, ints(1, 2, 7, 3, 5), mode="linear"),
    Case("one voxel", "Resize", X5, None, None, ints(1, 2, 1, 5, 2), mode="linear",
         coordinate_transformation_mode="pytorch_half_pixel"),
    Case("symmetric", "Resize", (1, 2, 7), None, np.array([1, 1, 1.6], np.float32), mode="linear",
         coordinate_transformation_mode="half_pixel_symmetric", opset=19),
    Case("axes", "Resize", X5, None, None, ints(8, 6), axes=[2, 4], opset=18),
    Case("old", "Resize", X5, np.array([1, 1, 2, 2, 2], np.float32), mode="linear", opset=10),
    Case("", "Upsample", X5, np.array([1, 1, 2, 2, 3], np.float32), opset=9),
    Case("linear", "Upsample", (1, 2, 4, 5), np.array([1, 1, 2, 3], np.float32), mode="linear",
         opset=9),
]  # fmt: skip
ARITHMETIC = [
    *[Case("", operator, X2, floats(4, 1, 5)) for operator in ("Add", "Sub", "Mul", "Div")],
    Case("", "Max", X2, floats(7, 5), floats(5)),
    Case("", "Min", X2, floats(7, 5), floats(5)),
    Case("", "Sum", X2, floats(7, 5), floats(5)),
    Case("", "Mean", X2, floats(7, 5), floats(5)),
    Case("", "Pow", X2, np.float32(2)),
    Case("fmod", "Mod", X2, floats(5) + 3, fmod=1),
    Case("", "MatMul", X2, floats(5, 3)),
    Case("", "Gemm", (3, 5), floats(5, 2), floats(2)),
    Case("transposed", "Gemm", (5, 3), floats(2, 5), floats(2), transA=1, transB=1, alpha=0.5,
         beta=2.0),
    Case("", "Einsum", (3, 5), floats(5, 2), equation="ij,jk->ki"),
    *[Case("axes", f"Reduce{word}", X3, axes=[2, -1]) for word in ("Mean", "Max", "Min", "Prod")],
    Case("axes", "ReduceL2", X3, axes=[1], keepdims=0),
    Case("all", "ReduceMean", X2),
    Case("input", "ReduceSum", X3, ints(2, 3), keepdims=0),
    Case("input", "ReduceMean", X3, ints(4), opset=18),
]  # fmt: skip
SHAPES = [
    Case("", "Concat", X2, floats(1, 2, 7, 5), axis=1),
    Case("stated", "Split", X3, ints(1, 5), axis=1, outputs=2),
    Case("equal", "Split", X3, axis=1, outputs=3),
    Case("unequal", "Split", X3, axis=4, num_outputs=3, outputs=3, opset=18),
    Case("", "Slice", X3, ints(1, 0), ints(-1, 2**62), ints(2, 4), ints(1, 3)),
    Case("backwards", "Slice", X3, ints(-1, 3), ints(-(2**62), 0), ints(4, 2), ints(-2, -1)),
    Case("attributes", "Slice", X3, starts=[1, -3], ends=[3, 99], axes=[1, 4], opset=9),
    *[
        Case(mode, "Pad", X3, ints(0, 0, 1, 2, 0, 0, 0, 3, 0, 2), mode=mode)
        for mode in ("constant", "edge", "reflect")
    ],
    Case("value", "Pad", X3, ints(0, 1, 1, 2, 0, 0, 0, 3, 0, 2), np.float32(0.3)),
    Case("crops", "Pad", X3, ints(0, 0, -1, 2, 0, 0, 0, -3, 0, 2)),
    Case("axes", "Pad", X3, ints(1, 2, 3, 0), None, ints(2, -1), opset=18),
    Case("wrap", "Pad", X3, ints(0, 0, 1, 2, 0, 0, 0, 3, 0, 2), mode="wrap", opset=19),
    Case("attributes", "Pad", X2, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.7, opset=10),
    Case("", "Reshape", X3, ints(0, 3, -1)),
    Case("", "Flatten", X3),
    Case("negative", "Flatten", X3, axis=-2),
    Case("", "Transpose", X2, perm=[0, 2, 3, 1]),
    Case("reversed", "Transpose", X2),
    Case("all", "Squeeze", (1, 3, 1, 5)),
    Case("input", "Squeeze", (1, 3, 1, 5), ints(2)),
    Case("attributes", "Squeeze", (1, 3, 1, 5), axes=[0, 2], opset=11),
    Case("input", "Unsqueeze", X1, ints(0, -1)),
    Case("", "Expand", (3, 1, 5), ints(2, 1, 7, 1)),
    Case("", "Tile", X1, ints(1, 2, 3)),
    Case("", "Gather", X3, np.array([[1, -1], [0, 3]]), axis=1),
]  # fmt: skip
CASES = [
    *CONVOLUTIONS, *NORMALISATIONS, *ACTIVATIONS, *POOLINGS, *RESIZINGS, *ARITHMETIC, *SHAPES,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator} {case.name}".strip())
def test_an_operator_computes_what_onnxruntime_computes(case, tmp_path):
    proto = case.proto()
    image = floats(*case.shape)
    network = GraphNetwork(read_onnx(write(tmp_path / "m.onnx", proto)), drops_softmax=False).eval()
    results = network(torch.from_numpy(image))
    expected = by_onnxruntime(proto, {"x": image})
    assert [tuple(y.shape) for y in results] == [tuple(y.shape) for y in expected]
    for y, right in zip(results, expected, strict=True):
        assert torch.allclose(y, right, rtol=1e-5, atol=1e-5)


POSITIVE = ("Sqrt", "Log", "Reciprocal")


@pytest.mark.parametrize("operator", POSITIVE)
def test_an_operator_of_positive_values_computes_what_onnxruntime_computes(operator, tmp_path):
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node(operator, ["a"], ["y"])]
    proto, image = model(nodes, {"x": [3, 5]}), floats(3, 5)
    (y,) = GraphNetwork(read_onnx(write(tmp_path / "m.onnx", proto)))(torch.from_numpy(image))
    assert torch.allclose(y, by_onnxruntime(proto, {"x": image})[0], rtol=1e-5)


def tensor(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def to(kind, source, target):
    return helper.make_node("Cast", [source], [target], to=kind)


node = helper.make_node
INT, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
ONE = np.array([1], np.float32)
PROGRAMS = {
    "sizes are counted": [
        node("Shape", ["x"], ["s"]), tensor("two", ints(2)), node("Gather", ["s", "two"], ["n"]),
        tensor("three", ints(3)), node("Div", ["n", "three"], ["d"]),
        node("Mod", ["n", "three"], ["m"]), node("Concat", ["d", "m"], ["both"], axis=0),
        to(FLOAT, "both", "y"),
    ],
    "a crop to a smaller size": [
        node("Shape", ["x"], ["s"], start=2), tensor("one", ints(1)),
        node("Sub", ["s", "one"], ["e"]), tensor("begin", ints(0, 0, 0)),
        tensor("axes", ints(2, 3, 4)), node("Slice", ["x", "begin", "e", "axes"], ["y"]),
    ],
    "a shape that is chosen": [
        node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["o"],
             value=numpy_helper.from_array(np.array([1], np.int64))),
        to(FLOAT, "o", "f"), node("Add", ["x", "f"], ["y"]),
    ],
    "an expansion to a computed shape": [
        node("ReduceMean", ["x"], ["m"], axes=[2, 3, 4]), node("Shape", ["x"], ["s"]),
        tensor("minus", ints(-1)), node("Equal", ["s", "minus"], ["e"]),
        node("Size", ["s"], ["n"]), node("Reshape", ["n", "minus"], ["v"]),
        node("ConstantOfShape", ["v"], ["ones"],
             value=numpy_helper.from_array(np.array([1], np.int64))),
        node("Where", ["e", "ones", "s"], ["t"]), node("Expand", ["m", "t"], ["y"]),
    ],
    "numbers in a row": [
        node("Shape", ["x"], ["s"]), tensor("k", np.array(4, np.int64)),
        node("Gather", ["s", "k"], ["n"]), tensor("zero", np.array(0, np.int64)),
        tensor("one", np.array(1, np.int64)), node("Range", ["zero", "n", "one"], ["r"]),
        to(FLOAT, "r", "f"), node("Mul", ["x", "f"], ["y"]),
    ],
    "a comparison": [
        tensor("zero", ONE * 0), node("Greater", ["x", "zero"], ["a"]),
        tensor("one", ONE), node("Less", ["x", "one"], ["b"]), node("And", ["a", "b"], ["c"]),
        node("Not", ["c"], ["d"]), node("Where", ["d", "x", "one"], ["y"]),
    ],
    "another comparison": [
        tensor("zero", ONE * 0), node("GreaterOrEqual", ["x", "zero"], ["a"]),
        node("Neg", ["x"], ["m"]), node("LessOrEqual", ["x", "m"], ["b"]),
        node("Or", ["a", "b"], ["c"]), to(FLOAT, "c", "d"), node("CastLike", ["d", "x"], ["y"]),
    ],
    "a new size from a computed scale": [
        node("Shape", ["x"], ["s"], start=2), to(FLOAT, "s", "f"), tensor("half", ONE / 2),
        node("Mul", ["f", "half"], ["h"]), node("Floor", ["h"], ["g"]), to(INT, "g", "i"),
        node("Shape", ["x"], ["nc"], end=2), node("Concat", ["nc", "i"], ["size"], axis=0),
        node("Resize", ["x", "", "", "size"], ["y"], mode="nearest"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_arithmetic_of_sizes_computes_what_onnxruntime_computes(name, tmp_path):
    proto, image = model(PROGRAMS[name], {"x": ["n", 2, "a", "b", "c"]}), floats(2, 2, 7, 5, 11)
    (y,) = GraphNetwork(read_onnx(write(tmp_path / "m.onnx", proto)))(torch.from_numpy(image))
    assert torch.allclose(y, by_onnxruntime(proto, {"x": image})[0])


def test_every_operator_is_compared():
    compared = {case.operator for case in CASES} | set(POSITIVE)
    compared |= {node.op_type for nodes in PROGRAMS.values() for node in nodes}
    assert set(OPERATORS) - compared == set()


def test_batch_normalisation_in_training_moves_its_statistics_as_torch_does(tmp_path):
    case = NORMALISATIONS[0]
    network = GraphNetwork(read_onnx(write(tmp_path / "m.onnx", case.proto()))).train()
    twin = torch.nn.BatchNorm3d(6, eps=0.01)
    mean, variance = (torch.from_numpy(case.weights[name].copy()) for name in ("w2", "w3"))
    twin.running_mean.copy_(mean)
    twin.running_var.copy_(variance)
    with torch.no_grad():
        twin.weight.copy_(torch.from_numpy(case.weights["w0"].copy()))
        twin.bias.copy_(torch.from_numpy(case.weights["w1"].copy()))
    image = torch.from_numpy(floats(*X3))
    assert torch.equal(network(image)[0], twin(image))
    assert torch.equal(network.state_dict()["w2"], twin.running_mean)
    assert torch.equal(network.state_dict()["w3"], twin.running_var)


def refusal(nodes, tmp_path, **settings):
    proto = model(nodes, {"x": [1, 2, 8, 8]}, **settings)
    with pytest.raises(DeepsegError) as error:
        GraphNetwork(read_onnx(write(tmp_path / "m.onnx", proto)))
    return str(error.value).splitlines()


def test_all_kinds_that_are_not_covered_are_refused_at_once(tmp_path):
    nodes = [
        node("LRN", ["x"], ["a"], name="first", size=3),
        node("Resize", ["a", "", "scales"], ["b"], antialias=1, mode="linear"),
        node("LRN", ["b"], ["c"], size=3),
        node("MaxPool", ["c"], ["d", "places"], name="pool", kernel_shape=[2, 2]),
        to(FLOAT, "places", "p"),
        node("Add", ["d", "p"], ["y"]),
    ]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    assert refusal(nodes, tmp_path, weights=weights, opset=18) == [
        f"[graph-operator] got {text}; expected operators that deepseg can train; "
        "fix: cut the network in front of it, or export it without"
        for text in (
            "LRN at 'first' and 1 more",
            "Resize with antialias 1 at 'b'",
            "MaxPool with output 2 at 'pool'",
        )
    ]


def test_operators_of_another_domain_are_refused(tmp_path):
    nodes = [helper.make_node("Conv", ["x"], ["y"], domain="com.microsoft")]
    assert refusal(nodes, tmp_path)[0].startswith("[graph-operator] got com.microsoft.Conv at 'y';")


@pytest.mark.parametrize(("opset", "advice"), [(6, 17), (24, 20)])
def test_operators_of_a_version_that_is_not_known_are_refused(opset, advice, tmp_path):
    assert refusal([node("Relu", ["x"], ["y"])], tmp_path, opset=opset) == [
        f"[graph-version] got operators of version {opset}; expected 7 to 23; "
        f"fix: export the network again with opset_version={advice}"
    ]
