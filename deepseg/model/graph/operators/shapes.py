"""Operators that move values without changing them, and those that compute sizes.

Sizes are whole numbers on the CPU, so that nothing waits for a GPU to know them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.graph import GraphNode, node_error
from deepseg.model.graph.operators.arithmetic import together
from deepseg.model.graph.operators.call import Call, Operator
from deepseg.model.graph.operators.window import torch_pads

LARGEST_FILLING = 1 << 28  # values that a node may make from sizes alone

TYPES = {
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def identity(call: Call) -> Tensor:
    """The input itself."""
    return call.tensor(0)


def concatenation(call: Call) -> Tensor:
    """Tensors one after the other along an axis."""
    tensors = together(*(call.tensor(n) for n in range(len(call.inputs))))
    return torch.cat(tensors, call.node.integer("axis", 1))


def split(call: Call) -> tuple[Tensor, ...]:
    """Pieces along an axis, of stated or of equal sizes; the last may be smaller."""
    x, axis = call.tensor(0), call.node.integer("axis", 0)
    sizes = call.integers("split", 1)
    if sizes is None:
        count = call.node.integer("num_outputs", len(call.node.outputs))
        return tuple(torch.split(x, -(-x.shape[axis] // count), axis))
    return tuple(torch.split(x, sizes, axis))


def box(call: Call) -> Tensor:
    """A range of each axis, forwards or backwards, with or without steps."""
    x = call.tensor(0)
    starts, ends = call.integers("starts", 1), call.integers("ends", 2)
    if starts is None or ends is None:
        raise node_error(call.node, "no starts or no ends", "both")
    axes = call.integers("axes", 3) or list(range(len(starts)))
    steps = call.integers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, min(places.start, x.shape[axis]), len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), device=x.device))
    return x


def padding(call: Call) -> Tensor:
    """Borders of a constant, or of repeated, mirrored or wrapped values; negative ones crop."""
    x = call.tensor(0)
    pads = call.integers("pads", 1)
    axes = call.integers("axes", 3) or list(range(x.ndim))
    if pads is None or len(pads) != 2 * len(axes):
        raise node_error(call.node, f"pads {pads}", f"two for each of {len(axes)} axes")
    low, high = [0] * x.ndim, [0] * x.ndim
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        low[axis], high[axis] = before, after
    mode = call.node.text("mode", "constant")
    if mode == "constant":
        return F.pad(x, torch_pads(low, high), value=call.number("value", 2, 0.0))
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        if before or after:
            places = border_places(mode, x.shape[axis], before, after)
            x = x.index_select(axis, places.to(x.device))
    return x


def border_places(mode: str, size: int, before: int, after: int) -> Tensor:
    """``(before + size + after,)`` voxels that are repeated, from 0."""
    places = torch.arange(-before, size + after)
    if mode == "wrap":
        return places % size
    if mode == "edge":
        return places.clamp(0, size - 1)
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else torch.zeros_like(places)


def reshaped(call: Call) -> Tensor:
    """Another shape; -1 is what is left over, 0 the size of before."""
    x = call.tensor(0)
    shape = call.integers("shape", 1)
    if shape is None:
        raise node_error(call.node, "no shape", "one")
    if not call.node.integer("allowzero", 0):
        shape = [x.shape[n] if size == 0 else size for n, size in enumerate(shape)]
    return x.reshape(shape)


def flattened(call: Call) -> Tensor:
    """Two axes: all before ``axis``, and all from it on."""
    x = call.tensor(0)
    axis = call.node.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transposed(call: Call) -> Tensor:
    """Axes in another order; in the reverse one if none is stated."""
    x = call.tensor(0)
    order = call.node.integers("perm")
    return x.permute(list(reversed(range(x.ndim))) if order is None else order)


def squeezed(call: Call) -> Tensor:
    """Without axes of size 1: the stated ones, or all."""
    x = call.tensor(0)
    axes = call.integers("axes", 1)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    for axis in axes:
        if x.shape[axis] != 1:
            raise node_error(call.node, f"an axis of size {x.shape[axis]} to leave out", "size 1")
    return x.squeeze(tuple(axes))


def unsqueezed(call: Call) -> Tensor:
    """With new axes of size 1."""
    x = call.tensor(0)
    axes = call.integers("axes", 1)
    if axes is None:
        raise node_error(call.node, "no axes", "some")
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def expanded(call: Call) -> Tensor:
    """Repeated along axes of size 1."""
    x = call.tensor(0)
    return x.expand(np.broadcast_shapes(x.shape, tuple(call.integers("shape", 1) or [])))


def tiled(call: Call) -> Tensor:
    """Repeated as a whole along each axis."""
    return call.tensor(0).repeat(call.integers("repeats", 1) or [])


def gather(call: Call) -> Tensor:
    """Entries of one axis by their numbers; negative ones count from the end."""
    x, places = call.tensor(0), call.tensor(1)
    axis = call.node.integer("axis", 0) % x.ndim
    flat = places.reshape(-1).to(device=x.device, dtype=torch.int64)
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    chosen = x.index_select(axis, flat)
    return chosen.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


def shape(call: Call) -> Tensor:
    """The size of each axis, on the CPU."""
    x = call.tensor(0)
    sizes = list(x.shape)
    start = call.node.integer("start", 0)
    return torch.tensor(sizes[start : call.node.integer("end", x.ndim)], dtype=torch.int64)


def size(call: Call) -> Tensor:
    """The number of values, on the CPU."""
    return torch.tensor(call.tensor(0).numel(), dtype=torch.int64)


def cast(call: Call) -> Tensor:
    """Another type of number; all floats are of 32 bits, or what automatic precision makes them."""
    x, word = call.tensor(0), call.node.text("to", "float32")
    if word == "float32" and x.is_floating_point():
        return x
    return x.to(TYPES[word])


def cast_like(call: Call) -> Tensor:
    """The type of number of another tensor."""
    return call.tensor(0).to(call.tensor(1).dtype)


def filled(call: Call) -> Tensor:
    """A tensor of a stated shape, everywhere the same value, on the CPU."""
    sizes = [int(n) for n in call.tensor(0).tolist()]
    _check_filling(call.node, sizes)
    value = call.node.number("value", 0.0)
    return torch.full(sizes, value, dtype=TYPES[call.node.text("dtype", "float32")])


def counted(call: Call) -> Tensor:
    """Numbers from a start to a limit, on the CPU."""
    start, limit, delta = (call.tensor(n) for n in range(3))
    if float(delta) != 0:
        _check_filling(call.node, [max(int((float(limit) - float(start)) / float(delta)), 0)])
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _check_filling(node: GraphNode, sizes: Sequence[int]) -> None:
    if min(sizes, default=0) < 0 or math.prod(sizes) > LARGEST_FILLING:
        raise node_error(node, f"a tensor of shape {sizes}", f"at most {LARGEST_FILLING} values")


def _padding_refusal(node: GraphNode) -> str | None:
    mode = node.attributes.get("mode", "constant")
    return None if mode in ("constant", "edge", "reflect", "wrap") else f"mode {mode}"


def _cast_refusal(node: GraphNode) -> str | None:
    word = node.attributes.get("to")
    return None if word in TYPES else f"numbers of type {word}"


def _filling_refusal(node: GraphNode) -> str | None:
    word = node.attributes.get("dtype", "float32")
    return None if word in TYPES else f"numbers of type {word}"


OPERATORS = {
    "Identity": Operator(identity),
    "Concat": Operator(concatenation),
    "Split": Operator(split, settings=(1,), results=0),
    "Slice": Operator(box, settings=(1, 2, 3, 4)),
    "Pad": Operator(padding, _padding_refusal, settings=(1, 2, 3)),
    "Reshape": Operator(reshaped, settings=(1,)),
    "Flatten": Operator(flattened),
    "Transpose": Operator(transposed),
    "Squeeze": Operator(squeezed, settings=(1,)),
    "Unsqueeze": Operator(unsqueezed, settings=(1,)),
    "Expand": Operator(expanded, settings=(1,)),
    "Tile": Operator(tiled, settings=(1,)),
    "Gather": Operator(gather, settings=(1,)),
    "Shape": Operator(shape),
    "Size": Operator(size),
    "Cast": Operator(cast, _cast_refusal),
    "CastLike": Operator(cast_like),
    "ConstantOfShape": Operator(filled, _filling_refusal, settings=(0,)),
    "Range": Operator(counted, settings=(0, 1, 2)),
}
