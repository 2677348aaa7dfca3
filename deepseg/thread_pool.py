"""Pools of threads that get by with fewer, or with none, where the system allows no more.

What the threads do is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

from deepseg.errors import is_process_limit

Result = TypeVar("Result")


class CallersThread(Executor):
    """Does everything at once, in the thread of the caller.

    >>> with CallersThread() as pool:
    ...     pool.submit(max, 2, 3).result()
    3
    """

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """The finished call, with its result or its error."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def thread_pool(
    count: int, *, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Executor:
    """A pool of ``count`` threads, or of as many as the system lets start now.

    Args:
        count: At least 1.
        initializer: Called by every thread first.
        initargs: Its arguments.
    """
    for threads in range(count, 0, -1):
        pool = ThreadPoolExecutor(threads, initializer=initializer, initargs=initargs)
        all_started = Event()
        try:
            for _ in range(threads):
                pool.submit(all_started.wait)
            return pool
        except RuntimeError as error:
            if not is_process_limit(error):
                raise
        finally:
            all_started.set()
        pool.shutdown()
    return CallersThread()
