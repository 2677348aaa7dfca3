"""Strides, places and receptive fields: by hand, and against gradients of the network itself."""

import math

import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import per_axis
from deepseg.model.graph.geometry import SizeRule, graph_geometry, strides
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.operators.call import Operator
from deepseg.model.graph.operators.table import OPERATORS
from deepseg.model.graph.program import program
from deepseg.transfer.sources.onnx_file import read_onnx
from tests.onnx_models import export, trained


def conv(source, target, kernel, *, transposed=False, **attributes):
    operator = "ConvTranspose" if transposed else "Conv"
    node = GraphNode(operator, (source, f"{target}.weight"), (target,), attributes, target)
    return node, {f"{target}.weight": torch.ones(1, 1, *kernel)}


def graph(*pairs, output=None, shape=None, constants=None, weights=None):
    nodes = tuple(node for node, _ in pairs)
    tensors = {name: value for _, weight in pairs for name, value in weight.items()}
    outputs = (output or nodes[-1].outputs[0],) if not isinstance(output, tuple) else output
    return Graph(
        nodes, (GraphInput("x", shape),), outputs, tensors | (weights or {}), constants or {}, 17
    )


def node(operator, inputs, output, **attributes):
    return GraphNode(operator, tuple(inputs.split()), (output,), attributes, output), {}


def geometry(*pairs, **settings):
    return graph_geometry(program(graph(*pairs, **settings)))


def test_unpadded_convolutions_crop_and_lie_in_the_middle_of_what_they_see():
    result = geometry(conv("x", "a", (3, 5, 1)), conv("a", "b", (3, 2, 1), dilations=(2, 1, 1)))
    (attach,) = result.outputs
    assert attach.receptive_field == (3 + 4, 5 + 1, 1)
    assert attach.loss == (6, 5, 0)
    assert attach.stride == (1, 1, 1)
    assert attach.offset == (3.0, 2.5, 0.0)
    assert attach.border == "cropped"
    assert result.sizes == SizeRule((7, 6, 1), (1, 1, 1))
    assert attach.output_size((20, 21, 22)) == (14, 16, 22)


def test_padded_strides_start_at_the_first_voxel():
    result = geometry(
        conv("x", "a", (3, 3, 3), strides=(2, 2, 1), pads=(1,) * 6),
        conv("a", "b", (3, 3, 3), strides=(2, 1, 1), pads=(1,) * 6),
    )
    (attach,) = result.outputs
    assert attach.stride == (4, 2, 1)
    assert attach.receptive_field == (3 + 2 * 2, 3 + 2 * 2, 3 + 2)
    assert attach.offset == (0.0, 0.0, 0.0)
    assert attach.border == "padded"
    assert result.sizes.step == (4, 2, 1)
    assert attach.output_size((16, 16, 16)) == (4, 8, 16)


def test_pooled_voxels_lie_between_those_of_the_image():
    (attach,) = geometry(
        node("MaxPool", "x", "a", kernel_shape=(2, 2, 4), strides=(2, 2, 4))
    ).outputs
    assert attach.offset == (0.5, 0.5, 1.5)
    assert attach.receptive_field == (2, 2, 4)
    assert attach.stride == (2, 2, 4)


def test_a_skip_connection_tells_the_place_and_the_deepest_way_the_field():
    pairs = [
        conv("x", "down", (3, 3, 3), strides=(2, 2, 2), pads=(1,) * 6),
        conv("down", "up", (2, 2, 2), transposed=True, strides=(2, 2, 2)),
        node("Add", "up x", "sum"),
    ]
    result = geometry(*pairs)
    (attach,) = result.outputs
    assert result.sizes == SizeRule((2, 2, 2), (2, 2, 2))
    assert attach.offset == (0.0, 0.0, 0.0)
    assert attach.receptive_field == (3, 3, 3)
    assert attach.reach == ((2, 2, 2), (1, 1, 1))  # voxel 2 i + 1 sees 2 i - 1 to 2 i + 1


def test_sizes_keep_their_remainder():
    pairs = [
        conv("x", "a", (2, 2, 2)),
        node("MaxPool", "a", "p", kernel_shape=(2, 2, 2), strides=(2, 2, 2)),
        conv("p", "u", (2, 2, 2), transposed=True, strides=(2, 2, 2)),
        node("Add", "u a", "sum"),
    ]
    assert geometry(*pairs).sizes == SizeRule((3, 3, 3), (2, 2, 2))


def test_pooling_over_everything_sees_the_whole_image():
    pairs = [conv("x", "a", (3, 3, 3), pads=(1,) * 6), node("GlobalAveragePool", "a", "g"),
             node("Mul", "a g", "y")]  # fmt: skip
    (attach,) = geometry(*pairs).outputs
    assert attach.receptive_field is None
    assert attach.stride == (1, 1, 1)
    assert attach.border == "padded"


def test_several_outputs_have_a_geometry_each():
    pairs = [conv("x", "a", (3, 3, 3)), conv("a", "b", (3, 3, 3), strides=(2, 2, 2))]
    result = geometry(*pairs, output=("a", "b"))
    assert [attach.receptive_field for attach in result.outputs] == [(3, 3, 3), (5, 5, 5)]
    assert [attach.stride for attach in result.outputs] == [(1, 1, 1), (2, 2, 2)]
    assert result.sizes.step == (2, 2, 2)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")

    def network(name, exporter="torchscript", **settings):
        image = torch.zeros(1, 2, 8, 16, 12)
        return GraphNetwork(
            read_onnx(export(trained(name), image, folder / f"{name}.onnx", exporter)), **settings
        )

    return network


OUTPUTS = {
    "unet": [(), ("encoder.2",), ("decoder.0",)],
    "residual": [("head",), ("pool",)],
}


@pytest.mark.parametrize(
    ("name", "outputs"), [(name, cut) for name, cuts in OUTPUTS.items() for cut in cuts]
)
def test_gradients_of_the_network_see_this_field(networks, name, outputs):
    network = networks(name, outputs=outputs).double().eval()
    for weight in network.parameters():
        weight.data.abs_()
    result = graph_geometry(network.program)
    (attach,) = result.outputs
    first, after = fields(network, result, attach)
    widths = [max(b - a for a, b in zip(first[n], after[n], strict=True)) for n in range(3)]
    assert attach.receptive_field == tuple(widths)
    for axis in range(3):
        places = [
            attach.offset[axis] + attach.stride[axis] * j for j in middle(result, attach, axis)
        ]
        before = max(place - a for place, a in zip(places, first[axis], strict=True))
        behind = max(b - 1 - place for place, b in zip(places, after[axis], strict=True))
        reach = attach.reach
        assert (reach[0][axis], reach[1][axis]) == (math.ceil(before), math.ceil(behind))


def middle(found, attach, axis):
    """Output voxels of one period in the middle of an image of `long` voxels."""
    stride = attach.stride[axis]
    centre = long(found, axis)[axis] // 2 // found.sizes.step[axis] * found.sizes.step[axis]
    return range(centre // stride, (centre + found.sizes.step[axis]) // stride)


def long(found, axis):
    size = list(found.sizes.smallest)
    size[axis] = 96
    return found.sizes.at_least(tuple(size))


def fields(network, found, attach):
    """First and last voxel, plus one, with a gradient, for voxels of a period, by axis.

    Normalisations over the image only scale, and maxima are means, which have a gradient at every
    voxel.
    """
    steps = tuple(smooth(step) for step in network.program.steps)
    network._program = type(network.program)(
        network.graph, steps, network.program.roles, network.program.host
    )
    first, after = [], []
    for axis in range(3):
        image = torch.rand(1, found.channels, *long(found, axis), dtype=torch.float64)
        image.requires_grad_(True)
        (maps,) = network(image + 1)
        bounds = []
        for j in middle(found, attach, axis):
            (gradient,) = torch.autograd.grad(
                maps.select(axis + 2, j).sum(), image, retain_graph=True
            )
            calls = gradient.abs().sum([n for n in range(5) if n != axis + 2]).nonzero().flatten()
            bounds.append((int(calls[0]), int(calls[-1]) + 1))
        first.append([a for a, _ in bounds])
        after.append([b for _, b in bounds])
    return first, after


def smooth(step):
    if step.node.operator == "MaxPool":
        operator = OPERATORS["AveragePool"]
    elif step.node.operator == "InstanceNormalization":
        operator = Operator(lambda call: call.tensor(0) * call.tensor(1).view(1, -1, 1, 1, 1))
    else:
        return step
    return type(step)(step.node, operator, step.fixed, step.is_host, step.released)


def test_normalisation_over_the_image_is_told(networks):
    (attach,) = graph_geometry(networks("unet").program).outputs
    assert attach.uses_statistics_of_image
    (attach,) = graph_geometry(networks("residual", outputs=["pool"]).program).outputs
    assert not attach.uses_statistics_of_image


def test_an_image_of_another_size_is_not_computed(networks):
    network = networks("unet").eval()
    rule = graph_geometry(network.program).sizes
    assert rule == SizeRule((8, 8, 8), (4, 4, 4))
    with torch.no_grad():
        assert network(torch.zeros(1, 2, 8, 12, 16))[0].shape == (1, 3, 8, 12, 16)
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 2, 10, 12, 16))


def test_strides_of_all_tensors(networks):
    shapes = strides(networks("unet").program)
    (name,) = [name for name in shapes if "encoder.2.0/Conv" in name]
    assert shapes[name] == ((1, 8, 16, 16, 16), (4, 4, 4))


def refusal(*pairs, **settings):
    with pytest.raises(DeepsegError) as error:
        geometry(*pairs, **settings)
    return str(error.value)


@pytest.mark.parametrize(
    ("pair", "constants"),
    [
        pytest.param(
            node("Reshape", "a s", "pin"), {"s": torch.tensor([-1, 1, 8, 8, 8])}, id="shape"
        ),
        pytest.param(
            node("Slice", "a from to", "pin"),
            {"from": torch.tensor([0, 0, 1, 1, 1]), "to": torch.tensor([9, 9, 5, 5, 5])},
            id="crop",
        ),
        pytest.param(
            node("Resize", "a none none s", "pin"),
            {"s": torch.tensor([2, 1, 8, 8, 8]), "none": torch.zeros(0)},
            id="size",
        ),
    ],
)
def test_a_node_that_pins_the_size_is_named(pair, constants):
    pairs = [conv("x", "a", (3, 3, 3), pads=(1,) * 6), pair, conv("pin", "b", (1, 1, 1))]
    operator = pair[0].operator
    assert refusal(*pairs, constants=constants, shape=(None, 1, 8, 8, 8)) == (
        f"[graph-size-pinned] got {operator} 'pin', computed for images of 8 x 8 x 8 voxels only; "
        "expected a network for images of any size; fix: export it with dynamic axes for the batch "
        "and for X, Y and Z, or cut it in front of this node"
    )


def test_a_node_that_pins_the_batch_is_named():
    pairs = [node("Reshape", "x s", "flat"), node("Relu", "flat", "y")]
    text = refusal(*pairs, constants={"s": torch.tensor([1, 1, 8, 8, 8])}, shape=(1, 1, 8, 8, 8))
    assert "[graph-size-pinned] got Reshape 'flat', computed for batches of 1 only;" in text


def test_shapes_that_do_not_fit_name_their_node_and_nothing_is_computed():
    pair = conv("x", "a", (3, 3, 3))
    weights = {"a.weight": torch.empty(1 << 20, 1 << 20, 3, 3, 3, device="meta")}
    text = refusal((pair[0], {}), weights=weights, shape=(1, 1, 8, 8, 8))
    assert text.startswith(
        "[graph-node] got shapes that do not fit, 1 x 1 x 8 x 8 x 8, "
        "1048576 x 1048576 x 3 x 3 x 3 ("
    )
    assert text.endswith(
        "at Conv 'a'; expected shapes that fit; "
        "fix: export the network again, or cut it in front of this node"
    )


def test_a_network_of_flat_images_has_no_geometry():
    pair = (GraphNode("Relu", ("x",), ("y",)), {})
    assert refusal(pair, shape=(1, 1, 8, 8)) == (
        "[graph-image] got a network with 1 input: 'x' of 4 axes; expected one image of 5 axes: "
        "batch, channels, X, Y and Z; fix: export a network of 3D images with one input"
    )


def test_an_output_of_one_size_has_no_geometry():
    assert refusal(node("GlobalAveragePool", "x", "y")).startswith(
        "[graph-geometry] got 'y', whose size does not follow that of the image; expected an image"
    )


def test_an_output_that_is_no_image_has_no_geometry():
    assert refusal(node("ReduceMean", "x", "y", axes=(2,), keepdims=0)) == (
        "[graph-geometry] got 'y' of 4 axes; expected an image of 5 axes: batch, maps, X, Y and Z; "
        "fix: cut the network at an image"
    )


def test_a_rule_gives_sizes_that_it_accepts():
    rule = SizeRule((3, 8, 1), (2, 4, 1))
    for size in ((1, 1, 1), (4, 9, 7), (20, 20, 20)):
        larger = rule.at_least(size)
        assert rule.fits(larger)
        assert per_axis(max, larger, size) == larger
    assert not rule.fits((1, 8, 1))
