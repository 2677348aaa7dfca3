"""How exactly products and convolutions are computed, for as long as a network computes.

GPUs since NVIDIA's Ampere can round the factors of float32 products to 10 bits of mantissa (TF32),
and torch lets convolutions do so unless it is told otherwise. Here float32 means IEEE 754 float32,
on every device, and TF32 is a precision of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deepseg.config.settings import Precision


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Let products and convolutions round as ``precision`` says; afterwards as before.

    Args:
        precision: ``tf32`` allows the rounding of factors, the others do not.

    >>> with arithmetic("tf32"):
    ...     torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    (True, True)
    >>> with arithmetic("float32"):
    ...     torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    (False, False)
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
