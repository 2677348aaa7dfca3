"""Receptive field: against hand arithmetic, and against torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv3d

from deepseg.geometry.boxes import add, sub
from deepseg.geometry.receptive_field import receptive_field, shrinkage


def triples(largest: int, smallest: int = 1):
    return st.tuples(*[st.integers(smallest, largest)] * 3)


chains = st.lists(triples(4), max_size=3)


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        pytest.param([], (1, 1, 1), id="no layer sees one voxel"),
        pytest.param([(3, 3, 3)] * 8, (17, 17, 17), id="the eight 3x3x3 layers of DeepMedic"),
        pytest.param([(3, 3, 1), (5, 1, 1)], (7, 3, 1), id="axes are independent"),
    ],
)
def test_known_receptive_fields(kernels, expected):
    assert receptive_field(kernels) == expected


@settings(deadline=None, max_examples=40)
@given(kernels=chains, extra=triples(3, smallest=0))
def test_torch_computes_this_size_and_looks_this_far(kernels, extra):
    segment = add(receptive_field(kernels), extra)
    image = torch.zeros(1, 1, *segment, requires_grad=True)
    out = image
    for kernel in kernels:
        out = conv3d(out, torch.ones(1, 1, *kernel))
    assert tuple(out.shape[2:]) == sub(segment, shrinkage(kernels))

    (gradient,) = torch.autograd.grad(out[0, 0, 0, 0, 0], image)
    last = gradient[0, 0].nonzero().amax(dim=0)  # furthest voxel that reached output (0, 0, 0)
    assert tuple((last + 1).tolist()) == receptive_field(kernels)
