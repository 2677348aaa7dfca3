"""Many items in three stages at once: one is read, another computed, and a third written.

Reading and writing have a thread each; computing stays in the thread of the caller. No more than
one item waits in front of a stage, so memory holds a few of them, however many there are. An item
that does not fit beside others is read when those before it are done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from deepseg.errors import DeepsegError, OutOfMemory, Problem, is_out_of_memory

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")
Given = TypeVar("Given")
Made = TypeVar("Made")


def in_stages(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Written],
    fits_beside: Callable[[Item], bool] = lambda _: True,
) -> Generator[tuple[Item, Written | DeepsegError], None, None]:
    """Items in their order, each with what writing gave, or with what went wrong on the way.

    Want of memory is a fault of the item for which there was none. Exceptions that are neither that
    nor a `DeepsegError` end everything.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        waiting = deque(items)
        ahead: Future[Read | DeepsegError] | None = None
        behind: tuple[Item, Future[Written | DeepsegError]] | None = None
        while waiting:
            item = waiting.popleft()
            if ahead is None:
                wait([] if behind is None else [behind[1]])
                ahead = reader.submit(_tried, read, item)
            opened, ahead = ahead.result(), None
            if waiting and fits_beside(waiting[0]):
                ahead = reader.submit(_tried, read, waiting[0])
            computed = _tried(compute, opened)
            del opened
            writing = writer.submit(_tried, write, computed)
            del computed
            if behind is not None:
                yield behind[0], behind[1].result()
            behind = item, writing
        if behind is not None:
            yield behind[0], behind[1].result()


def _tried(stage: Callable[[Given], Made], given: Given | DeepsegError) -> Made | DeepsegError:
    """What ``stage`` makes; or what went wrong, without a trace, which keeps arrays alive."""
    if isinstance(given, DeepsegError):
        return given
    try:
        return stage(given)
    except DeepsegError as error:
        return error.with_traceback(None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return OutOfMemory(_no_memory(error))


def _no_memory(error: Exception) -> Problem:
    return Problem(
        code="out-of-memory",
        got=str(error).split("\n")[0] or "no more memory",
        expected="memory for one case beside the one before and the next",
        fix="lower inference.memory in the test file, or -devices, or end other programs",
    )
