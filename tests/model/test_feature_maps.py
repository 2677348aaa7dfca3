"""Borders, centre crops and repetition: by hand, and against numpy."""

import numpy as np
import pytest
import torch

from deepseg.model.feature_maps import crop_offset, cropped, largest_map, padded, repeated


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (3, [0, 0, 1, 2, 3, 4, 4]),
        (5, [1, 0, 0, 1, 2, 3, 4, 4, 3]),
        (2, [0, 1, 2, 3, 4, 4]),
        (4, [0, 0, 1, 2, 3, 4, 4, 3]),
    ],
)
def test_mirror_padding_of_0_to_4(kernel, expected):
    x = torch.arange(5.0).view(1, 1, 1, 5, 1)
    assert padded(x, (1, kernel, 1), "mirror").flatten().tolist() == expected


@pytest.mark.parametrize("kernel", [(3, 1, 5), (2, 4, 3), (7, 9, 5)])
def test_mirror_padding_is_numpys_symmetric_on_every_axis(kernel):
    x = torch.randn(2, 3, 4, 3, 5)
    width = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernel]
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), *width], "symmetric")
    assert np.array_equal(padded(x, kernel, "mirror").numpy(), expected)


def test_zero_padding_puts_the_odd_voxel_behind():
    x = torch.ones(1, 1, 2, 1, 1)
    assert padded(x, (4, 1, 1), "zero").flatten().tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("alignment", "offsets"), [("deepmedic", [2, 1, 1, 2]), ("centred", [1, 1, 1, 2])]
)
def test_the_centre_crop_rounds_as_deepmedic_does_or_alike_for_all_sizes(alignment, offsets):
    sizes = ((7, 4), (6, 3), (6, 4), (7, 3))
    assert [crop_offset(larger, smaller, alignment) for larger, smaller in sizes] == offsets
    for (larger, smaller), offset in zip(sizes, offsets, strict=True):
        x = torch.arange(float(larger)).view(1, 1, larger, 1, 1)
        first, *_, last = cropped(x, (smaller, 1, 1), alignment).flatten().tolist()
        assert (first, last) == (offset, offset + smaller - 1)


def test_repetition_keeps_the_first_voxels():
    x = torch.arange(6.0).view(1, 1, 3, 2, 1)
    assert repeated(x, (3, 1, 2), (7, 1, 2))[0, 0].tolist() == [
        [[v, v]] for v in [0, 0, 0, 2, 2, 2, 4]
    ]


@pytest.mark.parametrize("layout", ["one behind the other", "channels last", "many maps"])
def test_the_largest_map_is_that_of_argmax(layout):
    rng = torch.Generator().manual_seed(0)
    maps = 70 if layout == "many maps" else 4
    x = torch.randint(5, (2, maps, 3, 4, 5), generator=rng).float()  # with many equal values
    x = x.to(memory_format=torch.channels_last_3d) if layout == "channels last" else x
    assert torch.equal(largest_map(x).long(), x.argmax(1))
    assert x.stride(1) == (1 if layout == "channels last" else 60)
