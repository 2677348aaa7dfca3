"""``-devices N``: the ranks of a training session on this machine, started and ended together.

Each rank is a process with the environment that torchrun would give it, one device per rank. The
exit code is that of the rank that failed first, which torchrun would hide.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from deepseg.errors import DeepsegError, Problem, RankLost, ReportedByPeer
from deepseg.model.devices import chosen_device, device_shared
from deepseg.sessions.outcome import close_for_lost_process, exit_code
from deepseg.sessions.processes.failure_board import (
    LAUNCHER,
    Failure,
    FailureBoard,
    board_of,
    grace_s,
    lost,
    store_of,
)

POLL_S = 0.1
MORE_S = 5.0  # for ranks to end, than they give themselves
LOCALHOST = "127.0.0.1"
CHECKOUT = Path(__file__).parents[3]  # the folder that holds the package


def launch(arguments: Sequence[str], *, devices: int, device: str, outcome: Path) -> None:
    """Run deepseg with ``arguments`` as so many ranks.

    Args:
        arguments: The words of a command that trains.
        devices: The number of ranks.
        device: As for any command.
        outcome: File in which rank 0 writes how it ended; it is written here if that rank is lost.

    Raises:
        DeepsegError: ``device-absent``, ``device-shared`` or ``launched-twice``, before anything is
            started.
        RankLost: A rank was killed.
        ReportedByPeer: A rank has failed and said why.
    """
    if re.fullmatch(r"cuda:?\d+|mps", device):
        raise DeepsegError(device_shared(device))
    _check(devices, chosen_device(device))
    store = store_of(LOCALHOST, 0, holds=True)
    board = board_of(store)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "deepseg", *arguments],
            env=_environment(rank, devices, store.port),
            start_new_session=True,  # Ctrl-C comes to this process, which passes it on
        )
        for rank in range(devices)
    ]
    try:
        failure = _watched(ranks, board)
    except (KeyboardInterrupt, SystemExit) as stop:
        board.fail(Failure(LAUNCHER, exit_code(stop), ()))  # so that no rank says it too
        _signal(ranks, signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
        raise
    finally:
        _end(ranks)
    if failure is None:
        return
    error: DeepsegError = ReportedByPeer(*failure.problems, exit_code=failure.exit_code)
    if failure.rank == LAUNCHER:
        error = RankLost(*failure.problems)
    close_for_lost_process(outcome, error, place=arguments[1])
    raise error


def _check(devices: int, device: torch.device) -> None:
    if "RANK" in os.environ:
        raise DeepsegError(
            Problem(
                code="launched-twice",
                got="-devices in a process that torchrun has started as one of its ranks",
                expected="one way to start ranks",
                fix="leave out -devices, or start deepseg without torchrun",
            )
        )
    present = torch.cuda.device_count()
    if device.type == "cuda" and devices > present:
        raise DeepsegError(
            Problem(
                code="device-absent",
                got=f"-devices {devices} on a machine where torch finds {present} GPUs",
                expected="a GPU for every rank",
                fix=f"say -devices {present}, or -dev cpu",
            )
        )


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Variables as torchrun would set them; the store is held by this process."""
    threads = max(1, torch.get_num_threads() // world_size)
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(paths),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": LOCALHOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _watched(ranks: Sequence[subprocess.Popen[bytes]], board: FailureBoard) -> Failure | None:
    """Wait for the end of all ranks, or the failure of one."""
    while True:
        codes = [rank.poll() for rank in ranks]
        for number, code in enumerate(codes):
            if code:
                return board.fail(lost(LAUNCHER, _end_text(number, code)))
        if None not in codes:
            return None
        time.sleep(POLL_S)


def _end_text(rank: int, code: int) -> str:
    if code < 0:
        return f"rank {rank} killed by {signal.Signals(-code).name}"
    return f"the end of rank {rank} with exit code {code}"


def _signal(ranks: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give ranks time to end by themselves, then kill them."""
    until = time.monotonic() + grace_s() + MORE_S
    try:
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
            time.sleep(POLL_S)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
