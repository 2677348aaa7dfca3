"""Batches of segments, sub-epoch after sub-epoch, cut by worker processes ahead of time.

How a segment is found and cut is not known here, only that it is the same whoever cuts it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from deepseg.data.segments.segment import Segment
from deepseg.data.segments.segment_dataset import SegmentDataset
from deepseg.data.segments.workers import death, end_with
from deepseg.errors import OutOfMemory, Problem

ATTEMPTS = 3  # to get a batch, whose workers are killed


@dataclass(frozen=True)
class Batch:
    """Segments for one step.

    Attributes:
        inputs: ``(N, C, X, Y, Z)`` for each parallel pathway.
        labels: ``(N, X, Y, Z)`` int64; -1 where unknown.
        cases: Name of each segment's case.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    cases: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            tuple(x.to(device, non_blocking=True) for x in self.inputs),
            self.labels.to(device, non_blocking=True),
            self.cases,
        )

    def pin_memory(self) -> Batch:
        """The same batch in memory from which copying to a GPU is quick."""
        return Batch(
            tuple(x.pin_memory() for x in self.inputs), self.labels.pin_memory(), self.cases
        )


class _Places(Sampler[list[tuple[int, int]]]):
    """The places of a part of all batches from one on, counted over all sub-epochs, for ever.

    Where a batch has no such part, its first sample stands in for it.
    """

    def __init__(self, first: int, segments: int, batch_size: int, part: slice) -> None:
        self.first = first
        self.segments = segments
        self.batch_size = batch_size
        self.part = part

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps = -(-self.segments // self.batch_size)
        for number in itertools.count(self.first):
            subepoch, step = divmod(number, steps)
            batch = self.batch(step)
            yield [(subepoch, index) for index in batch[self.part] or batch[:1]]

    def batch(self, step: int) -> range:
        """The samples of one batch."""
        begin = step * self.batch_size
        return range(begin, min(begin + self.batch_size, self.segments))


def joined(samples: Sequence[tuple[Segment, str]]) -> Batch:
    """One batch of several samples."""
    segments = [segment for segment, _ in samples]
    return Batch(
        inputs=tuple(
            torch.from_numpy(np.stack(arrays))
            for arrays in zip(*(segment.inputs for segment in segments), strict=True)
        ),
        labels=torch.from_numpy(np.stack([segment.labels for segment in segments])).long(),
        cases=tuple(name for _, name in samples),
    )


def _without_known_voxels(batch: Batch) -> Batch:
    return Batch(batch.inputs, torch.full_like(batch.labels, -1), ())


class SegmentLoader:
    """Hands out the batches of one sub-epoch after the other.

    Workers run ahead over the end of a sub-epoch, so the network does not wait for the next one.
    If one is killed, new ones go on with the batch that is missing. Use it as a context manager:
    leaving it ends the workers.

    Args:
        source: Cuts the segments.
        batch_size: Of all ranks together.
        workers: Processes that cut; 0 for this one.
        first: The sub-epoch to begin with.
        pin: Whether batches will be copied to a GPU.
        rank: Which part of every batch to give: this sample and every ``ranks``-th one behind it. A
            batch that is too small for that becomes one without cases and known voxels.
        ranks: Into how many parts batches are split.
        warn: Told of workers that were killed.
    """

    def __init__(
        self,
        source: SegmentDataset,
        *,
        batch_size: int,
        workers: int,
        first: int,
        pin: bool = False,
        rank: int = 0,
        ranks: int = 1,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.steps = -(-source.rules.segments // batch_size)
        self._warn = warn
        self._next = first * self.steps  # batch
        part = slice(rank, None, ranks)
        self._places = _Places(self._next, source.rules.segments, batch_size, part)
        self._loader = DataLoader(
            source,
            batch_sampler=self._places,
            num_workers=workers,
            collate_fn=joined,
            worker_init_fn=partial(end_with, os.getpid()),
            pin_memory=pin,
            prefetch_factor=8 if workers else None,
            # Without its own generator, the loader would draw a number from the one that dropout
            # masks come from, once per process, and a continued session would differ.
            generator=torch.Generator(),
        )
        self._batches: Iterator[Batch] | None = None
        self._workers: list[BaseProcess] = []

    def subepoch(self) -> Iterator[Batch]:
        """The batches of the next sub-epoch."""
        for step in range(self.steps):
            batch = self._batch()
            has_part = bool(self._places.batch(step)[self._places.part])
            yield batch if has_part else _without_known_voxels(batch)

    def go_back(self, subepoch: int) -> None:
        """Give this sub-epoch next, whatever came before it."""
        self._next = subepoch * self.steps
        self._batches = None

    def _batch(self) -> Batch:
        attempt = 1
        while True:
            if self._batches is None:
                self._batches = self._begun()
            try:
                batch = next(self._batches)
            except (RuntimeError, OSError, EOFError) as error:
                self._bury(attempt, error)
                attempt += 1
                continue
            self._next += 1
            return batch

    def _begun(self) -> Iterator[Batch]:
        """All batches from the next one on, cut by new workers."""
        self._places.first = self._next
        others, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
        batches = iter(self._loader)
        self._workers = [one for one in multiprocessing.active_children() if one not in others]
        if threading.current_thread() is threading.main_thread():
            # The loader's own would raise wherever this process is when a worker dies. Without it,
            # waiting for a batch finds out, within seconds.
            signal.signal(signal.SIGCHLD, handler)
        return batches

    def _bury(self, attempt: int, error: Exception) -> None:
        """Give up the workers if some were killed; anything else is no business of the stream.

        Batches that a killed worker has cut already can be lost too, with its connections.
        """
        for worker in self._workers:
            worker.join(0.1)  # connections break a moment before a process is known to be dead
        killed = [death(worker) for worker in self._workers if worker.exitcode]
        if not killed:
            raise error
        if attempt == ATTEMPTS:
            raise _workers_killed(killed) from error
        self._warn(f"[worker-killed] {', '.join(killed)}; new workers go on")
        self._batches = None

    def __enter__(self) -> SegmentLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batches = None


def _workers_killed(killed: Sequence[str]) -> OutOfMemory:
    """Who kills workers is mostly the system, for their memory."""
    return OutOfMemory(
        Problem(
            code="worker-killed",
            got=f"{ATTEMPTS} times workers that were killed over one batch ({', '.join(killed)})",
            expected="workers that live as long as the session",
            fix="lower workers or segments if memory ran out; the same command goes on",
        )
    )
