"""Resizing, with every way in which ONNX counts coordinates.

Where torch's own interpolation computes the same, it is used; else one axis after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.graph import GraphNode, node_error
from deepseg.model.graph.operators.call import Call, Operator

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
MODES = ("nearest", "linear", "cubic")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class Resizing:
    """Grid and method by which an image is resized.

    Attributes:
        sizes: Voxels of the result along every axis of the tensor.
        scales: By which each axis grows, as the coordinates count it.
        states_scales: Whether the graph states the scales; otherwise it states sizes.
        coordinates: One of `COORDINATES`.
        mode: One of `MODES`.
        rounding: One of `ROUNDINGS`, for the nearest voxel.
    """

    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    states_scales: bool
    coordinates: str
    mode: str
    rounding: str


def resizing(call: Call) -> Resizing:
    """Grid and method by which a node resizes its image."""
    node, x = call.node, call.tensor(0)
    axes = node.integers("axes") or list(range(x.ndim))
    scales, sizes = _stated(call)
    target, factors = list(x.shape), [1.0] * x.ndim
    stated = sizes or scales
    if stated is None or len(stated) != len(axes):
        raise node_error(node, f"scales or sizes {stated}", f"one for each of {len(axes)} axes")
    for axis, value in zip(axes, stated, strict=True):
        target[axis] = int(value) if sizes else int(x.shape[axis] * value)
        factors[axis] = target[axis] / x.shape[axis] if sizes else float(value)
    is_old = node.operator == "Upsample" or call.opset < 11
    default = "asymmetric" if is_old else "half_pixel"
    return Resizing(
        sizes=tuple(target),
        scales=tuple(factors),
        states_scales=not sizes,
        coordinates=node.text("coordinate_transformation_mode", default),
        mode=node.text("mode", "nearest"),
        rounding=node.text("nearest_mode", "floor" if is_old else "round_prefer_floor"),
    )


def _stated(call: Call) -> tuple[list[float] | None, list[int] | None]:
    """Scales or sizes of a node; the other is None or empty."""
    is_early = call.node.operator == "Upsample" or call.opset < 11
    scales = call.node.numbers("scales")
    tensor = call.optional(1 if is_early else 2)
    if scales is None and tensor is not None:
        scales = [float(value) for value in tensor.tolist()]
    return scales, None if is_early else call.integers("", 3)


def resize(call: Call) -> Tensor:
    """An image on a finer or coarser grid."""
    x, plan = call.tensor(0), resizing(call)
    if plan.sizes == tuple(x.shape):
        return x
    quick = _torch_interpolation(x, plan)
    if quick is not None:
        return quick
    cubic = _cubic_settings(call)
    for axis in range(x.ndim):
        if plan.sizes[axis] != x.shape[axis]:
            places = coordinates(plan, axis, x.shape[axis]).to(x.device)
            x = _along_axis(x, axis, places, plan, cubic)
    return x


def _torch_interpolation(x: Tensor, plan: Resizing) -> Tensor | None:
    """torch's own interpolation, where it computes the same."""
    if x.ndim not in _LINEAR or plan.sizes[:2] != x.shape[:2]:
        return None
    sizes = list(plan.sizes[2:])
    if plan.mode == "nearest":
        repeats = all(n % old == 0 for n, old in zip(sizes, x.shape[2:], strict=True))
        is_plain = plan.coordinates == "asymmetric" and plan.rounding == "floor"
        is_central = plan.coordinates.endswith("half_pixel") and plan.rounding.startswith("round")
        return F.interpolate(x, sizes) if repeats and (is_plain or is_central) else None
    if plan.mode != "linear" or min(sizes) < 2:
        return None
    if plan.coordinates == "align_corners":
        return F.interpolate(x, sizes, mode=_LINEAR[x.ndim], align_corners=True)
    if plan.coordinates not in ("half_pixel", "pytorch_half_pixel"):
        return None
    if plan.states_scales:
        factors = list(plan.scales[2:])
        return F.interpolate(x, scale_factor=factors, mode=_LINEAR[x.ndim], align_corners=False)
    return F.interpolate(x, sizes, mode=_LINEAR[x.ndim], align_corners=False)


def coordinates(plan: Resizing, axis: int, size: int) -> Tensor:
    """``(n,)`` places in the image of the voxels of the result, in voxels of the image."""
    n, scale = plan.sizes[axis], plan.scales[axis]
    places = torch.arange(n, dtype=torch.float32)
    match plan.coordinates:
        case "asymmetric":
            return places / scale
        case "align_corners":
            return places * (size - 1) / (n - 1) if n > 1 else torch.zeros(1)
        case "tf_half_pixel_for_nn":
            return (places + 0.5) / scale
        case "pytorch_half_pixel":
            return (places + 0.5) / scale - 0.5 if n > 1 else torch.zeros(1)
        case "half_pixel_symmetric":
            shift = size / 2 * (1 - n / (scale * size))
            return shift + (places + 0.5) / scale - 0.5
        case _:
            return (places + 0.5) / scale - 0.5


def axis_matrix(call: Call, axis: int) -> Tensor:
    """``(n, m)``: the share of each of m voxels along an axis in each of the n of the result."""
    plan, size = resizing(call), call.tensor(0).shape[axis]
    cubic = _cubic_settings(call)
    return _along_axis(torch.eye(size), 0, coordinates(plan, axis, size), plan, cubic)


def _cubic_settings(call: Call) -> tuple[float, bool]:
    """The coefficient of cubic interpolation, and whether voxels outside are left out."""
    return (
        call.node.number("cubic_coeff_a", -0.75),
        bool(call.node.integer("exclude_outside", 0)),
    )


def _along_axis(
    x: Tensor, axis: int, places: Tensor, plan: Resizing, cubic: tuple[float, bool]
) -> Tensor:
    size = x.shape[axis]
    if plan.mode == "nearest":
        return x.index_select(axis, _rounded(places, plan.rounding).clamp(0, size - 1).long())
    first = places.floor()
    share = (places - first).to(x.dtype)
    if plan.mode == "linear":
        taps, shares = [0, 1], torch.stack([1 - share, share])
    else:
        taps, shares = [-1, 0, 1, 2], _cubic(share, cubic[0])
    inside = [(first + tap >= 0) & (first + tap < size) for tap in taps]
    if plan.mode == "cubic" and cubic[1]:
        shares = shares * torch.stack(inside)
        shares = shares / shares.sum(0)
    form = [-1 if n == axis else 1 for n in range(x.ndim)]
    total: Tensor | None = None
    for tap, part in zip(taps, shares, strict=True):
        y = x.index_select(axis, (first + tap).clamp(0, size - 1).long()) * part.view(form)
        total = y if total is None else total + y
    assert total is not None
    return total


def _rounded(places: Tensor, rounding: str) -> Tensor:
    match rounding:
        case "round_prefer_floor":
            return (places - 0.5).ceil()
        case "round_prefer_ceil":
            return (places + 0.5).floor()
        case "floor":
            return places.floor()
        case _:
            return places.ceil()


def _cubic(share: Tensor, a: float) -> Tensor:
    """``(4, n)`` shares of the voxels around a place (Keys, doi:10.1109/TASSP.1981.1163711)."""

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return torch.stack([far(share + 1), near(share), near(1 - share), far(2 - share)])


def _refusal(node: GraphNode) -> str | None:
    covered: Sequence[tuple[str, Sequence[object]]] = (
        ("coordinate_transformation_mode", COORDINATES),
        ("mode", MODES),
        ("nearest_mode", ROUNDINGS),
        ("antialias", (0,)),
        ("keep_aspect_ratio_policy", ("stretch",)),
    )
    for name, values in covered:
        if name in node.attributes and node.attributes[name] not in values:
            return f"{name} {node.attributes[name]}"
    return None


OPERATORS = {
    "Resize": Operator(resize, _refusal, settings=(1, 2, 3)),
    "Upsample": Operator(resize, _refusal, settings=(1,)),
}
