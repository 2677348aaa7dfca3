"""Processes of this machine that do a part each of one command: cases, or folds.

They are silent: their logs have all that they print. If this process is stopped or killed, they end
too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import torch

from deepseg.model.devices import chosen_device
from deepseg.parent_process import STARTER
from deepseg.report.console import Console
from deepseg.sessions.processes.shard import Shard

POLL_S = 0.5
BUG = 1  # the exit code of what another process may not meet again


@dataclass(frozen=True)
class PartCommand:
    """A command that several processes do a part each of.

    Attributes:
        words: The command with its options, such as ``-test T.yaml``.
        count: Number of processes; on GPUs, each takes the next one.
        device: As for any command.
    """

    words: tuple[str, ...]
    count: int
    device: str


@dataclass(frozen=True)
class Watched:
    """Work that the processes do, and how much of it is done.

    Attributes:
        title: For people.
        total: Number of steps.
        done: Counts those that these processes have done, from files.
    """

    title: str
    total: int
    done: Callable[[], int]


@dataclass(frozen=True)
class _Worker:
    """A process that does a part.

    Attributes:
        shard: Its part.
        process: Its log has all that it prints.
        errors: Its stderr.
    """

    shard: Shard
    process: subprocess.Popen[bytes]
    errors: IO[bytes]


def run_parts(command: PartCommand, watched: Watched, console: Console) -> list[int]:
    """Start the processes and wait for all of them; a warning names each that fails.

    Args:
        command: That they do.
        watched: Whose progress is shown.
        console: For progress and warnings.

    Returns:
        Their exit codes.
    """
    with ExitStack() as stack:
        workers = []
        for number in range(1, command.count + 1):
            shard, errors = Shard(number, command.count), stack.enter_context(TemporaryFile())
            process = _start(command, shard, errors)
            stack.callback(_stop, process)
            workers.append(_Worker(shard, process, errors))
        with console.progress(watched.title, watched.total) as advance:
            _watch(workers, watched.done, advance)
        codes = [worker.process.wait() for worker in workers]
        for worker, code in zip(workers, codes, strict=True):
            if code:
                console.warn(f"part {worker.shard} ended with exit code {code}{_bug(worker)}")
    return codes


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _watch(
    workers: Sequence[_Worker], count: Callable[[], int], advance: Callable[[int], None]
) -> None:
    """Show what is done, until all processes have ended."""
    done, is_over = 0, False
    while not is_over:
        is_over = all(worker.process.poll() is not None for worker in workers)
        new = count()
        if new > done:
            advance(new - done)
            done = new
        if not is_over:
            time.sleep(POLL_S)


def _bug(worker: _Worker) -> str:
    if worker.process.returncode != BUG:
        return ""
    worker.errors.seek(0)
    lines = worker.errors.read().decode("utf-8", "replace").splitlines()
    return f": {lines[-1]}" if lines else ""


def _start(command: PartCommand, shard: Shard, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    torch_device = chosen_device(command.device)
    name = "cpu"
    threads = max(1, torch.get_num_threads() // shard.count)
    if torch_device.type == "cuda":
        name = f"cuda{(shard.number - 1) % torch.cuda.device_count()}"
    words = [sys.executable, "-m", "deepseg", *command.words]
    words += ["-part", f"{shard.number}/{shard.count}", "-dev", name, "-quiet"]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LOCAL_WORLD_SIZE": str(shard.count),  # they share the memory too
        STARTER: str(os.getpid()),
    }
    return subprocess.Popen(words, env={**os.environ, **environment}, stderr=errors)
