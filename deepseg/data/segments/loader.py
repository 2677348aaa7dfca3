"""Batches of segments, sub-epoch after sub-epoch, cut by worker processes ahead of time.

How a segment is found and cut is not known here, only that it is the same whoever cuts it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deepseg.counts import counted
from deepseg.data.segments.segment import Segment
from deepseg.data.segments.segment_dataset import SegmentDataset
from deepseg.data.segments.workers import (
    LOST_BATCH,
    death,
    end_stopped,
    end_with,
    open_files_limit,
    shared_memory_free,
)
from deepseg.errors import DeepsegError, OutOfMemory, Problem, is_process_limit

FILES = 1024  # open at a time, below which batches come through pipes
FEW_WORKERS, WORKERS_PER_CORE = 4, 2  # more only wait for each other
NO_SEMAPHORES = (
    *(errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.ENOSYS),
    *(errno.EACCES, errno.EPERM),
)
PREFETCHED = 8  # batches that each worker cuts ahead
CHECK_INTERVAL_S = 2.0  # between two looks at workers that may have been stopped


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
        """This batch on another device."""
        return Batch(
            tuple(x.to(device, non_blocking=True) for x in self.inputs),
            self.labels.to(device, non_blocking=True),
            self.cases,
        )

    def pin_memory(self) -> Batch:
        """This batch in memory from which copying to a GPU is quick."""
        return Batch(
            tuple(x.pin_memory() for x in self.inputs), self.labels.pin_memory(), self.cases
        )


@dataclass(frozen=True)
class BatchShard:
    """The share of every batch that one of ``world_size`` ranks gets."""

    rank: int = 0
    world_size: int = 1

    def of(self, samples: range) -> range:
        """Sample ``rank`` of a batch, counted from 0, and every ``world_size``-th after it.

        >>> list(BatchShard(rank=1, world_size=2).of(range(10, 15)))
        [11, 13]
        """
        return samples[self.rank :: self.world_size]


WHOLE_BATCH = BatchShard()


def batch_samples(segments: int, batch_size: int) -> list[range]:
    """The samples of each batch of a sub-epoch; the last batch may be smaller.

    >>> batch_samples(7, 3)
    [range(0, 3), range(3, 6), range(6, 7)]
    """
    starts = range(0, segments, batch_size)
    return [range(start, min(start + batch_size, segments)) for start in starts]


@dataclass(frozen=True)
class _Fault:
    """A problem of a sample on its way out of a worker, which an exception would lose."""

    kind: type[DeepsegError]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _FaultsAsSamples:
    """A dataset that gives `_Fault` where another one raises an error of the user's."""

    dataset: SegmentDataset

    def __getitem__(self, place: tuple[int, int]) -> tuple[Segment, str] | _Fault:
        try:
            return self.dataset[place]
        except DeepsegError as error:
            return _Fault(type(error), error.problems)


def _collate_or_fault(samples: Sequence[Any], collate_samples: Callable[[Any], Any]) -> Any:
    """The batch of ``samples``, or the first fault among them."""
    faults = (sample for sample in samples if isinstance(sample, _Fault))
    fault = next(faults, None)
    return collate_samples(samples) if fault is None else fault


def collate(samples: Sequence[tuple[Segment, str]]) -> Batch:
    """One batch of several samples and the names of their cases."""
    segments = [segment for segment, _ in samples]
    return Batch(
        inputs=tuple(
            torch.from_numpy(np.stack(arrays))
            for arrays in zip(*(segment.inputs for segment in segments), strict=True)
        ),
        labels=torch.from_numpy(np.stack([segment.labels for segment in segments])).long(),
        cases=tuple(name for _, name in samples),
    )


@dataclass(frozen=True)
class _PipedBatch:
    """A batch as arrays, which travel through a pipe and need no shared memory."""

    inputs: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int64]
    cases: tuple[str, ...]

    def tensors(self) -> Batch:
        """The batch itself, without a copy."""
        inputs = tuple(torch.from_numpy(array) for array in self.inputs)
        return Batch(inputs, torch.from_numpy(self.labels), self.cases)


def _collate_for_pipe(samples: Sequence[tuple[Segment, str]]) -> _PipedBatch:
    batch = collate(samples)
    return _PipedBatch(tuple(x.numpy() for x in batch.inputs), batch.labels.numpy(), batch.cases)


class _PlaceSampler(Sampler[list[tuple[int, int]]]):
    """Places of a rank's samples, batch after batch from ``first`` on, without end.

    Batches are counted over all sub-epochs. Where a batch has no sample for the rank, its first
    one stands in.
    """

    def __init__(self, first: int, batches: Sequence[range], shard: BatchShard) -> None:
        self.first = first
        self.batches = batches
        self.shard = shard

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in itertools.count(self.first):
            subepoch, step = divmod(number, len(self.batches))
            batch = self.batches[step]
            yield [(subepoch, index) for index in self.shard.of(batch) or batch[:1]]


class SegmentLoader:
    """Hands out the batches of one sub-epoch after the other.

    Workers run ahead over the end of a sub-epoch, so the network does not wait for the next one.
    If one is killed or stopped, new ones go on with the batch that is missing; where the system
    allows no more processes, this one cuts by itself. Batches come through shared memory, or by
    pipes where there is too little of it. Use it as a context manager: leaving it ends the workers
    and lets go of the cases that the dataset has mapped.

    Args:
        dataset: Cuts the segments.
        batch_size: Of all ranks together.
        workers: Processes that cut; 0 for this one.
        first: The sub-epoch to begin with.
        pin: Batches will be copied to a GPU.
        shard: Share of every batch that this rank gets. A batch that is too small for that becomes
            one without cases and known voxels.
        attempts: To get a batch whose workers are killed.
        warn: Prints a warning about workers that were killed.
    """

    def __init__(
        self,
        dataset: SegmentDataset,
        *,
        batch_size: int,
        workers: int,
        first: int,
        pin: bool = False,
        shard: BatchShard = WHOLE_BATCH,
        attempts: int = 3,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.dataset = dataset
        self.attempts = attempts
        self._warn = warn
        self._shard = shard
        self._samples = batch_samples(dataset.rules.segments, batch_size)
        self._next = first * self.steps  # batch
        self._sampler = _PlaceSampler(self._next, self._samples, shard)
        self._pin = pin
        workers = self._worth_starting(workers)
        self._through_pipes = workers > 0 and self._lacks_shared_memory(workers)
        self._loader = self._new_loader(workers)
        self._batches: Iterator[Batch | _PipedBatch | _Fault] | None = None
        self._workers: list[BaseProcess] = []

    def _new_loader(self, workers: int) -> DataLoader[Any]:
        with _no_word_on_workers():
            return DataLoader(
                cast("Dataset[Any]", _FaultsAsSamples(self.dataset)),
                batch_sampler=self._sampler,
                num_workers=workers,
                collate_fn=partial(
                    _collate_or_fault,
                    collate_samples=_collate_for_pipe if self._through_pipes else collate,
                ),
                worker_init_fn=partial(end_with, os.getpid()),
                pin_memory=self._pin and not self._through_pipes,
                prefetch_factor=PREFETCHED if workers else None,
                # Without its own generator, the loader would draw a number from the one that
                # dropout masks come from, once per process, and a continued session would differ.
                generator=torch.Generator(),
            )

    def _worth_starting(self, workers: int) -> int:
        """So many workers as the cores of this machine can keep busy; the bits are the same."""
        if workers and multiprocessing.current_process().daemon:
            self._warn(
                "this process may not start others (it is daemonic): segments are cut by the "
                "session itself, which is slower"
            )
            return 0
        cores = os.cpu_count() or 1
        enough = max(FEW_WORKERS, WORKERS_PER_CORE * cores)
        if workers > enough:
            self._warn(
                f"{workers} workers on a machine with {counted(cores, 'core')}: {enough} are "
                "started, with the same results"
            )
        return min(workers, enough)

    def _lacks_shared_memory(self, workers: int) -> bool:
        """True if batches that are cut ahead could fill the shared memory."""
        if open_files_limit() < FILES:  # every tensor in shared memory is an open file
            return True
        free = shared_memory_free()
        if free is None:
            return False
        sample = collate([self.dataset[self._next // self.steps, 0]])
        tensors = (*sample.inputs, sample.labels)
        size = sum(x.nbytes for x in tensors) * len(self._samples[0])
        needed = workers * PREFETCHED * size
        if needed <= free / 2:
            return False
        self._warn(
            f"/dev/shm has {free / 1e6:.0f} MB free, and {counted(workers, 'worker')} would fill "
            f"{needed / 1e6:.0f} MB of it: batches come through pipes, which is slower; give the "
            "container more (--shm-size), or lower workers"
        )
        return True

    def __enter__(self) -> SegmentLoader:
        return self

    def __exit__(self, *_error: object) -> None:
        self._batches = None
        self.dataset.release()

    @property
    def steps(self) -> int:
        """Batches of a sub-epoch."""
        return len(self._samples)

    def subepoch(self) -> Iterator[Batch]:
        """The batches of the next sub-epoch."""
        for samples in self._samples:
            batch = self._batch()
            yield batch if self._shard.of(samples) else _without_known_voxels(batch)

    def rewind(self, subepoch: int) -> None:
        """Give this sub-epoch next, whatever came before it."""
        self._next = subepoch * self.steps
        self._batches = None

    def _batch(self) -> Batch:
        attempt = 1
        while True:
            if self._batches is None:
                self._batches = self._start_workers()
            try:
                batch = next(self._batches)
            except (RuntimeError, OSError, EOFError) as error:
                self._give_up_killed_workers(attempt, error)
                attempt += 1
                continue
            if isinstance(batch, _Fault):
                raise batch.kind(*batch.problems)
            self._next += 1
            if isinstance(batch, _PipedBatch):
                batch = batch.tensors()
                return batch.pin_memory() if self._pin else batch
            return batch

    def _start_workers(self) -> Iterator[Batch | _PipedBatch | _Fault]:
        """All batches from the next one on, cut by new workers, or by this process without any."""
        self._sampler.first = self._next
        older, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
        try:
            with _no_word_on_workers():
                batches = iter(self._loader)
        except (RuntimeError, OSError) as error:
            if self._loader.num_workers == 0 or not _is_refused_start(error):
                raise
            for child in multiprocessing.active_children():
                if child not in older:
                    child.kill()
            _drop_quietly(error)
            self._cut_alone(str(error))
            batches = iter(self._loader)
        self._workers = [child for child in multiprocessing.active_children() if child not in older]
        if self._workers:
            end_stopped(self._workers, every_s=CHECK_INTERVAL_S)
        if threading.current_thread() is threading.main_thread():
            # The loader's own would raise wherever this process is when a worker dies. Without it,
            # waiting for a batch finds out, within seconds.
            signal.signal(signal.SIGCHLD, handler)
        return batches

    def _cut_alone(self, reason: str) -> None:
        """Cut segments without workers from now on."""
        self._warn(
            f"the system lets no workers start ({reason}): segments are cut by the session itself, "
            "which is slower; lower workers, raise ulimit -u or -n, or make room in /dev/shm"
        )
        self._loader = self._new_loader(0)

    def _give_up_killed_workers(self, attempt: int, error: Exception) -> None:
        """Give up the workers if some were killed; raise ``error`` if none was.

        Batches that a killed worker has cut already can be lost too, with its connections.
        """
        for worker in self._workers:
            worker.join(0.1)  # connections break a moment before a process is known to be dead
        killed = [death(worker) for worker in self._workers if worker.exitcode]
        if not killed:
            raise error
        if any(worker.exitcode == LOST_BATCH for worker in self._workers):
            self._batches = None
            self._cut_alone("no threads, files or shared memory for them")
            return
        if attempt == self.attempts:
            raise _workers_killed(killed, attempt) from error
        self._warn(f"[worker-killed] {', '.join(killed)}; new workers go on")
        self._batches = None


def _is_refused_start(error: Exception) -> bool:
    """True if the system refuses processes, open files, or the semaphores in shared memory."""
    return is_process_limit(error) or (isinstance(error, OSError) and error.errno in NO_SEMAPHORES)


def _drop_quietly(error: Exception) -> None:
    """Let go of the half-made loader in the trace of ``error``, whose end would print a trace."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def _no_word_on_workers() -> Iterator[None]:
    """Keep torch from warning of more workers than cores, over several lines."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", append=False)
        yield


def _without_known_voxels(batch: Batch) -> Batch:
    return Batch(batch.inputs, torch.full_like(batch.labels, -1), ())


def _workers_killed(killed: Sequence[str], times: int) -> OutOfMemory:
    """The error for workers that are killed: mostly by the system, for their memory."""
    return OutOfMemory(
        Problem(
            code="worker-killed",
            got=f"{times} times workers that were killed over one batch ({', '.join(killed)})",
            expected="workers that live as long as the session",
            fix="lower workers or segments if memory ran out; the same command goes on",
        )
    )
