"""Devices by name, and the floating-point formats that they compute in."""

from __future__ import annotations

import os
import re

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
    """Device called ``cpu``, ``cuda``, ``cudaN`` or ``auto`` (a GPU where there is one).

    ``gpu`` is ``cuda``, as in DeepMedic's examples.

    Of several ranks on one machine, each has its own: rank 1 of the machine has ``cuda1``.

    Raises:
        DeepsegError: ``device-unknown`` or ``device-absent``.
    """
    if name == "gpu":  # as in DeepMedic's examples
        name = "cuda"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda{os.environ['LOCAL_RANK']}"
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda:?(\d*)", name)
    if match is None:
        raise DeepsegError(
            Problem(
                code="device-unknown",
                got=repr(name),
                expected="cpu, cuda, cuda0, cuda1, … or auto",
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


def slowness(precision: Precision, device: torch.device) -> list[str]:
    """Warnings: one where ``device`` has no instructions for this ``precision``, else none."""
    if has_instructions(PRECISIONS[precision], device):
        return []
    return [f"{precision} is slower than float32 here: there are no instructions for it"]
