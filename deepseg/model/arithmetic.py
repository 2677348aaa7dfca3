"""How exactly products and convolutions are computed, for as long as a network computes.

GPUs since NVIDIA's Ampere can round the factors of float32 products to 10 bits of mantissa (TF32),
and torch lets convolutions do so unless it is told otherwise. Here float32 means IEEE 754 float32,
on every device, and TF32 is a precision of its own. GPUs add up values in the order in which their
parts are ready, unless they are told to keep to one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from deepseg.config.settings import Precision
from deepseg.errors import DeepsegError, Problem

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS when it begins
FIXED = ":4096:8"  # memory of its own for each of its streams
REFUSED = "does not have a deterministic implementation"


@contextmanager
def arithmetic(precision: Precision, *, is_repeatable: bool = False) -> Iterator[None]:
    """Let products and convolutions round as ``precision`` says; afterwards as before.

    Args:
        precision: ``tf32`` allows the rounding of factors, the others do not.
        is_repeatable: A GPU computes equal bits every time, or refuses.

    Raises:
        DeepsegError: ``deterministic-impossible``, from inside.

    >>> with arithmetic("tf32"):
    ...     torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    (True, True)
    >>> with arithmetic("float32", is_repeatable=True):
    ...     torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    (False, True)
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = precision == "tf32"
    try:
        with _repeatable() if is_repeatable else nullcontext():
            yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextmanager
def _repeatable() -> Iterator[None]:
    """Let torch choose algorithms whose results are the same bits in every run."""
    convolutions, has_workspace = torch.backends.cudnn, WORKSPACE in os.environ
    before = torch.are_deterministic_algorithms_enabled(), convolutions.deterministic
    os.environ.setdefault(WORKSPACE, FIXED)
    torch.use_deterministic_algorithms(True)
    convolutions.deterministic = True
    try:
        yield
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
        raise DeepsegError(_impossible(str(error))) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        convolutions.deterministic = before[1]
        if not has_workspace:
            del os.environ[WORKSPACE]


def _impossible(text: str) -> Problem:
    step = text.partition(REFUSED)[0].strip()
    return Problem(
        code="deterministic-impossible",
        got=f"{step}, which CUDA computes in no fixed order",
        expected="steps that have one, with deterministic: true",
        fix="leave out deterministic, or the layer that needs this",
    )
