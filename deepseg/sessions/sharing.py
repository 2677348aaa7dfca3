"""``-devices N``: the cases of a testing session shared by N processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from deepseg.report.console import Console
from deepseg.sessions.devices import chosen_device
from deepseg.sessions.parts import Part


def share_cases(
    config_file: Path,
    options: Sequence[str],
    *,
    count: int,
    device: str,
    console: Console,
) -> None:
    """Let ``count`` processes segment a part of the cases each, and wait for all of them.

    A part that fails is named in a warning; its cases are still to be done, by whoever gathers the
    results. If this process is stopped, so are the others.

    Args:
        config_file: A test file.
        options: What else the command was given, such as ``-model M.save``.
        count: Of processes; on GPUs, each takes the next one.
        device: As for any command.
        console: Where to speak.
    """
    parts = [Part(number, count) for number in range(1, count + 1)]
    running = [_started(config_file, options, part, device) for part in parts]
    try:
        for part, process in zip(parts, running, strict=True):
            code = process.wait()
            if code:
                console.warn(f"part {part} ended with exit code {code}")
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _started(
    config_file: Path, options: Sequence[str], part: Part, device: str
) -> subprocess.Popen[bytes]:
    computer = chosen_device(device)
    name = "cpu"
    threads = max(1, (os.cpu_count() or 1) // part.count)
    if computer.type == "cuda":
        name = f"cuda{(part.number - 1) % torch.cuda.device_count()}"
    command = [sys.executable, "-m", "deepseg.cli.main", "-test", str(config_file), *options]
    command += ["-part", f"{part.number}/{part.count}", "-dev", name, "-quiet"]
    surroundings = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LOCAL_WORLD_SIZE": str(part.count),  # they share the memory too
    }
    return subprocess.Popen(command, env={**os.environ, **surroundings})
