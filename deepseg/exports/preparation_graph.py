"""The preparation of a case as a graph, so that programs need not know how it is done.

From an image and its region of interest to the array from which boxes are cut: intensities cut off,
z-scores as of `deepseg.data.intensity`, and around the image what networks read beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deepseg.config.cases import Preparation, ZScore
from deepseg.exports.image_box import ImageBox
from deepseg.exports.onnx_bytes import package_onnx
from deepseg.geometry.boxes import Int3, add, sub
from deepseg.geometry.context import EVERYWHERE, NetworkGeometry

IMAGE, ROI, PREPARED = "image", "roi", "prepared"
OPSET, FILE_VERSION = 17, 8
FLOAT, WHOLE, DOUBLE = 1, 7, 11  # types of numbers, as ONNX counts them


@dataclass
class _Nodes:
    """Nodes of a graph as they are added; constants are nodes too."""

    onnx: Any
    nodes: list[Any] = field(default_factory=list)

    def call(self, operator: str, *inputs: str | ArrayLike, **attributes: Any) -> str:
        """The first result of a node; arrays among the inputs become constants."""
        names = [x if isinstance(x, str) else self._constant(np.asarray(x)) for x in inputs]
        outputs = [f"{operator}_{len(self.nodes)}"]
        if operator == "TopK":
            outputs.append(f"{outputs[0]}_order")
        self.nodes.append(self.onnx.helper.make_node(operator, names, outputs, **attributes))
        return outputs[0]

    def _constant(self, value: np.ndarray[Any, Any]) -> str:
        name = f"constant_{len(self.nodes)}"
        tensor = self.onnx.numpy_helper.from_array(value, name)
        self.nodes.append(self.onnx.helper.make_node("Constant", [], [name], value=tensor))
        return name

    def double(self, x: str) -> str:
        return self.call("Cast", x, to=DOUBLE)

    def mean(self, x: str) -> str:
        return self.call("ReduceMean", x, keepdims=0)

    def mean_and_deviation(self, x: str) -> tuple[str, str]:
        mean = self.mean(x)
        centred = self.call("Sub", x, mean)
        return mean, self.call("Sqrt", self.mean(self.call("Mul", centred, centred)))


def preparation_bytes(
    preparation: Preparation, channels: Sequence[str], box: ImageBox, geometry: NetworkGeometry
) -> bytes:
    """The ONNX file from ``image (C, X, Y, Z)`` and ``roi (X, Y, Z)`` to ``prepared``.

    A box that begins at voxel n of ``prepared`` predicts voxels from n on of the image.

    Args:
        preparation: Of the cases. Axes, voxel size and region of interest are made before.
        channels: Names.
        box: That the network reads.
        geometry: Of the network.

    Raises:
        DeepsegError: ``onnx-extra-missing``.
    """
    onnx = package_onnx()
    work = _Nodes(onnx)
    image = IMAGE
    if preparation.clip is not None:
        image = work.call("Clip", image, *np.array(preparation.clip, np.float32))
    counts = _counting(work)
    scores = [_channel(work, image, n) for n in range(len(channels))]
    rule = preparation.z_score
    if isinstance(rule, ZScore):
        scores = [
            _z_score(work, scores[n], counts, rule) if preparation.normalises(name) else scores[n]
            for n, name in enumerate(channels)
        ]
    image = work.call("Concat", *(work.call("Unsqueeze", x, [0]) for x in scores), axis=0)
    image = _surrounded(work, image, len(channels), box, geometry)
    work.nodes.append(onnx.helper.make_node("Identity", [image], [PREPARED]))
    shapes = {IMAGE: ["c", "x", "y", "z"], ROI: ["x", "y", "z"], PREPARED: ["c", "u", "v", "w"]}
    kinds = {IMAGE: FLOAT, ROI: onnx.TensorProto.BOOL, PREPARED: FLOAT}
    image_info, roi_info, result_info = (
        onnx.helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in shapes
    )
    graph = onnx.helper.make_graph(work.nodes, "preparation", [image_info, roi_info], [result_info])
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=FILE_VERSION,
        producer_name="deepseg",
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _counting(work: _Nodes) -> str:
    """``(N,)`` bool: voxels of the region of interest; all of them if it is empty."""
    marked = work.call("Reshape", ROI, [-1])
    most = work.call("ReduceMax", work.call("Cast", marked, to=WHOLE), keepdims=0)
    return work.call("Or", marked, work.call("Equal", most, np.int64(0)))


def _channel(work: _Nodes, image: str, number: int) -> str:
    return work.call("Gather", image, np.int64(number), axis=0)


def _z_score(work: _Nodes, image: str, counts: str, rule: ZScore) -> str:
    """`deepseg.data.intensity.z_score` of a channel."""
    flat = work.double(work.call("Reshape", image, [-1]))
    inside = work.call("Compress", flat, counts)
    values = _values(work, inside, flat, rule)
    mean, deviation = work.mean_and_deviation(values)
    score = work.call("Div", work.call("Sub", work.double(image), mean), deviation)
    is_constant = work.call("Equal", *_range(work, values))
    zero = np.float32(0)
    return work.call("Where", is_constant, zero, work.call("Cast", score, to=FLOAT))


def _values(work: _Nodes, inside: str, image: str, rule: ZScore) -> str:
    """Values between all bounds, or all values where those are none or all the same."""
    bounds: list[tuple[str, str]] = []
    if rule.cutoff_percentiles is not None:
        bounds.append(_percentiles(work, inside, rule.cutoff_percentiles))
    if rule.cutoff_deviations is not None:
        mean, deviation = work.mean_and_deviation(inside)
        below, above = (
            work.call("Mul", deviation, np.float64(factor)) for factor in rule.cutoff_deviations
        )
        bounds.append((work.call("Sub", mean, below), work.call("Add", mean, above)))
    if rule.above_mean:
        bounds.append((work.mean(image), work.call("ReduceMax", image, keepdims=0)))
    if not bounds:
        return inside
    sides = [
        side
        for low, high in bounds
        for side in (work.call("Greater", inside, low), work.call("Less", inside, high))
    ]
    passes = sides[0]
    for side in sides[1:]:
        passes = work.call("And", passes, side)
    low, high = (work.call("Where", passes, inside, np.float64(n)) for n in (np.inf, -np.inf))
    least = work.call("ReduceMin", low, keepdims=0)
    varies = work.call("Greater", work.call("ReduceMax", high, keepdims=0), least)
    return work.call("Compress", inside, work.call("Or", passes, work.call("Not", varies)))


def _range(work: _Nodes, x: str) -> tuple[str, str]:
    return work.call("ReduceMin", x, keepdims=0), work.call("ReduceMax", x, keepdims=0)


def _percentiles(work: _Nodes, x: str, shares: tuple[float, float]) -> tuple[str, str]:
    """Values below which so many per cent lie, between two of them by proportion."""
    count = work.call("Shape", x)
    ordered = work.call("TopK", x, count, axis=0, largest=0, sorted=1)
    last = work.double(work.call("Sub", work.call("Squeeze", count), np.int64(1)))

    def percentile(share: float) -> str:
        place = work.call("Mul", last, np.float64(share / 100))
        floor = work.call("Floor", place)
        lower, upper = (
            work.call("Gather", ordered, work.call("Cast", n, to=WHOLE))
            for n in (floor, work.call("Ceil", place))
        )
        step = work.call("Mul", work.call("Sub", upper, lower), work.call("Sub", place, floor))
        return work.call("Add", lower, step)

    below, above = shares
    return percentile(below), percentile(above)


def _surrounded(
    work: _Nodes, image: str, channels: int, box: ImageBox, geometry: NetworkGeometry
) -> str:
    """``(C, …)`` with all that a box at any place of the image reads.

    So far as the geometry says it is mirrored; further out, every channel has the mean of the
    corners of the mirrored image.
    """
    low, high = box.context
    sizes = box.input_sizes
    high = add(high, add(sizes.smallest, sizes.step))
    is_endless = EVERYWHERE in geometry.mirrored
    before, after = (low, high) if is_endless else geometry.mirrored
    for axis in range(3):
        image = _mirrored(work, image, axis + 1, before[axis], after[axis])
    rest = sub(low, before), sub(high, after)
    if not any((*rest[0], *rest[1])):
        return image
    corners = image
    for axis in (1, 2, 3):
        corners = work.call("Gather", corners, [0, -1], axis=axis)
    means = work.call("ReduceMean", work.double(corners), axes=[1, 2, 3], keepdims=0)
    means = work.call("Cast", means, to=FLOAT)
    wide = [_bordered(work, image, means, n, rest) for n in range(channels)]
    return work.call("Concat", *(work.call("Unsqueeze", x, [0]) for x in wide), axis=0)


def _mirrored(work: _Nodes, image: str, axis: int, before: int, after: int) -> str:
    """An axis with so many mirrored voxels before and after it, its ends not repeated."""
    size = work.call("Squeeze", work.call("Shape", image, start=axis, end=axis + 1))
    end = work.call("Add", size, np.int64(after))
    period = work.call("Mul", work.call("Sub", size, np.int64(1)), np.int64(2))
    places = work.call("Range", np.int64(-before), end, np.int64(1))
    places = work.call("Mod", places, work.call("Max", period, np.int64(1)))
    places = work.call("Min", places, work.call("Sub", period, places))
    return work.call("Gather", image, places, axis=axis)


def _bordered(
    work: _Nodes, image: str, values: str, channel: int, border: tuple[Int3, Int3]
) -> str:
    value = _channel(work, values, channel)
    return work.call("Pad", _channel(work, image, channel), [*border[0], *border[1]], value)
