"""How this process was started: alone, or as one of several by torchrun or by Slurm's ``srun``.

torchrun tells its processes by ``RANK`` and ``WORLD_SIZE``, ``srun`` by ``SLURM_STEP_NUM_TASKS``.
"""

from __future__ import annotations

import os

from deepseg.errors import DeepsegError, Problem
from deepseg.sessions.processes.shard import Shard


def refuse_tasks_without_ranks(*, command: str, remedy: str) -> None:
    """Refuse to do all of the work in each of several tasks of ``srun`` that are not ranks.

    Args:
        command: That was typed, such as ``-train``.
        remedy: The line to write instead.

    Raises:
        DeepsegError: ``srun-without-torchrun``.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "RANK" not in os.environ:
        raise DeepsegError(
            Problem(
                code="srun-without-torchrun",
                got=f"{command} in each of {tasks} tasks that srun started",
                expected="one task, or tasks that know of each other",
                fix=remedy,
            )
        )


def shard_of_rank() -> Shard | None:
    """The cases of this process, if torchrun started it with others; else None.

    >>> shard_of_rank() is None
    True
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    return Shard(int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"]))
