"""Many items in three stages at once: one is read, another computed, and a third written.

Reading and writing have a thread each; computing stays in the thread of the caller. No more than
one item waits in front of a stage, so memory holds a few of them, however many there are. An item
that does not fit beside others is read when those before it are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from deepseg.errors import DeepsegError

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def in_stages(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Written],
    fits_beside: Callable[[Item], bool] = lambda _: True,
) -> Iterator[tuple[Item, Written | DeepsegError]]:
    """Items in their order, each with what writing gave, or with what went wrong on the way.

    Exceptions that are no `DeepsegError` end everything.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        before: list[tuple[Item, Future[Written]]] = []
        coming: list[Future[Read]] = []
        for number, item in enumerate(items):
            if not coming:
                wait([writing for _, writing in before])
            reading = coming.pop() if coming else reader.submit(read, item)
            wait([reading])
            coming += [
                reader.submit(read, following)
                for following in items[number + 1 : number + 2]
                if fits_beside(following)
            ]
            writing: Future[Written] = Future()
            try:
                writing = writer.submit(write, compute(reading.result()))
            except DeepsegError as error:
                writing.set_exception(error)
            del reading
            yield from map(_outcome, before)
            before = [(item, writing)]
        yield from map(_outcome, before)


def _outcome(done: tuple[Item, Future[Written]]) -> tuple[Item, Written | DeepsegError]:
    item, writing = done
    try:
        return item, writing.result()
    except DeepsegError as error:
        return item, error
