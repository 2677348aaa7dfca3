"""``-devices N``: the cases of a testing session shared by N processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch

from deepseg.config.load import load
from deepseg.config.testing import TestConfig
from deepseg.data.cases.case import list_cases
from deepseg.errors import DeepsegError
from deepseg.model.devices import chosen_device
from deepseg.parent_process import STARTER
from deepseg.report.console import Console
from deepseg.sessions.folder import discard, missing_folders
from deepseg.sessions.model_files import NamedFiles, session_models
from deepseg.sessions.processes.shard import Shard

POLL_S = 0.5
REFUSED = DeepsegError.exit_code
BUG = 1  # the exit code of what another process may not meet again


@dataclass(frozen=True)
class _Worker:
    """A process that segments a shard of the cases.

    Attributes:
        shard: Of the cases.
        process: Its log has all that it prints.
        errors: Its stderr.
    """

    shard: Shard
    process: subprocess.Popen[bytes]
    errors: IO[bytes]


def share_cases(
    config_file: Path,
    options: Sequence[str],
    *,
    files: NamedFiles,
    count: int,
    device: str,
    console: Console,
) -> None:
    """Let ``count`` processes segment a shard of the cases each, and wait for all of them.

    They are silent: their logs have all that they print, and the session that collects the results
    reports on the cases. A shard that fails is named in a warning; its cases are still to be done.
    If this process is stopped or killed, the workers end too.

    Args:
        config_file: A test file.
        options: Further options of the command, such as ``-model M.save``.
        files: Files named there, if any.
        count: Of processes; on GPUs, each takes the next one.
        device: As for any command.
        console: For progress and warnings.

    Raises:
        DeepsegError: All that is wrong with the settings, the model, or the list of cases.
    """
    config = load(TestConfig, config_file).config
    files = replace(files, configured=config.models)
    channels = session_models(files, seed=0, warn=console.warn)[0].config.channels
    names = [case.name for case in list_cases(config.cases, channels)]
    new_folders = missing_folders(config.folder)
    with ExitStack() as stack:
        workers = []
        for number in range(1, count + 1):
            shard, errors = Shard(number, count), stack.enter_context(TemporaryFile())
            process = _start(config_file, options, shard, device, errors)
            stack.callback(_stop, process)
            workers.append(_Worker(shard, process, errors))
        with console.progress(f"cases of {count} processes", len(names)) as advance:
            _watch(workers, config.folder / "cases", names, advance)
        for worker in workers:
            code = worker.process.wait()
            if code:
                console.warn(f"part {worker.shard} ended with exit code {code}{_bug(worker)}")
        if new_folders and all(worker.process.returncode == REFUSED for worker in workers):
            discard(config.folder, new_folders)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _watch(
    workers: Sequence[_Worker], records: Path, names: Sequence[str], advance: Callable[[int], None]
) -> None:
    """Count the cases that are noted as done, until all processes have ended."""
    before = _times(records, names)
    done, is_over = 0, False
    while not is_over:
        is_over = all(worker.process.poll() is not None for worker in workers)
        times = _times(records, names)
        new = sum(changed != before.get(name) for name, changed in times.items())
        if new > done:
            advance(new - done)
            done = new
        if not is_over:
            time.sleep(POLL_S)


def _times(records: Path, names: Sequence[str]) -> dict[str, int]:
    files = [records / f"{name}.json" for name in names]
    return {file.name: file.stat().st_mtime_ns for file in files if file.exists()}


def _bug(worker: _Worker) -> str:
    if worker.process.returncode != BUG:
        return ""
    worker.errors.seek(0)
    lines = worker.errors.read().decode("utf-8", "replace").splitlines()
    return f": {lines[-1]}" if lines else ""


def _start(
    config_file: Path, options: Sequence[str], shard: Shard, device: str, errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    torch_device = chosen_device(device)
    name = "cpu"
    threads = max(1, torch.get_num_threads() // shard.count)
    if torch_device.type == "cuda":
        name = f"cuda{(shard.number - 1) % torch.cuda.device_count()}"
    command = [sys.executable, "-m", "deepseg", "-test", str(config_file), *options]
    command += ["-part", f"{shard.number}/{shard.count}", "-dev", name, "-quiet"]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LOCAL_WORLD_SIZE": str(shard.count),  # they share the memory too
        STARTER: str(os.getpid()),
    }
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=errors)
