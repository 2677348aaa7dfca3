"""``-devices N``: the cases of a testing session shared by N processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch

from deepseg.config.load import load
from deepseg.config.testing import TestConfig
from deepseg.data.cases.case import list_cases
from deepseg.model.devices import chosen_device
from deepseg.parent_process import STARTER
from deepseg.report.console import Console
from deepseg.sessions.model_files import session_models
from deepseg.sessions.processes.shard import Shard

SECONDS_BETWEEN_LOOKS = 0.5
BUG = 1  # the exit code of what another process may not meet again


@dataclass(frozen=True)
class _Running:
    """A process that does a part of the cases.

    Attributes:
        part: Of the cases.
        process: Whose log has all that it says.
        errors: What it says on stderr.
    """

    part: Shard
    process: subprocess.Popen[bytes]
    errors: IO[bytes]


def share_cases(
    config_file: Path,
    options: Sequence[str],
    *,
    models: Sequence[Path],
    count: int,
    device: str,
    console: Console,
) -> None:
    """Let ``count`` processes segment a part of the cases each, and wait for all of them.

    They are silent: their logs have all that they say, and whoever gathers the results says what
    is to be said of the cases. A part that fails is named in a warning; its cases are still to be
    done. If this process is stopped or killed, the others end too.

    Args:
        config_file: A test file.
        options: What else the command was given, such as ``-model M.save``.
        models: Files named there, if any.
        count: Of processes; on GPUs, each takes the next one.
        device: As for any command.
        console: Where to speak.

    Raises:
        DeepsegError: What is wrong with the settings, the model, or the list of cases.
    """
    config = load(TestConfig, config_file).config
    channels = session_models(models, config.models, seed=0)[0].config.channels
    names = [case.name for case in list_cases(config.cases, channels)]
    with ExitStack() as stack:
        running = []
        for number in range(1, count + 1):
            part, errors = Shard(number, count), stack.enter_context(TemporaryFile())
            process = _started(config_file, options, part, device, errors)
            stack.callback(_stop, process)
            running.append(_Running(part, process, errors))
        with console.progress(f"cases of {count} processes", len(names)) as advance:
            _watch(running, config.folder / "cases", names, advance)
        for one in running:
            code = one.process.wait()
            if code:
                console.warn(f"part {one.part} ended with exit code {code}{_bug(one)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _watch(
    running: Sequence[_Running], records: Path, names: Sequence[str], advance: Callable[[int], None]
) -> None:
    """Count the cases that are noted as done, until all processes have ended."""
    before = _times(records, names)
    done, is_over = 0, False
    while not is_over:
        is_over = all(one.process.poll() is not None for one in running)
        times = _times(records, names)
        new = sum(changed != before.get(name) for name, changed in times.items())
        if new > done:
            advance(new - done)
            done = new
        if not is_over:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _times(records: Path, names: Sequence[str]) -> dict[str, int]:
    files = [records / f"{name}.json" for name in names]
    return {file.name: file.stat().st_mtime_ns for file in files if file.exists()}


def _bug(one: _Running) -> str:
    if one.process.returncode != BUG:
        return ""
    one.errors.seek(0)
    lines = one.errors.read().decode("utf-8", "replace").splitlines()
    return f": {lines[-1]}" if lines else ""


def _started(
    config_file: Path, options: Sequence[str], part: Shard, device: str, errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    computer = chosen_device(device)
    name = "cpu"
    threads = max(1, torch.get_num_threads() // part.count)
    if computer.type == "cuda":
        name = f"cuda{(part.number - 1) % torch.cuda.device_count()}"
    command = [sys.executable, "-m", "deepseg", "-test", str(config_file), *options]
    command += ["-part", f"{part.number}/{part.count}", "-dev", name, "-quiet"]
    surroundings = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LOCAL_WORLD_SIZE": str(part.count),  # they share the memory too
        STARTER: str(os.getpid()),
    }
    return subprocess.Popen(command, env={**os.environ, **surroundings}, stderr=errors)
