"""Boxes, borders and grids of maps, with the way back of their gradients.

Whatever makes each voxel a fixed sum of others along one axis (repetition, mirroring,
interpolation, the mean of a window) is a matrix, and its way back the transposed matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.gradients.arithmetic import matrix_product, reshape
from deepseg.exports.gradients.tape import Shape, Tape, Variable


def box(tape: Tape, x: Variable, start: Sequence[int], shape: Shape) -> Variable:
    """The voxels of ``x`` from ``start`` on, of ``shape``; both count all axes."""
    axes = [a for a, n in enumerate(x.shape) if start[a] or shape[a] != n]
    if not axes:
        return x
    numbers = [[start[a] for a in axes], [start[a] + shape[a] for a in axes], axes]
    y = tape.call("Slice", [x, *(tape.constant(n, "int64") for n in numbers)], shape)
    after = [n - first - size for n, first, size in zip(x.shape, start, shape, strict=True)]
    return tape.record(y, (x, lambda g: with_border(tape, g, start, after)))


def with_border(
    tape: Tape, x: Variable, before: Sequence[int], after: Sequence[int], value: float = 0.0
) -> Variable:
    """``x`` with voxels of one value around it; negative numbers take voxels off."""
    if not any((*before, *after)):
        return x
    shape = tuple(n + low + high for n, low, high in zip(x.shape, before, after, strict=True))
    pads = tape.constant([*before, *after], "int64")
    inputs = [x, pads, tape.constant(value)] if value else [x, pads]
    y = tape.call("Pad", inputs, shape)
    back = [-n for n in before], [-n for n in after]
    return tape.record(y, (x, lambda g: with_border(tape, g, *back)))


def joined(tape: Tape, parts: Sequence[Variable], axis: int) -> Variable:
    """Tensors one after the other along an axis."""
    if len(parts) == 1:
        return parts[0]
    axis %= len(parts[0].shape)
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    y = tape.call("Concat", parts, tuple(shape), axis=axis)
    begins = np.cumsum([0, *(part.shape[axis] for part in parts)])

    def back(begin: int, part: Variable) -> Any:
        start = tuple(begin if n == axis else 0 for n in range(len(shape)))
        return lambda g: box(tape, g, start, part.shape)

    pairs = [(part, back(int(n), part)) for n, part in zip(begins, parts, strict=False)]
    return tape.record(y, *pairs)


def along_axis(tape: Tape, x: Variable, axis: int, matrix: NDArray[Any]) -> Variable:
    """``x`` with ``matrix (n, m)`` applied along an axis of size ``m``."""
    axis %= len(x.shape)
    if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
        return x
    outer, inner = x.shape[:axis], x.shape[axis + 1 :]
    shape = (*outer, len(matrix), *inner)
    table = tape.constant(matrix)
    if not inner:
        rows = reshape(tape, x, (prod(outer), x.shape[axis]))
        return reshape(tape, matrix_product(tape, rows, tape.constant(matrix.T)), shape)
    columns = reshape(tape, x, (prod(outer), x.shape[axis], prod(inner)))
    return reshape(tape, matrix_product(tape, table, columns), shape)


def chosen(tape: Tape, x: Variable, axis: int, places: Sequence[int]) -> Variable:
    """The voxels of ``x`` at ``places`` of an axis, which may repeat."""
    axis %= len(x.shape)
    n = x.shape[axis]
    if list(places) == list(range(places[0], places[0] + len(places))):
        start = tuple(places[0] if a == axis else 0 for a in range(len(x.shape)))
        return box(tape, x, start, (*x.shape[:axis], len(places), *x.shape[axis + 1 :]))
    shape = (*x.shape[:axis], len(places), *x.shape[axis + 1 :])
    y = tape.call("Gather", [x, tape.constant(places, "int64")], shape, axis=axis)
    back = selection_matrix(places, n).T
    return tape.record(y, (x, lambda g: along_axis(tape, g, axis, back)))


def selection_matrix(places: Sequence[int], size: int) -> NDArray[np.float32]:
    """``(len(places), size)``: 1 where a voxel is chosen.

    >>> selection_matrix([0, 0, 1], 2).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    return np.eye(size, dtype=np.float32)[list(places)]
