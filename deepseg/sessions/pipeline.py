"""Many items in three stages at once: one is read, another computed, and a third written.

Reading and writing have a thread each; computing stays in the thread of the caller. No more than
one item waits in front of a stage, so memory holds a few of them, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
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
) -> Iterator[tuple[Item, Written | DeepsegError]]:
    """Items in their order, each with what writing gave, or with what went wrong on the way.

    Exceptions that are no `DeepsegError` end everything.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        before: list[tuple[Item, Future[Written]]] = []
        for item, reading in zip(items, _one_ahead(reader, read, items), strict=True):
            writing: Future[Written] = Future()
            try:
                writing = writer.submit(write, compute(reading.result()))
            except DeepsegError as error:
                writing.set_exception(error)
            yield from map(_outcome, before)
            before = [(item, writing)]
        yield from map(_outcome, before)


def _one_ahead(
    reader: Executor, read: Callable[[Item], Read], items: Sequence[Item]
) -> Iterator[Future[Read]]:
    """The next item begins to be read when the one before it is asked for."""
    coming = [reader.submit(read, item) for item in items[:1]]
    for following in items[1:]:
        current = coming.pop()
        coming.append(reader.submit(read, following))
        yield current
    yield from coming


def _outcome(done: tuple[Item, Future[Written]]) -> tuple[Item, Written | DeepsegError]:
    item, writing = done
    try:
        return item, writing.result()
    except DeepsegError as error:
        return item, error
