"""Three stages at once: order, overlap in time, faults, and how much is held."""

import threading
import weakref

import pytest

from deepseg.errors import DeepsegError, OutOfMemory, Problem
from deepseg.sessions.segmentation.pipeline import in_stages

WAIT_S = 20


def fault(item):
    return DeepsegError(Problem("a-code", f"{item}", "another", "change it"))


def test_every_item_goes_through_every_stage_in_order():
    result = in_stages(
        [3, 1, 2], read=lambda n: n * 10, compute=lambda n: n + 1, write=lambda n: f"<{n}>"
    )
    assert list(result) == [(3, "<31>"), (1, "<11>"), (2, "<21>")]
    assert list(in_stages([], read=str, compute=str, write=str)) == []


def test_one_item_is_read_while_another_is_computed_and_a_third_is_written():
    meeting = threading.Barrier(3, timeout=WAIT_S)

    def meets(stage, own):
        def act(item):
            if item == own:
                meeting.wait()  # passes only when the two other stages are here too
            return item

        return act

    result = in_stages(
        [0, 1, 2], read=meets("read", 2), compute=meets("compute", 1), write=meets("write", 0)
    )
    assert [item for item, _ in result] == [0, 1, 2]


def test_no_more_than_one_item_is_read_ahead():
    begun = []

    def read(item):
        begun.append(item)
        return item

    result = in_stages(range(5), read=read, compute=lambda n: n, write=lambda n: n)
    next(result)
    assert len(begun) <= 3


def test_an_item_that_does_not_fit_beside_others_is_read_when_they_are_done():
    events = []

    def noted(stage):
        def act(item):
            events.append(f"{stage} {item}")
            return item

        return act

    stages = {stage: noted(stage) for stage in ("read", "compute", "write")}
    list(in_stages(["a", "b"], **stages, fits_beside=lambda item: item != "b"))
    assert events == ["read a", "compute a", "write a", "read b", "compute b", "write b"]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_a_fault_in_any_stage_is_that_items_alone(stage):
    def act(item):
        if item == "b":
            raise fault(item)
        return item

    acts = dict.fromkeys(("read", "compute", "write"), lambda item: item) | {stage: act}
    result = dict(in_stages(["a", "b", "c"], **acts))
    assert (result["a"], result["c"]) == ("a", "c")
    assert isinstance(result["b"], DeepsegError)
    assert result["b"].problems[0].got == "b"


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_want_of_memory_in_any_stage_is_that_items_alone(stage):
    def act(item):
        if item == "b":
            raise MemoryError("Unable to allocate 3 GiB")
        return item

    acts = dict.fromkeys(("read", "compute", "write"), lambda item: item) | {stage: act}
    result = dict(in_stages(["a", "b", "c"], **acts))
    assert (result["a"], result["c"]) == ("a", "c")
    assert isinstance(result["b"], OutOfMemory)
    assert str(result["b"]) == (
        "[out-of-memory] got Unable to allocate 3 GiB; expected memory for one case beside the "
        "one before and the next; fix: lower inference.memory in the test file, or -devices, or "
        "end other programs"
    )


def test_what_failed_keeps_nothing_alive():
    class Large:
        pass

    alive = weakref.WeakSet()

    def compute(item):
        large = Large()
        alive.add(large)
        assert len(alive) == 1
        raise fault(item)

    result = list(in_stages([1, 2, 3], read=lambda n: n, compute=compute, write=lambda n: n))
    assert len(result) == 3


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_a_bug_in_any_stage_ends_everything(stage):
    acts = dict.fromkeys(("read", "compute", "write"), lambda item: item)
    with pytest.raises(ZeroDivisionError):
        list(in_stages([1, 0, 1], **(acts | {stage: lambda n: 1 // n})))
