"""Where the voxels of a graph's outputs lie, which image they need, and of which size it may be.

All of it is found by walking through the graph with shapes (`trace`) and with reaches (`reach`):
no image is computed. Sizes and places are in voxels of the image.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3, add, floor_div, minimum, mul, sub, text
from deepseg.geometry.size_rule import SizeRule
from deepseg.model.graph.graph import GraphInput, GraphNode
from deepseg.model.graph.program import Program
from deepseg.model.graph.reach import Reach, reach
from deepseg.model.graph.trace import Shape, Tracer

BATCH = 2  # a graph that is pinned to one image is found out by two
LARGEST_PROBE = 2048  # voxels along one axis, in which a receptive field has to fit

_FIRST_SIZES = (64, 96, 128, 32, 48, 80, 160, 16, 24, 40, 112, 256, *range(1, 200))
_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 18, 20, 24, 25, 27, 32, 36, 48, 64, 96, 128)
_REPEATS = 8  # sizes that have to fit a step
_PINNING = (
    "Reshape",
    "Expand",
    "Resize",
    "Upsample",
    "Slice",
    "ConstantOfShape",
    "Tile",
)
_WHOLE = ("InstanceNormalization", "GroupNormalization")


@dataclass(frozen=True)
class AttachGeometry:
    """Where the voxels of one output of a graph lie.

    Output voxel j along an axis lies at image voxel ``offset + stride * j``; an image of n voxels
    gives ``(n - loss) / stride`` of them.

    Attributes:
        output: Name of the tensor.
        maps: Feature maps.
        stride: Image voxels from one voxel to the next.
        offset: Place of the first voxel; a half, if it lies between two.
        loss: Image voxels that the output does not cover, 0 where borders are padded.
        receptive_field: Image voxels on which one voxel depends at most, borders aside; None if it
            depends on the whole image.
        reach: Image voxels before and after its place on which a voxel depends, along each axis;
            None if it depends on the whole image.
        uses_statistics_of_image: Whether a normalisation over the whole image, which a receptive
            field does not count, lies in front of it.
    """

    output: str
    maps: int
    stride: Int3
    offset: tuple[float, float, float]
    loss: Int3
    receptive_field: Int3 | None
    reach: tuple[Int3, Int3] | None
    uses_statistics_of_image: bool

    @property
    def border(self) -> Literal["padded", "cropped", "mixed"]:
        """Treatment of the border of the image.

        ``padded``: nothing is lost, values near the border depend on padding. ``cropped``: only
        what is seen whole is computed. ``mixed``: anything between.
        """
        if not any(self.loss):
            return "padded"
        if self.receptive_field is None:
            return "mixed"
        whole = sub(self.receptive_field, self.stride)
        return "cropped" if self.loss == whole else "mixed"

    def output_size(self, size: Int3) -> Int3:
        """Voxels of the output for an image that the graph computes."""
        return floor_div(sub(size, self.loss), self.stride)


@dataclass(frozen=True)
class GraphGeometry:
    """Sizes of images that a graph computes, and the geometry of each of its outputs.

    Attributes:
        channels: Of the image.
    """

    channels: int
    sizes: SizeRule
    outputs: tuple[AttachGeometry, ...]


def graph_geometry(work: Program) -> GraphGeometry:
    """Find the geometry of a graph with one 3D image as input.

    Raises:
        DeepsegError: ``graph-image`` for other inputs; ``graph-size-pinned`` if the sizes of images
            are fixed, with the node that fixes them; ``graph-node`` for shapes that do not fit;
            ``graph-geometry`` for outputs that are no images.
    """
    probe = _Probe(work)
    rule = probe.size_rule()
    return GraphGeometry(
        channels=probe.channels,
        sizes=rule,
        outputs=tuple(probe.attach(name, rule) for name in work.graph.outputs),
    )


def strides(work: Program) -> dict[str, tuple[Shape, tuple[Fraction, ...] | None]]:
    """Shape of every tensor for one image of the stated or a working size, and its stride.

    The stride is None for tensors that are no images. Where the size of images is pinned, or there
    are several inputs, all strides are None.

    Raises:
        DeepsegError: ``graph-node`` for shapes that do not fit.
    """
    return _Probe(work, checks_input=False).strides()


class _Probe:
    """Sizes that were tried on a graph."""

    def __init__(self, work: Program, *, checks_input: bool = True) -> None:
        self._program = work
        self._tracer = Tracer(work)
        self._tried: dict[Int3, dict[str, Shape] | DeepsegError] = {}
        if checks_input:
            _check_inputs(work.graph.inputs)
        self._image = work.graph.inputs[0]

    @cached_property
    def channels(self) -> int:
        """Channels of the image: stated, or those of the first convolution's kernel."""
        shape = self._image.shape
        if shape is not None and len(shape) > 1 and shape[1] is not None:
            return shape[1]
        for node in self._program.graph.nodes:
            kernel = self._program.graph.weights.get(node.inputs[1]) if node.inputs[1:] else None
            if node.operator == "Conv" and kernel is not None:
                return kernel.shape[1] * node.integer("group", 1)
        return 1

    def shapes(self, size: Int3) -> dict[str, Shape]:
        """Shapes of all tensors for images of ``size``."""
        result = self._tried.get(size)
        if result is None:
            try:
                result = self._tracer.shapes({self._image.name: (BATCH, self.channels, *size)})
            except DeepsegError as error:
                result = error
            self._tried[size] = result
        if isinstance(result, DeepsegError):
            raise result
        return result

    def output_sizes(self, size: Int3) -> tuple[Shape, ...] | None:
        """Sizes of the outputs for images of ``size``; None where it is not computed."""
        try:
            shapes = self.shapes(size)
        except DeepsegError:
            return None
        sizes = tuple(shapes[name][2:] for name in self._program.graph.outputs)
        return sizes if all(min(n, default=0) > 0 for n in sizes) else None

    @cached_property
    def first_size(self) -> Int3:
        """The stated size, or one that is computed."""
        stated = self._stated_size
        if stated is not None:
            self._check_batch(stated)
            return stated
        for n in _FIRST_SIZES:
            if self.output_sizes((n, n, n)) is not None:
                return (n, n, n)
        self.shapes((64, 64, 64))
        raise AssertionError("the first size is one that was tried")

    def _check_batch(self, size: Int3) -> None:
        """Refuse a graph that computes the stated size for one image at a time only."""
        if self.output_sizes(size) is not None:
            return
        batch = 1 if self._image.shape is None else self._image.shape[0]
        self._tracer.shapes({self._image.name: (batch or 1, self.channels, *size)})
        shapes = self._observed(size)
        node = next((n for n in self._program.graph.nodes if n.outputs[0] not in shapes), None)
        if node is not None:  # otherwise its outputs are no images
            raise _pinned(node, f"batches of {batch or 1}")

    @property
    def _stated_size(self) -> Int3 | None:
        shape = self._image.shape
        sizes = [] if shape is None else [n for n in shape[2:] if n is not None]
        return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None

    def size_rule(self) -> SizeRule:
        """Sizes of images that are computed."""
        first = self.first_size
        for name in self._program.graph.outputs:
            axes = len(self.shapes(first)[name])
            if axes != 5:
                raise _no_image(f"{name!r} of {axes} axes")
        self._check_free(first)
        steps = [self._step(first, axis) for axis in range(3)]
        smallest = [self._smallest(first, axis, step) for axis, step in enumerate(steps)]
        step = (steps[0], steps[1], steps[2])
        size = (smallest[0], smallest[1], smallest[2])
        while self.output_sizes(size) is None:  # small along every axis at once
            size = minimum(add(size, step), first)
        return SizeRule(size, step)

    def _check_free(self, first: Int3) -> None:
        """Refuse a graph that computes one size only, and name the node that fixes it."""
        double = mul(first, 2)
        before, after = self._observed(first), self._observed(double)
        nodes = self._program.graph.nodes
        computed = [node for node in nodes if node.outputs[0] in after]
        failing = nodes[len(computed) : len(computed) + 1]  # the ones after it were not tried
        node = next((n for n in (*computed, *failing) if _pins(n, before, after)), None)
        if node is None and self.output_sizes(double) is None:
            (node,) = failing
            if self._other_size_fits(first):
                return
        if node is not None:
            raise _pinned(node, f"images of {text(first)} voxels")

    def _other_size_fits(self, first: Int3) -> bool:
        """True if a size is computed that is larger along all axes, but not the double one."""
        larger = (add(first, s) for s in _STEPS)
        return any(self.output_sizes(size) is not None for size in larger)

    def _observed(self, size: Int3) -> dict[str, Shape]:
        """Shapes up to the node that cannot be computed."""
        image = (BATCH, self.channels, *size)
        shapes: dict[str, Shape] = {self._image.name: image}
        with contextlib.suppress(DeepsegError):
            self._tracer.walk({self._image.name: image}, shapes.update)
        return shapes

    def _step(self, first: Int3, axis: int) -> int:
        step = next((step for step in _STEPS if self._repeats(first, axis, step)), None)
        if step is None:
            names = ", ".join(map(repr, self._program.graph.outputs))
            raise _no_image(f"{names}, whose size does not follow that of the image")
        return step

    def _repeats(self, first: Int3, axis: int, step: int) -> bool:
        """True if every ``step`` voxels more give as many voxels of each output more."""
        before = self.output_sizes(first)
        assert before is not None
        gains = None
        for k in range(1, _REPEATS + 1):
            sizes = self.output_sizes(_larger(first, axis, k * step))
            if sizes is None:
                return False
            gain = [n[axis] - old[axis] for n, old in zip(sizes, before, strict=True)]
            if gains is None:
                gains = gain
                if any(g < 1 or step % g for g in gain):
                    return False
            if gain != [k * g for g in gains]:
                return False
        return True

    def _smallest(self, first: Int3, axis: int, step: int) -> int:
        n = first[axis]
        while n > step and self.output_sizes(_larger(first, axis, n - step - first[axis])):
            n -= step
        return n

    def attach(self, name: str, rule: SizeRule) -> AttachGeometry:
        """The geometry of the output ``name``."""
        size = rule.at_least(self.first_size)
        more = add(size, rule.step)
        shape, larger = self.shapes(size)[name], self.shapes(more)[name]
        voxels, more_voxels = _int3(shape[2:]), _int3(larger[2:])
        stride = floor_div(rule.step, sub(more_voxels, voxels))
        fields = [self._field(name, rule, axis, stride) for axis in range(3)]
        bounded = [field for field in fields if field is not None]
        is_bounded = len(bounded) == 3
        return AttachGeometry(
            output=name,
            maps=shape[1],
            stride=stride,
            offset=_triple([0.0 if field is None else field.offset for field in fields]),
            loss=sub(size, mul(stride, voxels)),
            receptive_field=_int3([f.width for f in bounded]) if is_bounded else None,
            reach=(
                (_int3([f.before for f in bounded]), _int3([f.after for f in bounded]))
                if is_bounded
                else None
            ),
            uses_statistics_of_image=self._normalises_whole_image(name),
        )

    def _field(self, name: str, rule: SizeRule, axis: int, stride: Int3) -> _Field | None:
        """The receptive field along an axis, in an image that is as long as it has to be."""
        period = rule.step[axis] // stride[axis]
        length = 64
        while length <= LARGEST_PROBE:
            size = rule.at_least(_only(rule.smallest, axis, length))
            shape = (self.channels, *size)
            whole = reach(self._program, self._image.name, shape, axis)[name]
            inside = _inside(whole, size[axis], period)
            if inside is not None:
                near = reach(self._program, self._image.name, shape, axis, is_narrow=True)[name]
                return _field(whole, near, inside, stride[axis])
            length *= 2
        return None

    def _normalises_whole_image(self, name: str) -> bool:
        producers = self._program.graph.producers()
        pending, visited = [name], set[str]()
        while pending:
            node = producers.get(pending.pop())
            if node is None or node.outputs[0] in visited:
                continue
            if node.operator in _WHOLE:
                return True
            visited.add(node.outputs[0])
            pending += node.inputs
        return False

    def strides(self) -> dict[str, tuple[Shape, tuple[Fraction, ...] | None]]:
        """Shape of every tensor for one image, and its stride where it is an image."""
        if len(self._program.graph.inputs) != 1 or not _is_volume(self._image):
            return {}
        first = self._stated_size or self.first_size
        shapes = self._tracer.shapes({self._image.name: (1, self.channels, *first)})
        try:
            more = add(first, mul(self.size_rule().step, 2))
            larger = self.shapes(more)
        except DeepsegError:
            return {name: (shape, None) for name, shape in shapes.items()}
        return {
            name: (shape, _ratio(shape, larger[name], first, more))
            for name, shape in shapes.items()
        }


@dataclass(frozen=True)
class _Field:
    """A receptive field along one axis."""

    width: int
    offset: float
    before: int
    after: int


def _inside(whole: Reach, length: int, period: int) -> range | None:
    """Output voxels away from the border, at least one of each place in a period."""
    places = [
        j
        for j, (first, last) in enumerate(
            zip(whole.first.tolist(), whole.last.tolist(), strict=True)
        )
        if first > 0 and last < length - 1
    ]
    if not places or places[-1] - places[0] + 1 < 2 * period:
        return None
    return range(places[0], places[-1] + 1)


def _field(whole: Reach, near: Reach, inside: range, stride: int) -> _Field:
    """The field of all ways, and its place by the narrowest ones."""
    first, last = whole.first.tolist(), whole.last.tolist()
    middle = [(near.first[j].item() + near.last[j].item()) / 2 - stride * j for j in inside]
    offset = round(2 * sum(middle) / len(middle)) / 2
    return _Field(
        width=int(max(last[j] - first[j] + 1 for j in inside)),
        offset=offset,
        before=math.ceil(max(offset + stride * j - first[j] for j in inside)),
        after=math.ceil(max(last[j] - offset - stride * j for j in inside)),
    )


def _pins(node: GraphNode, before: dict[str, Shape], after: dict[str, Shape]) -> bool:
    """True if a node makes the same of images of two sizes, or fails on the second."""
    if node.operator not in _PINNING or node.inputs[0] not in after:
        return False
    if before[node.inputs[0]] == after[node.inputs[0]]:
        return False
    result = node.outputs[0]
    return result not in after or _voxels(before[result]) == _voxels(after[result])


def _voxels(shape: Shape) -> int:
    """Values for one image."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)


def _ratio(shape: Shape, larger: Shape, size: Int3, more: Int3) -> tuple[Fraction, ...] | None:
    """The stride of an image; None for a tensor that is none."""
    if len(shape) != 5 or any(m <= n for n, m in zip(shape[2:], larger[2:], strict=True)):
        return None
    return tuple(
        Fraction(b - a, m - n) for a, b, n, m in zip(size, more, shape[2:], larger[2:], strict=True)
    )


def _is_volume(entry: GraphInput) -> bool:
    return entry.shape is None or len(entry.shape) == 5


def _check_inputs(inputs: Sequence[GraphInput]) -> None:
    if len(inputs) == 1 and _is_volume(inputs[0]):
        return
    stated = ", ".join(
        f"{entry.name!r} of {len(entry.shape)} axes"
        if entry.shape is not None
        else repr(entry.name)
        for entry in inputs
    )
    raise DeepsegError(
        Problem(
            code="graph-image",
            got=f"a network with {counted(len(inputs), 'input')}"
            + (f": {stated}" if stated else ""),
            expected="one image of 5 axes: batch, channels, X, Y and Z",
            fix="export a network of 3D images with one input",
        )
    )


def _pinned(node: GraphNode, sizes: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="graph-size-pinned",
            got=f"{node}, computed for {sizes} only",
            expected="a network for images of any size",
            fix="export it with dynamic axes for the batch and for X, Y and Z,"
            " or cut it in front of this node",
        )
    )


def _no_image(got: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="graph-geometry",
            got=got,
            expected="an image of 5 axes: batch, maps, X, Y and Z",
            fix="cut the network at an image",
        )
    )


def _larger(size: Int3, axis: int, more: int) -> Int3:
    return _only(size, axis, size[axis] + more)


def _only(size: Int3, axis: int, n: int) -> Int3:
    sizes = list(size)
    sizes[axis] = n
    return sizes[0], sizes[1], sizes[2]


def _int3(values: Sequence[int]) -> Int3:
    return values[0], values[1], values[2]


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]
