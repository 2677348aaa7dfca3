"""Receptive field and sizes of a chain of convolutions, in whole voxels.

Everything here is exact integer arithmetic and nothing imports torch, so that a model file can be
judged before a network is built from it. Sizes are ``Int3``: voxels along X, Y, Z. Convolutions are
unpadded; a chain is given in the order in which its layers are applied.

Source: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill, 2019, doi:10.23915/distill.00021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3, per_axis, text


@dataclass(frozen=True)
class Window:
    """The part of a layer's input that one output voxel of this layer sees.

    Attributes:
        kernel: Voxels seen along each axis, at least 1.
        stride: Input voxels from the window of one output voxel to that of the next, at least 1.
    """

    kernel: Int3
    stride: Int3 = (1, 1, 1)


def smallest_input(output: Int3, chain: Sequence[Window]) -> Int3:
    """Smallest segment from which ``chain`` computes ``output`` voxels.

    The last layer says what it needs of the one before, so the chain is walked backwards.
    """
    size = output
    for window in reversed(chain):
        size = per_axis(lambda n, k, s: (n - 1) * s + k, size, window.kernel, window.stride)
    return size


def receptive_field(chain: Sequence[Window]) -> Int3:
    """Extent of the input on which one output voxel depends; one voxel for an empty chain."""
    return smallest_input((1, 1, 1), chain)


def output_size(segment: Int3, chain: Sequence[Window]) -> Int3:
    """Voxels that ``chain`` computes from ``segment``.

    Raises:
        DeepsegError: ``segment-too-small``, if ``segment`` is smaller than the receptive field.
    """
    field = receptive_field(chain)
    short = [axis for axis, n, r in zip("XYZ", segment, field, strict=True) if n < r]
    if short:
        raise DeepsegError(
            Problem(
                code="segment-too-small",
                got=f"{text(segment)} voxels",
                expected=f"at least {text(field)}, the receptive field",
                fix=f"enlarge the segment along {', '.join(short)} or use fewer or smaller kernels",
            )
        )
    size = segment
    for window in chain:
        size = per_axis(lambda n, k, s: (n - k) // s + 1, size, window.kernel, window.stride)
    return size
