"""The folder of a training session, shared by the ranks that work on it: rank 0 alone writes.

Ranks are started by ``-devices N``, torchrun, or whatever sets the same environment: ``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.outcome import close_for_lost_process
from deepseg.sessions.processes.failure_board import RankSupervisor, board_of, store_of
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
        with SessionFolder(path, config_file=config_file, settings=settings, quiet=quiet) as folder:
            yield folder, SINGLE_RANK
        return
    rank = int(os.environ["RANK"])
    folder = SessionFolder(
        path, config_file=config_file, settings=settings, quiet=quiet, is_main=rank == 0
    )
    try:
        with _joined(device) as (supervisor, ranks), folder, supervisor.failing_together():
            supervisor.when_stuck = lambda error: folder.__exit__(type(error), error, None)
            yield folder, ranks
            ranks.barrier()
    except BaseException as error:
        if rank != 0:
            close_for_lost_process(path / "outcome.json", error, place=str(config_file))
        raise


@contextmanager
def _joined(device: torch.device) -> Iterator[tuple[RankSupervisor, Ranks]]:
    rank, size = int(os.environ["RANK"]), world_size()
    store, _, _ = next(rendezvous("env://"))
    # The watching thread has a connection of its own: one that waits would hold it up.
    board_store = store_of(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    supervisor = RankSupervisor(board_of(board_store), rank, size)
    try:
        with supervisor.failing_together():
            supervisor.begin()
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=store,
                rank=rank,
                world_size=size,
                timeout=FOR_EVER,
            )
            yield supervisor, Ranks(rank, size)
        dist.destroy_process_group()
    finally:
        supervisor.end()
