"""Memory that runs out: what is computed then, what is remembered, and what is said."""

import errno

import numpy as np
import pytest
import torch

from deepseg.geometry.boxes import Box, volume
from deepseg.inference.limits import DEFAULT_LIMITS
from deepseg.inference.out_of_memory import EXHAUSTED, SplitOnOutOfMemory, halves

WHOLE = Box((3, 0, 7), (40, 31, 50))


class Small:
    """Computes boxes of so many voxels at most; keeps those that were asked for."""

    def __init__(self, most, error=MemoryError):
        self.most, self.error, self.asked = most, error, []

    def __call__(self, box):
        self.asked.append(box)
        if volume(box.size) > self.most:
            raise self.error
        return box


def test_halves_are_cut_across_the_longest_side():
    assert halves(Box((1, 2, 3), (4, 9, 5))) == (
        Box((1, 2, 3), (4, 4, 5)),
        Box((1, 6, 3), (4, 5, 5)),
    )


@pytest.mark.parametrize("most", [10**6, 40 * 31 * 25, 9000, 1000])
def test_the_parts_make_up_the_box(most):
    calls = np.zeros((50, 40, 60), int)
    for part in SplitOnOutOfMemory().in_parts(0, WHOLE, Small(most)):
        calls[part.slices] += 1
    assert (calls[WHOLE.slices] == 1).all()
    assert calls.sum() == volume(WHOLE.size)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["numpy", "GPU", "CPU", "driver", "library", "map"],
)
def test_running_out_of_memory_has_many_names(error):
    assert len(SplitOnOutOfMemory().in_parts(0, WHOLE, Small(40000, error))) == 2


def test_what_was_too_large_is_not_tried_again_and_it_is_said():
    lines = []
    room, small = SplitOnOutOfMemory(lines.append), Small(20000)
    room.in_parts(0, WHOLE, small)
    tried = len(small.asked)
    assert len(room.in_parts(0, WHOLE, small)) == 4
    assert len(small.asked) == tried + 4
    assert lines == [EXHAUSTED]


def test_every_kind_of_box_has_its_own_room():
    room, second = SplitOnOutOfMemory(), Small(10**6)
    room.in_parts(0, WHOLE, Small(20000))
    assert room.in_parts(1, WHOLE, second) == [WHOLE]


def test_the_smallest_boxes_are_not_cut():
    small = Small(0)
    with pytest.raises(MemoryError):
        SplitOnOutOfMemory().in_parts(0, WHOLE, small)
    *larger, last = [max(box.size) for box in small.asked]
    assert last <= DEFAULT_LIMITS.smallest_edge < min(larger)


def test_other_faults_are_nothing_to_do_with_memory():
    small = Small(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        SplitOnOutOfMemory().in_parts(0, WHOLE, small)
    assert small.asked == [WHOLE]
