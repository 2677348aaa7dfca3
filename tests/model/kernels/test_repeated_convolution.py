"""Convolutions of repeated maps against repeating and convolving."""

import pytest
import torch
from torch.nn import functional as F

from deepseg.geometry.boxes import Box
from deepseg.model.feature_maps import padded, repeated
from deepseg.model.kernels import RepeatedConvolution, add_repeated

SIZE = (13, 11, 17)


def coarse(factor, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shape = [-(-n // f) for n, f in zip(SIZE, factor, strict=True)]
    return torch.randn(2, 3, *shape, generator=rng)


@pytest.mark.parametrize("factor", [(3, 3, 3), (2, 4, 5), (1, 3, 7), (1, 1, 1)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 2), (5, 1, 4)])
@pytest.mark.parametrize("border", ["none", "zero", "mirror"])
def test_the_result_is_that_of_the_repeated_map(factor, kernel, border):
    x = coarse(factor)
    weight = torch.randn(4, 3, *kernel, generator=torch.Generator().manual_seed(1))
    expected = F.conv3d(padded(repeated(x, factor, SIZE), kernel, border), weight)
    convolution = RepeatedConvolution(weight, factor, border, dtype=torch.float32)
    y = torch.zeros_like(expected)
    convolution.add_to(y, Box((0, 0, 0), tuple(y.shape[2:])), x, (0, 0, 0), SIZE)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_a_part_is_computed_from_the_coarse_voxels_that_it_needs():
    factor, box = (3, 2, 5), Box((4, 3, 6), (5, 7, 8))
    x = coarse(factor)
    weight = torch.randn(4, 3, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    whole = F.conv3d(padded(repeated(x, factor, SIZE), (3, 3, 3), "mirror"), weight)
    y = torch.ones(2, 4, *box.size)
    needed = x[:, :, 1:4, 1:6, 1:3]  # of voxels 3 to 9, 2 to 10 and 5 to 14
    convolution = RepeatedConvolution(weight, factor, "mirror", dtype=torch.float32)
    convolution.add_to(y, box, needed, (1, 1, 1), SIZE)
    torch.testing.assert_close(y, 1 + whole[(..., *box.slices)], atol=1e-5, rtol=1e-5)


def test_repeated_voxels_are_added_to_a_part():
    factor, box = (3, 2, 5), Box((4, 3, 6), (5, 7, 8))
    x = coarse(factor)
    y = torch.ones(2, 3, *box.size)
    add_repeated(y, box, x[:, :, 1:], (1, 0, 0), factor)
    torch.testing.assert_close(y, 1 + repeated(x, factor, SIZE)[(..., *box.slices)])
