"""Operations of ATen on shapes: views, slices, joins, borders, sizes."""

from __future__ import annotations

import torch
from torch import fx

from deepseg.transfer.sources.modules.aten_call import (
    LAST,
    AtenCall,
    Result,
    Translate,
    Translation,
    result,
)


def concatenation(call: AtenCall) -> Translation:
    """One after the other along an axis."""
    return result("Concat", *call.tensors("tensors"), axis=int(call.values["dim"]))


def reshaped(call: AtenCall) -> Translation:
    """Its values in another shape."""
    key = "size" if "size" in call.values else "shape"
    return result("Reshape", call.tensor("self"), call.sizes(list(call.values[key])))


def flattened(call: AtenCall) -> Translation:
    """Axes up to the last made one."""
    first, last = int(call.values["start_dim"]), int(call.values["end_dim"])
    if first < 0 or last not in (-1, call.meta("self").ndim - 1):
        return None
    return result("Reshape", call.tensor("self"), call.sizes([*[0] * first, -1]))


def transposed(call: AtenCall) -> Translation:
    """Two axes exchanged."""
    count = call.meta("self").ndim
    order = list(range(count))
    a, b = int(call.values["dim0"]) % count, int(call.values["dim1"]) % count
    order[a], order[b] = b, a
    return result("Transpose", call.tensor("self"), perm=tuple(order))


def permuted(call: AtenCall) -> Translation:
    """Axes in another order."""
    count = call.meta("self").ndim
    order = tuple(n % count for n in call.integers("dims"))
    return result("Transpose", call.tensor("self"), perm=order)


def squeezed(call: AtenCall) -> Translation:
    """Without axes of one voxel."""
    if "dim" not in call.values:
        return None
    return result("Squeeze", call.tensor("self"), call.sizes(call.integers("dim")))


def unsqueezed(call: AtenCall) -> Translation:
    """With an axis of one voxel."""
    return result("Unsqueeze", call.tensor("self"), call.sizes(call.integers("dim")))


def expanded(call: AtenCall) -> Translation:
    """Axes of one voxel repeated."""
    sizes = [1 if n == -1 else n for n in call.values["size"]]
    return result("Expand", call.tensor("self"), call.sizes(sizes))


def repeated(call: AtenCall) -> Translation:
    """The whole, several times along each axis."""
    times = list(call.values["repeats"])
    if len(times) != call.meta("self").ndim:
        return None
    return result("Tile", call.tensor("self"), call.sizes(times))


def sliced(call: AtenCall) -> Translation:
    """A range of one axis."""
    start, end = call.values.get("start"), call.values.get("end")
    parts = (
        [0 if start is None else start],
        [LAST if end is None else end],
        [call.values["dim"]],
        [call.values["step"]],
    )
    return result("Slice", call.tensor("self"), *(call.sizes(part) for part in parts))


def narrowed(call: AtenCall) -> Translation:
    """A number of entries of one axis, from a first one on."""
    start, length = call.values["start"], call.values["length"]
    if isinstance(start, int) and start < 0:
        return None
    first = call.sizes([start])
    end = call.step("Add", first, call.sizes([length]))
    axis = call.sizes([call.values["dim"]])
    return result("Slice", call.tensor("self"), first, end, axis, call.sizes([1]))


def counted(call: AtenCall) -> Translation:
    """Whole numbers from a start, or 0, to an end."""
    if call.node.meta["val"].dtype != torch.int64:
        return None
    start, step = call.values.get("start", 0), call.values.get("step", 1)
    return result("Range", *(call.sizes([n]) for n in (start, call.values["end"], step)))


def indexed(call: AtenCall) -> Translation:
    """Entries of one axis by their numbers."""
    axis = int(call.values["dim"])
    return result("Gather", call.tensor("self"), call.tensor("index"), axis=axis)


def selected(call: AtenCall) -> Translation:
    """One place of an axis, which is gone afterwards."""
    if isinstance(call.values["index"], fx.Node):
        return None
    place = call.constant(torch.tensor(int(call.values["index"])))
    return result("Gather", call.tensor("self"), place, axis=int(call.values["dim"]))


def split(call: AtenCall) -> Translation:
    """Pieces along an axis, by their number or their sizes."""
    pieces = len(call.node.meta["val"])
    axis = int(call.values["dim"])
    key = next(key for key in ("chunks", "split_sizes", "split_size") if key in call.values)
    sizes = call.values[key]
    if key == "split_sizes":
        return Result(
            "Split", (call.tensor("self"), call.sizes(list(sizes))), {"axis": axis}, pieces
        )
    if key == "split_size" and pieces > 1:
        return None
    return Result("Split", (call.tensor("self"),), {"axis": axis, "num_outputs": pieces}, pieces)


def padded(call: AtenCall) -> Translation:
    """With a border of a constant, of repeated or of mirrored values."""
    modes = {"constant": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
    mode = modes.get(str(call.values.get("mode", "constant")))
    if mode is None:
        return None
    pads, count = list(call.values["pad"]), call.meta("self").ndim
    low, high = [0] * count, [0] * count
    for n, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        low[count - n], high[count - n] = before, after
    value = call.values.get("value")
    filling = call.number_like("value", "self") if value is not None else ""
    return result("Pad", call.tensor("self"), call.sizes([*low, *high]), filling, mode=mode)


def size(call: AtenCall) -> Translation:
    """Voxels along one axis, as a tensor ``(1,)``."""
    place = call.sizes([int(call.values["dim"])])
    return result("Gather", call.step("Shape", call.tensor("self")), place, axis=0)


def of_sizes(operator: str) -> Translate:
    """Arithmetic of sizes."""

    def translate(call: AtenCall) -> Translation:
        left, right = call.values["0"], call.values["1"]
        return result(operator, call.sizes([left]), call.sizes([right]))

    return translate
