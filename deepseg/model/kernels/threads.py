"""Work split among the processor's cores; nothing here knows what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from deepseg.errors import is_process_limit
from deepseg.thread_pool import CallersThread

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of ``work`` for all ``items``, in their order and without gradients.

    Each item is computed by one core. Threads of torch's own wait for each other after every
    operation; where operations are short and other programs want the cores too, they wait a
    hundred times longer than they compute.
    """
    threads = torch.get_num_threads()
    count = min(threads, len(items))
    queue = iter(enumerate(items))
    infers = torch.is_inference_mode_enabled()  # threads do not inherit it
    if count == 1:
        return [result for _, result in _drain(work, queue, infers)]
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = []
            for _ in range(count):
                try:
                    futures.append(pool.submit(_drain, work, queue, infers))
                except RuntimeError as error:  # those that have started do all
                    if not is_process_limit(error):
                        raise
            futures = futures or [CallersThread().submit(_drain, work, queue, infers)]
            results = dict(pair for future in futures for pair in future.result())
    finally:
        torch.set_num_threads(threads)  # of threads that begin later
    return [results[number] for number in range(len(items))]


def _drain(
    work: Callable[[Item], Result], queue: Iterator[tuple[int, Item]], infers: bool
) -> list[tuple[int, Result]]:
    """Number and result of the items that this thread gets hold of."""
    with torch.inference_mode(infers), torch.no_grad():
        return [(number, work(item)) for number, item in queue]
