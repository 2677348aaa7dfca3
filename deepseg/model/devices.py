"""Devices by name, and the floating-point formats that they compute in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from deepseg.config.settings import Precision
from deepseg.errors import DeepsegError, Problem
from deepseg.model.kernels import has_instructions

PRECISIONS: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,  # rounded inside of products only
    "bfloat16": torch.bfloat16,
}


def chosen_device(name: str) -> torch.device:
    """Device called ``cpu``, ``cuda``, ``cudaN``, ``mps`` or ``auto`` (``cuda`` if it is there).

    ``gpu`` is ``cuda``, as in DeepMedic's examples.

    Of several ranks on one machine, each has its own: rank 1 of the machine has ``cuda1``, or the
    only GPU that Slurm lets it see.

    Raises:
        DeepsegError: ``device-unknown``, ``device-absent`` or ``device-shared``.
    """
    if name == "gpu":  # as in DeepMedic's examples
        name = "cuda"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (number := _number_on_machine()):
        name = f"cuda{number}"
    elif re.fullmatch(r"cuda:?\d+", name) and "RANK" in os.environ and _ranks_on_machine() > 1:
        raise DeepsegError(device_shared(name))
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        return _apple_gpu()
    match = re.fullmatch(r"cuda:?(\d*)", name)
    if match is None:
        raise DeepsegError(
            Problem(
                code="device-unknown",
                got=repr(name),
                expected="cpu, cuda, cuda0, cuda1, …, mps or auto",
                fix="choose one of these",
                where="-dev",
            )
        )
    number = int(match[1] or 0)
    if number >= torch.cuda.device_count():
        raise DeepsegError(
            Problem(
                code="device-absent",
                got=f"{name} on a machine where torch finds {torch.cuda.device_count()} GPUs",
                expected="a GPU that is there",
                fix="use -dev cpu, or install a torch build for your GPU and its driver",
                where="-dev",
            )
        )
    return torch.device("cuda", number)


def _apple_gpu() -> torch.device:
    if not torch.backends.mps.is_available():
        raise DeepsegError(
            Problem(
                code="device-absent",
                got="mps on a machine where torch finds no GPU of Apple's",
                expected="a GPU that is there",
                fix="use -dev cpu or -dev auto",
                where="-dev",
            )
        )
    return torch.device("mps")


def device_shared(name: str) -> Problem:
    """Problem of one GPU that is named for several ranks."""
    return Problem(
        code="device-shared",
        got=f"-dev {name} for several ranks",
        expected="-dev cuda, of which each rank takes a GPU of its own",
        fix="say -dev cuda; CUDA_VISIBLE_DEVICES chooses which GPUs there are",
        where="-dev",
    )


def _ranks_on_machine() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _number_on_machine() -> int:
    """Number of this rank's GPU; 0 for a process without others.

    torchrun tells the number of the rank on its machine. Tasks of ``srun`` have their own variable,
    and with ``--gpus-per-task=1`` each sees one GPU, whose number is 0.
    """
    if "RANK" not in os.environ:
        return int(os.environ.get("LOCAL_RANK", "0"))
    number = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    is_bound = "SLURM_STEP_NUM_TASKS" in os.environ and torch.cuda.device_count() == 1
    return 0 if is_bound else number


def device_warnings(precision: Precision, device: torch.device) -> list[str]:
    """Warnings of a device that was never tested, and of a precision that is slow on it.

    >>> device_warnings("float32", torch.device("mps"))
    ['-dev mps is untested: compare a few results with those of -dev cpu']
    """
    if device.type == "mps":
        return ["-dev mps is untested: compare a few results with those of -dev cpu"]
    if has_instructions(PRECISIONS[precision], device):
        return []
    return [f"{precision} is slower than float32 here: there are no instructions for it"]


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """While open, CUDA takes this GPU where none is named, in this thread; afterwards as before."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield
