"""Many items in three stages at once: one is read, another computed, and a third written.

Reading and writing have a thread each; computing stays in the thread of the caller. No more than
one item waits before a stage, so memory holds a few of them, however many there are. An item
that does not fit beside others is read when those before it are done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

from deepseg.errors import DeepsegError, OutOfMemory, Problem, is_out_of_memory
from deepseg.thread_pool import thread_pool

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")
Input = TypeVar("Input")
Output = TypeVar("Output")


def in_stages(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Written],
    fits_beside: Callable[[Item], bool] = lambda _: True,
) -> Generator[tuple[Item, Written | DeepsegError], None, None]:
    """Items in their order, each with the result of writing, or with the error on the way.

    Running out of memory is an error of the item that was in work. Exceptions that are neither that
    nor a `DeepsegError` end everything.
    """
    with thread_pool(1) as reader, thread_pool(1) as writer:
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


def _tried(stage: Callable[[Input], Output], value: Input | DeepsegError) -> Output | DeepsegError:
    """Output of ``stage``; or the error, without its trace, which keeps arrays alive."""
    if isinstance(value, DeepsegError):
        return value
    try:
        return stage(value)
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
