"""The folder of a training session, shared by the ranks that work on it: rank 0 alone writes.

Ranks are started by ``-devices N``, torchrun, or whatever sets the same environment: ``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from deepseg.errors import DeepsegError, Problem
from deepseg.model.devices import chosen_device, current
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.outcome import close_for_lost_process
from deepseg.sessions.processes.failure_board import (
    SETTLING_S,
    Failure,
    RankSupervisor,
    attempt_store,
    board_of,
    single_line,
    store_of,
)
from deepseg.training.distributed import SINGLE_RANK, Ranks

FOR_EVER = timedelta(days=365)  # rank 0 may check and prepare cases for hours; the dead are noticed


def world_size() -> int:
    """The number of processes that train together, as torchrun sets it in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def session_of_ranks(
    path: Path,
    *,
    config_file: Path,
    settings: Mapping[str, Any],
    quiet: bool,
    device: torch.device,
) -> Iterator[tuple[SessionFolder, Ranks]]:
    """The folder of a session, and the ranks that work on it: often one, alone.

    If one rank fails, all do; the first says why, in all others `ReportedByPeer` is raised.
    """
    if world_size() == 1:
        with (
            current(device),
            SessionFolder(path, config_file=config_file, settings=settings, quiet=quiet) as folder,
        ):
            yield folder, SINGLE_RANK
        return
    rank = int(os.environ["RANK"])
    folder = SessionFolder(
        path, config_file=config_file, settings=settings, quiet=quiet, is_main=rank == 0
    )
    try:
        with (
            current(device),
            _joined(device) as (supervisor, ranks),
            folder,
            supervisor.failing_together(),
        ):
            supervisor.when_stuck = lambda error: folder.__exit__(type(error), error, None)
            yield folder, ranks
            ranks.barrier()
    except BaseException as error:
        if rank != 0:
            close_for_lost_process(path / "outcome.json", error, place=str(config_file))
        raise


def device_of_rank(name: str) -> torch.device:
    """The device of this process; of a rank that has none, the others hear at once.

    Raises:
        DeepsegError: As `chosen_device` says.
    """
    try:
        return chosen_device(name)
    except DeepsegError as error:
        if world_size() > 1:
            with suppress(DeepsegError):
                _tell_all(Failure(int(os.environ["RANK"]), error.exit_code, error.problems))
        raise


def _tell_all(failure: Failure) -> None:
    """Write a failure for ranks that wait for this one, which does not join them."""
    store = _store()
    board_of(store).fail(failure)
    if failure.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        time.sleep(SETTLING_S)  # the store ends with this process


@contextmanager
def _joining() -> Iterator[None]:
    """Say in one line why ranks do not come together."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise DeepsegError(
            Problem(
                code="ranks-not-joined",
                got=f"'{single_line(str(error))}' for rank {os.environ['RANK']}",
                expected=f"{place}, a free port of the first machine that all ranks reach",
                fix="set MASTER_ADDR and MASTER_PORT (torchrun --rdzv-endpoint), and "
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to an interface that is there",
            )
        ) from error


def _store() -> Store:
    with _joining():
        store: Store = next(rendezvous("env://"))[0]
    return store


@contextmanager
def _joined(device: torch.device) -> Iterator[tuple[RankSupervisor, Ranks]]:
    rank, size = int(os.environ["RANK"]), world_size()
    store = _store()
    # The watching thread has a connection of its own: one that waits would hold it up.
    with _joining():
        board_store = store_of(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    supervisor = RankSupervisor(board_of(board_store), rank, size)
    try:
        with supervisor.failing_together():
            supervisor.begin()
            with _joining():
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                    store=attempt_store(store),
                    rank=rank,
                    world_size=size,
                    timeout=FOR_EVER,
                )
            yield supervisor, Ranks(rank, size)
        dist.destroy_process_group()
    finally:
        supervisor.end()
