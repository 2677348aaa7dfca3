"""Batches of segments, sub-epoch after sub-epoch, cut by worker processes ahead of time.

Sample i of a sub-epoch is the same whoever cuts it and whenever: its randomness is counted from
the session's seed, the sub-epoch and i.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deepseg.config.training import Augmentation, Sampling
from deepseg.data.augmentation import STILL, motion
from deepseg.data.preparation import PreparedCase, open_prepared
from deepseg.data.sampling import (
    Candidates,
    Draw,
    candidates,
    keep_candidates,
    open_candidates,
    shares,
    subepoch_draws,
)
from deepseg.data.segments import Segment, box_around, cut, reach
from deepseg.errors import OutOfMemory, Problem
from deepseg.geometry.boxes import Int3, text
from deepseg.geometry.context import Vision
from deepseg.randomness import Purpose, generator

OPEN_CASES = 64  # prepared cases that one process keeps mapped
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


@dataclass(frozen=True)
class SegmentRules:
    """How segments are drawn.

    Attributes:
        sampling: Categories and their shares.
        classes: Names of the classes.
        vision: How the network looks at the image.
        size: Of the segments.
        segments: Of one sub-epoch.
        cases: That one sub-epoch draws from.
        augmentation: Random changes, or None.
        seed: Of the session.
        is_training: Training and validation draw different numbers.
    """

    sampling: Sampling
    classes: tuple[str, ...]
    vision: Vision
    size: Int3
    segments: int
    cases: int
    augmentation: Augmentation | None
    seed: int
    is_training: bool


class SegmentSource(Dataset[tuple[Segment, str]]):
    """Cuts sample ``i`` of sub-epoch ``s`` when asked for ``(s, i)``."""

    def __init__(self, folders: Sequence[Path], rules: SegmentRules) -> None:
        self.folders = tuple(folders)
        self.rules = rules
        self.counts = tuple(self._candidates(i).counts for i in range(len(self.folders)))

    def __getitem__(self, place: tuple[int, int]) -> tuple[Segment, str]:
        subepoch, index = place
        own = self.rules
        draw = self._draws(subepoch)[index]
        case = _opened(self.folders[draw.case])
        purpose = Purpose.TRAINING_SEGMENT if own.is_training else Purpose.VALIDATION_SEGMENT
        rng = generator(own.seed, purpose, subepoch, index)
        segment = box_around(
            self._candidates(draw.case).draw(draw.category, case.shape, rng=rng), own.size
        )
        moved = (
            STILL
            if own.augmentation is None
            else motion(
                own.augmentation,
                channels=len(case.channels),
                spacing_mm=case.geometry.spacing_mm,
                reach=reach(own.vision.lattices(segment)),
                rng=rng,
            )
        )
        return cut(case, segment, own.vision, moved=moved), case.name

    def without_candidates(self) -> list[str]:
        """Names of the cases from which nothing can be drawn."""
        return [
            _opened(folder).name
            for folder, counts in zip(self.folders, self.counts, strict=True)
            if sum(counts) == 0
        ]

    def _draws(self, subepoch: int) -> list[Draw]:
        return _subepoch_draws(self.counts, self.rules, subepoch)

    def _candidates(self, case: int) -> Candidates:
        return _candidates(self.folders[case], self.rules)


@lru_cache(maxsize=OPEN_CASES)
def _opened(folder: Path) -> PreparedCase:
    return open_prepared(folder)


@lru_cache(maxsize=2 * OPEN_CASES)
def _candidates(folder: Path, rules: SegmentRules) -> Candidates:
    prediction = rules.vision.prediction(box_around((0, 0, 0), rules.size)).size
    file = folder / (
        f"{rules.sampling.type}-{len(rules.classes)}-{text(rules.size)}-{text(prediction)}".replace(
            " ", ""
        )
    )
    if not file.with_name(f"{file.name}-ends.npy").exists():
        found = candidates(
            _opened(folder),
            rules.sampling,
            classes=len(rules.classes),
            segment=rules.size,
            prediction=prediction,
        )
        keep_candidates(found, file)
    return open_candidates(file)


@lru_cache(maxsize=4)
def _subepoch_draws(
    counts: tuple[tuple[int, ...], ...], rules: SegmentRules, subepoch: int
) -> list[Draw]:
    purpose = Purpose.TRAINING_PLAN if rules.is_training else Purpose.VALIDATION_PLAN
    return subepoch_draws(
        counts,
        shares(rules.sampling, rules.classes),
        segments=rules.segments,
        cases=rules.cases,
        rng=generator(rules.seed, purpose, subepoch),
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


class Stream:
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
        source: SegmentSource,
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
            worker_init_fn=partial(_end_with, os.getpid()),
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
        killed = [_death(worker) for worker in self._workers if worker.exitcode]
        if not killed:
            raise error
        if attempt == ATTEMPTS:
            raise _workers_killed(killed) from error
        self._warn(f"[worker-killed] {', '.join(killed)}; new workers go on")
        self._batches = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batches = None


def _end_with(parent: int, _worker: int) -> None:
    """End this worker soon after its parent, however that ended and whatever the worker waits for.

    The loader's own watch misses a parent that is killed before it begins.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _death(worker: BaseProcess) -> str:
    """``process 17 was ended by SIGKILL``."""
    code = worker.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"process {worker.pid} {how}"


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
