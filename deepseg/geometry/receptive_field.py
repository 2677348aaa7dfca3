"""Receptive field of a chain of unpadded convolutions, in whole voxels.

Everything here is exact integer arithmetic and nothing imports torch, so that a model file can be
judged before a network is built from it. Sizes are ``Int3``: voxels along X, Y, Z.

Source: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill, 2019, doi:10.23915/distill.00021; all strides are 1 here.
"""

from __future__ import annotations

from collections.abc import Iterable

from deepseg.geometry.boxes import Int3, add


def receptive_field(kernels: Iterable[Int3]) -> Int3:
    """Extent of the input on which one output voxel depends; one voxel for an empty chain.

    >>> receptive_field([(3, 3, 3), (3, 3, 1)])
    (5, 5, 3)
    """
    return add(shrinkage(kernels), 1)


def shrinkage(kernels: Iterable[Int3]) -> Int3:
    """Voxels by which the output of a chain is smaller than its input.

    >>> shrinkage([(3, 3, 3), (3, 3, 1)])
    (4, 4, 2)
    """
    return add(0, *(add(kernel, -1) for kernel in kernels))
