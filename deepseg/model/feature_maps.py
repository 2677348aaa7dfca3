"""Plain operations on feature maps ``(N, C, X, Y, Z)``: borders, centre crops, repetition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.config.blocks.pathways import Padding
from deepseg.geometry.boxes import Int3, add, floor_div, sub
from deepseg.geometry.context import Alignment
from deepseg.model.switch import is_plain

AXES = (2, 3, 4)  # of X, Y and Z
MOST_MAPS = 64  # that are walked one by one


def map_size(x: Tensor) -> Int3:
    """Voxels of a map along each axis.

    >>> map_size(torch.zeros(2, 30, 5, 6, 7))
    (5, 6, 7)
    """
    return x.shape[2], x.shape[3], x.shape[4]


def largest_map(x: Tensor) -> Tensor:
    """``(N, X, Y, Z)`` integers: the largest map of every voxel, the first of equal ones.

    Maps that lie one behind the other in memory are walked one by one, because ``argmax`` across
    them is slow.

    >>> largest_map(torch.tensor([[0.1, 0.5, 0.7], [0.9, 0.5, 0.2]]).view(1, 2, 3, 1, 1)).flatten()
    tensor([1, 0, 0], dtype=torch.uint8)
    """
    if x.device.type != "cpu" or x.stride(1) == 1 or x.shape[1] > MOST_MAPS:
        return x.argmax(1)
    most = x[:, 0]
    numbers = torch.zeros(most.shape, dtype=torch.uint8)
    for number in range(1, x.shape[1]):
        values = x[:, number]
        is_larger = (values > most).view(torch.uint8)
        numbers = torch.maximum(numbers, is_larger * number)
        most = torch.maximum(most, values)
    return numbers


def padded(x: Tensor, kernel: Int3, padding: Padding) -> Tensor:
    """``x`` with the border that a convolution needs to keep its size.

    Of the k - 1 voxels, the odd one goes to the end. ``mirror`` repeats the edge voxel, as numpy's
    ``symmetric`` does; reflections repeat where the border is wider than the image.

    >>> x = torch.arange(3.0).view(1, 1, 3, 1, 1)
    >>> padded(x, (4, 1, 1), "mirror").flatten().tolist()
    [0.0, 0.0, 1.0, 2.0, 2.0, 1.0]
    """
    if padding == "none":
        return x
    low = border_before(kernel)
    high = sub(add(kernel, -1), low)
    border = [low[2], high[2], low[1], high[1], low[0], high[0]]
    if padding == "zero":
        return F.pad(x, border)
    if _is_replicated(x, border):
        return F.pad(x, border, mode="replicate")
    for axis, before, after in zip(AXES, low, high, strict=True):
        if before or after:
            x = _mirrored(x, axis, before, after)
    return x


def _is_replicated(x: Tensor, border: list[int]) -> bool:
    """True on a GPU if a mirrored border is the edge voxel: one kernel instead of many."""
    is_repeatable = torch.are_deterministic_algorithms_enabled()  # gradients of this pad are not
    return x.device.type != "cpu" and not is_plain(x) and max(border) <= 1 and not is_repeatable


def border_before(kernel: Int3) -> Int3:
    """Voxels of a padded border in front of the first voxel.

    >>> border_before((3, 4, 1))
    (1, 1, 0)
    """
    return floor_div(add(kernel, -1), 2)


def _mirrored(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    size = x.shape[axis]
    position = torch.arange(-before, size + after, device=x.device) % (2 * size)
    return x.index_select(axis, torch.minimum(position, 2 * size - 1 - position))


def crop_offset(larger: int, smaller: int, alignment: Alignment) -> int:
    """First voxel of the centre crop of a residual connection.

    Where an odd number of voxels is cut off (an even kernel beside an odd one), DeepMedic's
    rounding depends on the size of the segment; ours does not, so that whole images and segments
    agree. Where the number is even, both are the middle.

    >>> crop_offset(7, 3, "deepmedic"), crop_offset(7, 3, "centred")
    (2, 2)
    >>> crop_offset(7, 4, "deepmedic"), crop_offset(6, 3, "deepmedic")
    (2, 1)
    >>> crop_offset(7, 4, "centred"), crop_offset(6, 3, "centred")
    (1, 1)
    """
    if alignment == "deepmedic":
        return (larger - 1) // 2 - (smaller - 1) // 2
    return (larger - smaller) // 2


def cropped(x: Tensor, size: Int3, alignment: Alignment) -> Tensor:
    """Central ``size`` voxels of ``x``; see `crop_offset`.

    >>> x = torch.arange(6.0).view(1, 1, 6, 1, 1)
    >>> cropped(x, (4, 1, 1), "centred").flatten().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    for axis, n in zip(AXES, size, strict=True):
        x = x.narrow(axis, crop_offset(x.shape[axis], n, alignment), n)
    return x


def repeated(x: Tensor, factor: Int3, size: Int3) -> Tensor:
    """Every voxel of ``x`` repeated ``factor`` times along each axis, the first ``size`` kept.

    >>> repeated(torch.arange(3.0).view(1, 1, 3, 1, 1), (2, 1, 1), (5, 1, 1)).flatten().tolist()
    [0.0, 0.0, 1.0, 1.0, 2.0]
    """
    if x.device.type != "cpu" and not is_plain(x) and factor != (1, 1, 1):
        y: Tensor = torch.ops.aten._upsample_nearest_exact3d(x, size, *map(float, factor))
        return y
    for axis, f, n in zip(AXES, factor, size, strict=True):
        if f > 1:
            x = x.repeat_interleave(f, axis)
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, n)
    return x
