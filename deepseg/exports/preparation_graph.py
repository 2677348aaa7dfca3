"""The preparation of a case and the way back as graphs, so that programs need not know them.

From an image and its region of interest to the array from which boxes are cut: resampled,
intensities cut off, z-scores as of `deepseg.data.intensity`, and around the image what networks
read beyond it. From probabilities to labels on the grid of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deepseg.config.cases import Preparation, ZScore
from deepseg.exports.image_box import ImageBox
from deepseg.exports.onnx_bytes import package_onnx
from deepseg.geometry.boxes import Int3, add, sub
from deepseg.geometry.context import EVERYWHERE, NetworkGeometry

IMAGE, ROI, SPACING, PROBABILITIES = "image", "roi", "spacing_mm", "probabilities"
PREPARED, SHAPE, LABELS = "prepared", "shape", "labels"
OPSET, FILE_VERSION = 17, 8
FLOAT, BYTE, WHOLE, BOOL, DOUBLE = 1, 2, 7, 9, 11  # types of numbers, as ONNX counts them
SMOOTHED_FROM, SIGMAS, WIDTH_PER_SIGMA = 1.5, 4.0, 2 * sqrt(2 * log(2))  # as in resampling


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

    def content(
        self,
        inputs: Mapping[str, tuple[int, str]],
        results: Mapping[str, tuple[str, int, str]],
    ) -> bytes:
        """The file: inputs with types and axes, results with what they are, types and axes."""
        helper = self.onnx.helper
        for name, (tensor, _, _) in results.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name]))

        def described(name: str, kind: int, axes: str) -> Any:
            shape = [int(axis) if axis.isdecimal() else axis for axis in axes]
            return helper.make_tensor_value_info(name, kind, shape)

        graph = helper.make_graph(
            self.nodes,
            "deepseg",
            [described(name, kind, axes) for name, (kind, axes) in inputs.items()],
            [described(name, kind, axes) for name, (_, kind, axes) in results.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=FILE_VERSION,
            producer_name="deepseg",
        )
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def size(self, x: str, axis: int) -> str:
        """Of an axis, a single whole number."""
        return self.call("Squeeze", self.call("Shape", x, start=axis, end=axis + 1))

    def double(self, x: str) -> str:
        """``x`` with the precision of a double."""
        return self.call("Cast", x, to=DOUBLE)

    def mean(self, x: str) -> str:
        """A single number, as are the next two."""
        return self.call("ReduceMean", x, keepdims=0)

    def mean_and_deviation(self, x: str) -> tuple[str, str]:
        """Mean and population deviation."""
        mean = self.mean(x)
        centred = self.call("Sub", x, mean)
        return mean, self.call("Sqrt", self.mean(self.call("Mul", centred, centred)))


def preparation_bytes(
    preparation: Preparation, channels: Sequence[str], box: ImageBox, geometry: NetworkGeometry
) -> bytes:
    """The ONNX file from ``image (C, X, Y, Z)`` to ``prepared``, and to the ``shape`` in it.

    It also reads ``roi (X, Y, Z)`` and ``spacing_mm (3,)``, the size of a voxel. A box that begins
    at voxel n of ``prepared`` predicts voxels from n on; there are ``shape`` to be predicted.

    Args:
        preparation: Of the cases; axes and region of interest are made before.
        channels: Names.
        box: That the network reads.
        geometry: Of the network.

    Raises:
        DeepsegError: ``onnx-extra-missing``.
    """
    work = _Nodes(package_onnx())
    image, roi = _on_grid(work, preparation)
    shape = work.call("Shape", roi)
    if preparation.clip is not None:
        image = work.call("Clip", image, *np.array(preparation.clip, np.float32))
    counts = _counting(work, roi)
    scores = [_channel(work, image, n) for n in range(len(channels))]
    rule = preparation.z_score
    if isinstance(rule, ZScore):
        scores = [
            _z_score(work, scores[n], counts, rule) if preparation.normalises(name) else scores[n]
            for n, name in enumerate(channels)
        ]
    image = work.call("Concat", *(work.call("Unsqueeze", x, [0]) for x in scores), axis=0)
    image = _surrounded(work, image, len(channels), box, geometry)
    inputs = {IMAGE: (FLOAT, "cxyz"), ROI: (BOOL, "xyz"), SPACING: (DOUBLE, "3")}
    results = {PREPARED: (image, FLOAT, "cuvw"), SHAPE: (shape, WHOLE, "3")}
    return work.content(inputs, results)


def _on_grid(work: _Nodes, preparation: Preparation) -> tuple[str, str]:
    """Image and region of interest with voxels of the size that the network knows."""
    image, roi = IMAGE, ROI
    if preparation.spacing_mm is None:
        return image, roi
    grids = [_AxisGrid.of(work, n, mm) for n, mm in enumerate(preparation.spacing_mm)]
    for axis, grid in enumerate(grids):
        nearest = work.call("Floor", work.call("Add", grid.places(work), 0.5))
        roi = work.call("Gather", roi, work.call("Cast", nearest, to=WHOLE), axis=axis)
    return _resampled(work, image, [grid.matrix(work) for grid in grids]), roi


def finishing_bytes(preparation: Preparation) -> bytes:
    """The ONNX file from ``probabilities (K, …)`` of the prepared case to ``labels (X, Y, Z)``.

    It also reads ``roi`` and ``spacing_mm``, as `preparation_bytes`; labels are 0 out of the ROI.

    Args:
        preparation: Of the cases.

    Raises:
        DeepsegError: ``onnx-extra-missing``.
    """
    work = _Nodes(package_onnx())
    probabilities = PROBABILITIES
    if preparation.spacing_mm is not None:
        grids = [
            _AxisGrid.of(work, n, mm).inverse(work) for n, mm in enumerate(preparation.spacing_mm)
        ]
        probabilities = _resampled(work, probabilities, [grid.matrix(work) for grid in grids])
    labels = work.call("Cast", work.call("ArgMax", probabilities, axis=0, keepdims=0), to=BYTE)
    labels = work.call("Where", ROI, labels, np.uint8(0))
    inputs = {PROBABILITIES: (FLOAT, "kuvw"), ROI: (BOOL, "xyz"), SPACING: (DOUBLE, "3")}
    return work.content(inputs, {LABELS: (labels, BYTE, "xyz")})


@dataclass(frozen=True)
class _AxisGrid:
    """An axis on another grid around the same centre, as of `deepseg.data.images.resampling`.

    Attributes:
        voxels: Of the source.
        size: Voxels of the target.
        ratio: Size of a voxel of the target, in voxels of the source.
    """

    voxels: str
    size: str
    ratio: str

    @classmethod
    def of(cls, work: _Nodes, axis: int, side_mm: float) -> _AxisGrid:
        """From an axis of the image to voxels of ``side_mm``."""
        mm = work.call("Gather", SPACING, axis)
        voxels = work.double(
            work.call("Squeeze", work.call("Shape", ROI, start=axis, end=axis + 1))
        )
        ratio = work.call("Div", side_mm, mm)
        millionths = work.call("Mul", work.call("Div", voxels, ratio), 1e6)
        exact = work.call("Div", work.call("Round", millionths), 1e6)
        whole = work.call("Floor", work.call("Add", exact, 0.5))
        return cls(voxels, work.call("Max", whole, 1.0), ratio)

    def inverse(self, work: _Nodes) -> _AxisGrid:
        """From the target to the source."""
        return _AxisGrid(self.size, self.voxels, work.call("Reciprocal", self.ratio))

    def places(self, work: _Nodes) -> str:
        """``(size,)``: the place in the source of each voxel of the target, not beyond the ends."""
        numbers = _numbers(work, self.size)
        last, end = (work.call("Sub", n, 1.0) for n in (self.size, self.voxels))
        half = 0.5
        steps = work.call(
            "Mul", work.call("Sub", numbers, work.call("Mul", last, half)), self.ratio
        )
        places = work.call("Add", steps, work.call("Mul", end, half))
        return work.call("Min", work.call("Max", places, 0.0), end)

    def matrix(self, work: _Nodes) -> str:
        """``(size, voxels)``: linear interpolation, of smoothed voxels where details are lost."""
        places = work.call("Unsqueeze", self.places(work), [1])
        distance = work.call("Abs", work.call("Sub", places, _numbers(work, self.voxels)))
        weights = work.call("Max", work.call("Sub", 1.0, distance), 0.0)
        return work.call("Cast", work.call("MatMul", weights, self._smoothing(work)), to=FLOAT)

    def _smoothing(self, work: _Nodes) -> str:
        """``(voxels, voxels)``: a Gaussian, beyond the ends of which the last voxel is repeated."""
        square = work.call("Mul", self.ratio, self.ratio)
        blur = work.call("Sqrt", work.call("Max", work.call("Sub", square, 1.0), 0.0))
        is_coarser = work.call("Greater", self.ratio, SMOOTHED_FROM)
        sigma = work.call("Where", is_coarser, work.call("Div", blur, WIDTH_PER_SIGMA), 0.0)
        reach = work.call("Floor", work.call("Add", work.call("Mul", sigma, SIGMAS), 0.5))
        stop = work.call("Add", reach, 1.0)
        offsets = work.call("Range", work.call("Neg", reach), stop, 1.0)
        shares = work.call("Div", offsets, work.call("Max", sigma, 1e-3))
        weights = work.call("Exp", work.call("Mul", work.call("Mul", shares, shares), -0.5))
        weights = work.call("Div", weights, work.call("ReduceSum", weights))
        numbers = _numbers(work, self.voxels)
        read = work.call("Add", work.call("Unsqueeze", numbers, [1]), offsets)
        last = work.call("Sub", self.voxels, 1.0)
        read = work.call("Min", work.call("Max", read, 0.0), last)  # (voxels, taps)
        is_read = work.call("Equal", work.call("Unsqueeze", read, [2]), numbers)
        taps = work.call("Where", is_read, work.call("Unsqueeze", weights, [1]), 0.0)
        return work.call("ReduceSum", taps, [1], keepdims=0)


def _numbers(work: _Nodes, count: str) -> str:
    """``0, 1, …, count - 1``."""
    return work.call("Range", 0.0, count, 1.0)


def _resampled(work: _Nodes, x: str, matrices: Sequence[str]) -> str:
    """``(C, X, Y, Z)`` with a matrix applied along each of the last three axes."""
    x_matrix, y_matrix, z_matrix = matrices
    x = work.call("MatMul", x, work.call("Transpose", z_matrix))
    x = work.call("MatMul", y_matrix, x)
    x = work.call("MatMul", x_matrix, work.call("Transpose", x, perm=[0, 2, 1, 3]))
    return work.call("Transpose", x, perm=[0, 2, 1, 3])


def _counting(work: _Nodes, roi: str) -> str:
    """``(N,)`` bool: voxels of the region of interest; all of them if it is empty."""
    marked = work.call("Reshape", roi, [-1])
    most = work.call("ReduceMax", work.call("Cast", marked, to=WHOLE), keepdims=0)
    return work.call("Or", marked, work.call("Equal", most, 0))


def _channel(work: _Nodes, image: str, number: int) -> str:
    return work.call("Gather", image, number, axis=0)


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
            work.call("Mul", deviation, float(factor)) for factor in rule.cutoff_deviations
        )
        limits = work.call("Sub", mean, below), work.call("Add", mean, above)
        low, high = (work.double(work.call("Cast", limit, to=FLOAT)) for limit in limits)
        bounds.append((low, high))  # numpy compares float32 with rounded limits
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
    low, high = (work.call("Where", passes, inside, n) for n in (np.inf, -np.inf))
    least = work.call("ReduceMin", low, keepdims=0)
    varies = work.call("Greater", work.call("ReduceMax", high, keepdims=0), least)
    return work.call("Compress", inside, work.call("Or", passes, work.call("Not", varies)))


def _range(work: _Nodes, x: str) -> tuple[str, str]:
    return work.call("ReduceMin", x, keepdims=0), work.call("ReduceMax", x, keepdims=0)


def _percentiles(work: _Nodes, x: str, shares: tuple[float, float]) -> tuple[str, str]:
    """Values below which so many per cent lie, between two of them by proportion."""
    count = work.call("Shape", x)
    ordered = work.call("TopK", x, count, axis=0, largest=0, sorted=1)
    last = work.double(work.call("Sub", work.call("Squeeze", count), 1))

    def percentile(share: float) -> str:
        place = work.call("Mul", last, share / 100)
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
    size = work.size(image, axis)
    end = work.call("Add", size, after)
    period = work.call("Mul", work.call("Sub", size, 1), 2)
    places = work.call("Range", -before, end, 1)
    places = work.call("Mod", places, work.call("Max", period, 1))
    places = work.call("Min", places, work.call("Sub", period, places))
    return work.call("Gather", image, places, axis=axis)


def _bordered(
    work: _Nodes, image: str, values: str, channel: int, border: tuple[Int3, Int3]
) -> str:
    value = _channel(work, values, channel)
    return work.call("Pad", _channel(work, image, channel), [*border[0], *border[1]], value)
