"""A network as one graph: from a box of the image to the probabilities of the classes.

Weights keep the names that they have in a `.save`. Layers give tensors of their own names, such as
``normal.3``. What is left out is dropout, which is off outside training but for its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepseg.config.blocks.imported import AttachPoint
from deepseg.config.model import BatchNorm
from deepseg.exports.graph_builder import END, SPACE, GraphBuilder
from deepseg.exports.image_box import ImageBox, PathwayRead, image_box
from deepseg.exports.modernisation import modernised
from deepseg.geometry.boxes import Int3, add, floor_div, mul, per_axis, sub
from deepseg.geometry.context import margin
from deepseg.model.feature_maps import border_before
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.layers import Convolution, Layer, LowRankConvolution, PRelu
from deepseg.model.layout import LayerPlan, PathwayLayout
from deepseg.model.network import Network, Pathway

IMAGE = "image"
LOGITS = "logits"
PROBABILITIES = "probabilities"
OPSET = 17
OLDEST_OPSET = 13  # in which the operators that are written here mean what they mean today
TRAINING_ONLY = ("training_mode", "whole_maps")  # attributes of imported nodes
OPERATORS = {"relu": "Relu", "elu": "Elu", "selu": "Selu"}  # activations without weights


@dataclass(frozen=True)
class NetworkGraph:
    """A network as one graph.

    Attributes:
        graph: From `IMAGE` to `PROBABILITIES`, by way of `LOGITS`.
        box: That it reads.
    """

    graph: Graph
    box: ImageBox


@dataclass(frozen=True)
class Maps:
    """Feature maps.

    Attributes:
        tensor: Their name.
        count: How many there are.
        shrink: Voxels by which they are smaller than what the pathway reads.
    """

    tensor: str
    count: int
    shrink: Int3


def network_graph(network: Network) -> NetworkGraph:
    """The network as a graph.

    Raises:
        DeepsegError: ``export-version``.
    """
    box = image_box(network.layout, network.geometry)
    versions = [
        network.imported(pathway.name).graph.opset
        for pathway in network.layout.pathways
        if pathway.network is not None
    ]
    opset = max(OLDEST_OPSET, *versions) if versions else OPSET
    writer = _Writer(network, box, opset)
    writer.write()
    image = GraphInput(IMAGE, (None, len(network.config.channels), None, None, None))
    return NetworkGraph(writer.builder.graph([image], [PROBABILITIES], opset=opset), box)


class _Writer:
    """Writes the nodes of a network into a builder."""

    def __init__(self, network: Network, box: ImageBox, opset: int) -> None:
        self.builder = GraphBuilder()
        self._network = network
        self._box = box
        self._opset = opset

    def write(self) -> None:
        """All nodes of the network."""
        build, layout = self.builder, self._network.layout
        around = build.integers("core/around", add(self._box.before, self._box.after))
        build.node("Sub", [build.sizes(IMAGE, "image/size"), around], "core")
        joined = [
            self._at_full_resolution(pathway, self._image(pathway.name, read))
            for pathway, read in zip(layout.pathways, self._box.reads, strict=True)
        ]
        x = joined[0]
        if len(joined) > 1:
            x = build.node("Concat", joined, "joined", {"axis": 1})
        if layout.fc.layers:  # otherwise an imported network has its own classifier
            maps = sum(pathway.outputs for pathway in layout.pathways)
            x = self._chain(self._pathway("fc"), Maps(x, maps, (0, 0, 0))).tensor
        build.node("Identity", [x], LOGITS)
        build.node("Softmax", [LOGITS], PROBABILITIES, {"axis": 1})

    def _image(self, pathway: str, read: PathwayRead) -> str:
        """The voxels of the box that a pathway reads."""
        build, output = self.builder, f"{pathway}/image"
        covers_box = read.step == (1, 1, 1) and read.sizes is None and read.start == (0, 0, 0)
        if covers_box and read.shrink == add(self._box.before, self._box.after):
            return IMAGE
        count = self._count(output, read)
        last = build.node(
            "Mul",
            [
                build.node(
                    "Sub", [count, build.integers(f"{output}/one", 1)], f"{output}/steps_taken"
                ),
                build.integers(f"{output}/steps", read.step),
            ],
            f"{output}/last",
        )
        first = build.integers(f"{output}/after_first", add(read.start, 1))
        ends = build.node("Add", [last, first], f"{output}/ends")
        starts = build.integers(f"{output}/starts", read.start)
        axes = build.integers(f"{output}/axes", SPACE)
        return build.node("Slice", [IMAGE, starts, ends, axes, f"{output}/steps"], output)

    def _count(self, output: str, read: PathwayRead) -> str:
        """Voxels that a pathway reads along each axis."""
        build = self.builder
        step = read.step if read.sizes is None else read.sizes.step
        more = read.shrink if read.sizes is None else sub(read.shrink, read.sizes.smallest)
        core = "core"
        if read.sizes is not None:
            core = build.node(
                "Add", [core, build.integers(f"{output}/more", more)], f"{output}/excess"
            )
        rounding = build.integers(f"{output}/rounding", add(step, -1))
        divisor = build.integers(f"{output}/divisor", step)
        rounded = build.node("Add", [core, rounding], f"{output}/rounded")
        count = build.node("Div", [rounded, divisor], f"{output}/quotient")
        if read.sizes is None:
            return build.node(
                "Add", [count, build.integers(f"{output}/shrink", more)], f"{output}/count"
            )
        smallest = build.integers(f"{output}/smallest", read.sizes.smallest)
        steps = build.node("Mul", [count, divisor], f"{output}/size_steps")
        return build.node("Add", [steps, smallest], f"{output}/count")

    def _at_full_resolution(self, pathway: PathwayLayout, image: str) -> str:
        """``(N, F, *core)``: the maps of a parallel pathway."""
        if pathway.network is not None:
            return self._imported_maps(pathway, image)
        channels = len(self._network.config.channels)
        maps = self._chain(self._pathway(pathway.name), Maps(image, channels, (0, 0, 0)))
        factor = pathway.geometry.factor
        if factor == (1, 1, 1):
            return maps.tensor
        build, name = self.builder, pathway.name
        scales = torch.tensor([1.0, 1.0, *map(float, factor)])
        repeated = build.node(
            "Resize",
            [maps.tensor, "", build.constant(f"{name}/repeated/scales", scales)],
            f"{name}/repeated",
            {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            },
        )
        return build.box(repeated, (0, 0, 0), "core", f"{name}/full")

    def _pathway(self, name: str) -> Pathway:
        module = self._network.get_submodule(name)
        assert isinstance(module, Pathway)
        return module

    def _chain(self, pathway: Pathway, x: Maps) -> Maps:
        """The maps after all layers of a pathway."""
        before = x
        for layer in pathway.layers():
            y = self._layer(layer, x)
            if layer.plan.adds_earlier_input:
                y = self._with_residual(y, before, layer.plan.address)
            before, x = x, y
        return x

    def _layer(self, layer: Layer, x: Maps) -> Maps:
        plan, build = layer.plan, self.builder
        name = self._activated(layer, self._shifted(layer, x.tensor))
        if plan.dropout > 0:
            share = build.constant(f"{plan.address}/kept", torch.tensor(1 - plan.dropout))
            name = build.node("Mul", [name, share], f"{plan.address}/dropout")
        name = self._padded(plan, name)
        loss = add(plan.kernel, -1) if plan.padding == "none" else (0, 0, 0)
        output = f"{plan.address}/conv" if plan.adds_earlier_input else plan.address
        return Maps(self._convolved(layer, name, output), plan.outputs, add(x.shrink, loss))

    def _shifted(self, layer: Layer, x: str) -> str:
        """Normalised, or with a bias."""
        address, build, norm = layer.plan.address, self.builder, layer.norm
        if norm is None:
            bias = build.per_map(f"{address}.input_bias", layer.input_bias)
            return build.node("Add", [x, bias], f"{address}/bias")
        settings = norm.settings
        assert isinstance(settings, BatchNorm)
        weights = [
            build.weight(f"{address}.norm.{name}", value)
            for name, value in (
                ("weight", norm.weight),
                ("bias", norm.bias),
                ("running_mean", norm.running_mean),
                ("running_var", norm.running_var),
            )
        ]
        attributes = {"epsilon": settings.epsilon, "momentum": 1 - settings.momentum}
        return build.node("BatchNormalization", [x, *weights], f"{address}/norm", attributes)

    def _activated(self, layer: Layer, x: str) -> str:
        address, kind = layer.plan.address, layer.plan.activation
        if kind == "linear":
            return x
        if kind == "prelu":
            assert isinstance(layer.activation, PRelu)
            slopes = self.builder.per_map(f"{address}.activation.weight", layer.activation.weight)
            return self.builder.node("PRelu", [x, slopes], f"{address}/activation")
        return self.builder.node(OPERATORS[kind], [x], f"{address}/activation")

    def _padded(self, plan: LayerPlan, x: str) -> str:
        """With the border of `deepseg.model.feature_maps.padded`."""
        build, output = self.builder, f"{plan.address}/padding"
        if plan.padding == "none" or plan.kernel == (1, 1, 1):
            return x
        low = border_before(plan.kernel)
        high = sub(add(plan.kernel, -1), low)
        if plan.padding == "zero" or max(*low, *high) == 1:  # one mirrored voxel is the edge
            pads = build.integers(f"{output}/pads", (0, 0, *low, 0, 0, *high))
            mode = "constant" if plan.padding == "zero" else "edge"
            return build.node("Pad", [x, pads], output, {"mode": mode})
        for axis, word, before, after in zip(SPACE, "xyz", low, high, strict=True):
            if before or after:
                places = self._mirrored_places(f"{output}/{word}", x, axis, before, after)
                x = build.node("Gather", [x, places], f"{output}/{word}", {"axis": axis})
        return x

    def _mirrored_places(self, name: str, x: str, axis: int, before: int, after: int) -> str:
        """Voxels of an axis of ``x`` and of its border, in which the edge is repeated."""
        build = self.builder
        shape = build.node("Shape", [x], f"{name}/shape")
        size = build.node("Gather", [shape, build.integers(f"{name}/axis", axis)], f"{name}/size")
        unit, start = build.integers(f"{name}/one", 1), build.integers(f"{name}/start", -before)
        end = build.node("Add", [size, build.integers(f"{name}/after", after)], f"{name}/end")
        places = build.node("Range", [start, end, unit], f"{name}/places")
        period = build.node("Add", [size, size], f"{name}/period")
        inside = build.node("Mod", [places, period], f"{name}/inside")
        last = build.node("Sub", [period, unit], f"{name}/last")
        mirrored = build.node("Sub", [last, inside], f"{name}/mirrored")
        return build.node("Min", [inside, mirrored], f"{name}/voxels")

    def _convolved(self, layer: Layer, x: str, output: str) -> str:
        plan, build = layer.plan, self.builder
        weight = f"{plan.address}.conv.weight"
        if isinstance(layer.conv, LowRankConvolution):
            return self._convolved_in_planes(layer.conv, plan, x, output)
        inputs = [x, build.weight(weight, layer.conv.weight)]
        if plan.is_head:
            inputs.append(build.weight(f"{plan.address}.bias", layer.bias))
        return build.node("Conv", inputs, output, {"kernel_shape": plan.kernel})

    def _convolved_in_planes(
        self, conv: LowRankConvolution, plan: LayerPlan, x: str, output: str
    ) -> str:
        build, planes = self.builder, []
        for plane, module in conv.named_children():
            name = f"{plan.address}/{plane}"
            kernel = plan.convolutions[plane][1]
            assert isinstance(module, Convolution)
            weight = build.weight(f"{plan.address}.conv.{plane}.weight", module.weight)
            y = build.node("Conv", [x, weight], name, {"kernel_shape": kernel})
            loss = sub(plan.kernel, kernel)
            starts = floor_div(loss, 2)
            ends = per_axis(_end, sub(loss, starts))
            planes.append(y if loss == (0, 0, 0) else build.box(y, starts, ends, f"{name}/middle"))
        y = build.node(
            "Concat", planes, f"{plan.address}/planes" if plan.is_head else output, {"axis": 1}
        )
        if not plan.is_head:
            return y
        bias = build.per_map(f"{plan.address}.bias", self._head_bias())
        return build.node("Add", [y, bias], output)

    def _head_bias(self) -> torch.Tensor:
        *_, head = self._pathway("fc").layers()
        return head.bias

    def _with_residual(self, y: Maps, earlier: Maps, address: str) -> Maps:
        """``y`` plus the middle of ``earlier``; missing feature maps count as 0."""
        build, name = self.builder, f"{address}/residual"
        loss = sub(y.shrink, earlier.shrink)
        maps = min(y.count, earlier.count)
        middle = earlier.tensor
        if any(n % 2 for n in loss) and self._network.config.context_alignment == "deepmedic":
            middle = self._middle(middle, y.tensor, name)
        elif loss != (0, 0, 0):
            half = floor_div(loss, 2)
            middle = build.box(middle, half, per_axis(_end, sub(loss, half)), f"{name}/middle")
        if maps < earlier.count:
            middle = build.box(middle, (0,), (maps,), f"{name}/maps", axes=(1,))
        if maps < y.count:
            pads = build.integers(f"{name}/pads", (0,) * 6 + (y.count - maps,) + (0,) * 3)
            middle = build.node("Pad", [middle, pads], f"{name}/maps", {"mode": "constant"})
        return Maps(build.node("Add", [y.tensor, middle], address), y.count, y.shrink)

    def _middle(self, larger: str, smaller: str, name: str) -> str:
        """The middle of a map, in DeepMedic's rounding, which depends on the parity of sizes."""
        build = self.builder
        unit, two = build.integers(f"{name}/one", 1), build.integers(f"{name}/two", 2)
        sizes = build.sizes(smaller, f"{name}/size")
        centres = []
        for word, size in (("larger", build.sizes(larger, f"{name}/whole")), ("smaller", sizes)):
            last = build.node("Sub", [size, unit], f"{name}/{word}/last")
            centres.append(build.node("Div", [last, two], f"{name}/{word}/centre"))
        starts = build.node("Sub", centres, f"{name}/starts")
        ends = build.node("Add", [starts, sizes], f"{name}/ends")
        axes = build.integers(f"{name}/axes", SPACE)
        return build.node("Slice", [larger, starts, ends, axes], f"{name}/middle")

    def _imported_maps(self, pathway: PathwayLayout, image: str) -> str:
        """The maps of all attach points of an imported network, around the core."""
        network, build = pathway.network, self.builder
        assert network is not None
        self._copy_graph(pathway.name, image)
        low, _ = margin(pathway.geometry.shrink)
        graph = self._network.imported(pathway.name).graph
        maps = [
            self._around_core(f"{pathway.name}/{output}", point, low, pathway.geometry.shrink)
            for output, point in zip(graph.outputs, network.outputs, strict=False)
        ]
        if len(maps) == 1:
            return maps[0]
        return build.node("Concat", maps, f"{pathway.name}/full", {"axis": 1})

    def _copy_graph(self, pathway: str, image: str) -> None:
        """The nodes of an imported network; its weights get the names that they have in a model."""
        module, build = self._network.imported(pathway), self.builder
        graph = modernised(module.graph, self._opset)
        keys, state = module.keys, module.state_dict()
        names = {entry.name: image for entry in graph.inputs}
        names |= {name: f"{pathway}.{key}" for name, key in keys.items()}
        for name, key in keys.items():
            build.weight(names[name], state[key])
        for name, value in (*graph.weights.items(), *graph.constants.items()):
            if name not in keys:
                names[name] = build.constant(f"{pathway}/{name}", value)
        readers = {*graph.consumers(), *graph.outputs}
        for node in graph.nodes:
            outputs = list(node.outputs)
            while len(outputs) > 1 and outputs[-1] not in readers and node.operator != "Split":
                outputs.pop()
            build.add(
                GraphNode(
                    node.operator,
                    tuple(_renamed(name, names, pathway) for name in node.inputs),
                    tuple(_renamed(name, names, pathway) for name in outputs),
                    {k: v for k, v in node.attributes.items() if k not in TRAINING_ONLY},
                    f"/{pathway}/{node.label.lstrip('/')}",
                )
            )

    def _around_core(self, y: str, point: AttachPoint, low: Int3, shrink: Int3) -> str:
        """``(N, F, *core)``: an output at the voxels of the image, as `at_full_resolution`."""
        for axis, word in zip(SPACE, "xyz", strict=True):
            place = _Place.of(point, low, shrink, axis - 2)
            y = self._axis_around_core(y, axis, place, f"{y.removesuffix('/full')}/{word}")
        return y

    def _axis_around_core(self, y: str, axis: int, place: _Place, name: str) -> str:
        """An output at the voxels of the core along one axis."""
        build = self.builder
        index = build.integers(f"{name}/axis", (axis - 2,))
        count = build.node("Gather", ["core", index], f"{name}/count")
        if place.covers:
            ends = build.node(
                "Add", [count, build.integers(f"{name}/first", (place.first,))], f"{name}/ends"
            )
            return build.box(y, (place.first,), ends, f"{name}/full", axes=(axis,))
        if place.is_interpolated:
            return self._interpolated(y, axis, place, name)
        places = self._repeated_places(y, axis, place, name)
        return build.node("Gather", [y, places], f"{name}/full", {"axis": axis})

    def _voxels(self, name: str, first: int) -> str:
        """Numbers of as many voxels as the core has along an axis, from ``first`` on."""
        build = self.builder
        count = build.node("Squeeze", [f"{name}/count"], f"{name}/scalar")
        offset = build.integers(f"{name}/offset", first)
        end = build.node("Add", [count, offset], f"{name}/end")
        return build.node(
            "Range", [offset, end, build.integers(f"{name}/one", 1)], f"{name}/voxels"
        )

    def _last_voxel(self, y: str, axis: int, name: str) -> str:
        build = self.builder
        shape = build.node("Shape", [y], f"{name}/shape")
        index = build.integers(f"{name}/axis_of_map", axis)
        size = build.node("Gather", [shape, index], f"{name}/size")
        return build.node("Sub", [size, build.integers(f"{name}/unit", 1)], f"{name}/last")

    def _repeated_places(self, y: str, axis: int, place: _Place, name: str) -> str:
        """The voxel of ``y`` that stands for each of the core, along an axis."""
        build = self.builder
        voxels = self._voxels(name, place.first)
        inside = build.node("Max", [voxels, build.integers(f"{name}/zero", 0)], f"{name}/inside")
        step = build.integers(f"{name}/stride", place.stride)
        places = build.node("Div", [inside, step], f"{name}/places")
        return build.node("Min", [places, self._last_voxel(y, axis, name)], f"{name}/read")

    def _interpolated(self, y: str, axis: int, place: _Place, name: str) -> str:
        """``y`` between its voxels, linearly."""
        build = self.builder
        numbers = {"place": place.offset, "step": float(place.stride), "zero": 0.0}
        offset, step, zero = (
            build.constant(f"{name}/{word}", torch.tensor(value)) for word, value in numbers.items()
        )
        voxels = self._voxels(name, place.start)
        moved = build.node("Sub", [self._float(voxels), offset], f"{name}/moved")
        scaled = build.node("Div", [moved, step], f"{name}/scaled")
        last = self._last_voxel(y, axis, name)
        above = build.node("Max", [scaled, zero], f"{name}/above")
        places = build.node("Min", [above, self._float(last)], f"{name}/places")
        low = build.node("Floor", [places], f"{name}/floor")
        share = build.node("Sub", [places, low], f"{name}/share")
        behind = build.integers(f"{name}/behind", range(1, 5 - axis))
        if axis < SPACE[-1]:
            share = build.node("Unsqueeze", [share, behind], f"{name}/shares")
        first = build.node("Cast", [low], f"{name}/low", {"to": "int64"})
        next_one = build.node("Add", [first, f"{name}/unit"], f"{name}/next")
        high = build.node("Min", [next_one, last], f"{name}/high")
        before = build.node("Gather", [y, first], f"{name}/before", {"axis": axis})
        after = build.node("Gather", [y, high], f"{name}/after", {"axis": axis})
        rise = build.node("Sub", [after, before], f"{name}/rise")
        part = build.node("Mul", [rise, share], f"{name}/part")
        return build.node("Add", [before, part], f"{name}/full")

    def _float(self, x: str) -> str:
        return self.builder.node("Cast", [x], f"{x}/float", {"to": "float32"})


@dataclass(frozen=True)
class _Place:
    """Where the voxels of an output of an imported network lie along an axis of its image.

    Attributes:
        start: First image voxel of the core.
        first: That voxel, counted from the first one for which the output stands.
        stride: Image voxels from one voxel of the output to the next.
        offset: Place of the first voxel of the output, in the image.
        covers: The output has a voxel of its own for each of the core.
    """

    start: int
    first: int
    stride: int
    offset: float
    covers: bool
    is_interpolated: bool

    @classmethod
    def of(cls, point: AttachPoint, low: Int3, shrink: Int3, axis: int) -> _Place:
        """Along an axis, for a core that begins at ``low`` of an image ``shrink`` larger."""
        first = low[axis] - point.begin[axis]
        covers = point.stride[axis] == 1 and first >= 0
        return cls(
            start=low[axis],
            first=first,
            stride=point.stride[axis],
            offset=point.offset[axis],
            covers=covers and first - shrink[axis] + point.loss[axis] <= 0,
            is_interpolated=point.is_interpolated,
        )


def _end(surplus: int) -> int:
    """Where an axis ends that loses ``surplus`` voxels at its end.

    >>> _end(2), _end(0) == END
    (-2, True)
    """
    return -surplus if surplus else END


def _renamed(name: str, names: dict[str, str], pathway: str) -> str:
    return names.get(name, f"{pathway}/{name}" if name else "")


def inputs_of(box: ImageBox, image: torch.Tensor) -> Sequence[torch.Tensor]:
    """The tensors that the pathways read of a box ``(N, C, X, Y, Z)`` of the image."""
    size = (image.shape[2], image.shape[3], image.shape[4])
    tensors = []
    for read in box.reads:
        stop = add(read.start, mul(sub(read.count(box.core(size)), 1), read.step), 1)
        x, y, z = (slice(a, b, s) for a, b, s in zip(read.start, stop, read.step, strict=True))
        tensors.append(image[:, :, x, y, z].contiguous())
    return tensors
