"""Receptive field: against hand arithmetic, against its own laws, and against torch."""

from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv3d

from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import per_axis
from deepseg.geometry.receptive_field import Window, output_size, receptive_field, smallest_input

CUBE = Window((3, 3, 3))


def triples(largest: int, smallest: int = 1):
    return st.tuples(*[st.integers(smallest, largest)] * 3)


chains = st.lists(st.builds(Window, kernel=triples(4), stride=triples(3)), max_size=3)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        pytest.param([], (1, 1, 1), id="no layer sees one voxel"),
        pytest.param([CUBE] * 8, (17, 17, 17), id="the eight 3x3x3 layers of DeepMedic"),
        pytest.param([Window((3, 3, 1)), Window((5, 1, 1))], (7, 3, 1), id="axes are independent"),
        pytest.param(
            [Window((3, 3, 3), (2, 2, 2)), Window((5, 5, 5))], (11, 11, 11), id="3 + 4 steps of 2"
        ),
    ],
)
def test_known_receptive_fields(chain, expected):
    assert receptive_field(chain) == expected


@given(chain=chains, output=triples(4))
def test_the_smallest_input_gives_the_output(chain, output):
    assert output_size(smallest_input(output, chain), chain) == output


@given(chain=chains, output=triples(4, smallest=2), axis=st.sampled_from(range(3)))
def test_one_voxel_less_costs_one_output_voxel_on_that_axis_only(chain, output, axis):
    less = tuple(-1 if a == axis else 0 for a in range(3))
    shorter = per_axis(add, smallest_input(output, chain), less)
    assert output_size(shorter, chain) == per_axis(add, output, less)


@settings(deadline=None, max_examples=40)
@given(chain=chains, extra=triples(3, smallest=0))
def test_torch_computes_this_size_and_looks_this_far(chain, extra):
    segment = per_axis(add, receptive_field(chain), extra)
    image = torch.zeros(1, 1, *segment, requires_grad=True)
    out = image
    for window in chain:
        out = conv3d(out, torch.ones(1, 1, *window.kernel), stride=window.stride)
    assert tuple(out.shape[2:]) == output_size(segment, chain)

    (seen,) = torch.autograd.grad(out[0, 0, 0, 0, 0], image)
    last = seen[0, 0].nonzero().amax(dim=0)  # furthest voxel that reached output voxel (0, 0, 0)
    assert tuple((last + 1).tolist()) == receptive_field(chain)


def test_a_segment_below_the_receptive_field_is_refused_with_both_sizes():
    with pytest.raises(DeepsegError) as refusal:
        output_size((16, 20, 20), [CUBE] * 8)
    assert str(refusal.value.at("model.yml:31 segmentsDimTrain")) == (
        "[segment-too-small] model.yml:31 segmentsDimTrain: got 16 x 20 x 20 voxels; "
        "expected at least 17 x 17 x 17, the receptive field; "
        "fix: enlarge the segment along X or use fewer or smaller kernels"
    )
