"""Losses, weights and sums of the optimiser that are no longer finite, and the cases to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepseg.errors import NumericalFailure, Problem
from deepseg.training.optimization import Optimizer

SHOWN_TENSORS = 3


def loss_not_finite(value: float, cases: Sequence[str], optimizer: Optimizer) -> NumericalFailure:
    """The failure of a batch with a loss of ``value``."""
    return NumericalFailure(
        Problem(
            code="loss-not-finite",
            got=f"a loss of {value} on segments of {_names(cases)}",
            expected="a finite number",
            fix=_fix(optimizer),
        )
    )


def check_weights(
    weights: Mapping[str, Tensor], optimizer: Optimizer, cases: Sequence[str]
) -> None:
    """Refuse weights that a step has broken: no later batch of the epoch might bring it to light.

    Args:
        weights: By name; statistics too, where they matter.
        optimizer: Its sums can break where weights do not.
        cases: Of the last step.

    Raises:
        NumericalFailure: ``weights-not-finite``.
    """
    sums = {
        f"{kind} of {name}": tensor
        for name, state in optimizer.state.items()
        for kind, tensor in state.items()
    }
    tensors = {**weights, **sums}
    if _are_finite([tensor for tensor in tensors.values() if tensor.is_floating_point()]):
        return
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    more = len(broken) - SHOWN_TENSORS
    raise NumericalFailure(
        Problem(
            code="weights-not-finite",
            got=f"infinite or undefined numbers in {', '.join(broken[:SHOWN_TENSORS])}"
            + (f" and {more} more" if more > 0 else "")
            + (f" after segments of {_names(cases)}" if cases else ""),
            expected="finite numbers",
            fix=_fix(optimizer),
        )
    )


@torch.no_grad()
def _are_finite(tensors: Sequence[Tensor]) -> bool:
    """True if no value is infinite or undefined, in one look at all of them."""
    filled = [tensor for tensor in tensors if tensor.numel()]
    largest = torch._foreach_norm(filled, float("inf"))
    return not largest or bool(torch.stack(largest).isfinite().all())


def _names(cases: Sequence[str]) -> str:
    return ", ".join(sorted(set(cases)))


def _fix(optimizer: Optimizer) -> str:
    return (
        f"lower the learning rate (now {optimizer.learning_rate:g}) or look at these cases; "
        "the last good model is kept"
    )
