"""Layers that learn on a device, in the words of a user."""

from __future__ import annotations

from pydantic import ValidationError

from deepseg.config.blocks.freezing import Freeze
from deepseg.errors import DeepsegError, Problem
from deepseg.model.layout import Layout
from deepseg.training.freezing import frozen_layers

PRESET = "tune:"


def trained_layers(words: str, plan: Layout) -> tuple[str, ...]:
    """Addresses of the layers that ``words`` name, in the order of the layout.

    Args:
        words: ``all``; ``head``; ``tune:last:2``, what ``freeze: {tune: last:2}`` leaves to learn
            in a session; or addresses, ranges and wildcards with commas between them, such as
            ``fc.2,head``.
        plan: The layers of the model.

    Raises:
        DeepsegError: ``layer-unknown`` or ``train-layers``.
    """
    text = words.strip()
    if text == "all":
        return plan.order
    if text.startswith(PRESET):
        return _tuned(text.removeprefix(PRESET), plan)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or any(":" in name for name in names):
        raise _unknown(words)
    return plan.addresses(names)


def _tuned(preset: str, plan: Layout) -> tuple[str, ...]:
    try:
        frozen = frozen_layers(plan, Freeze(tune=preset), epoch=0)
    except ValidationError as error:
        raise _unknown(PRESET + preset) from error
    return tuple(address for address in plan.order if address not in frozen)


def _unknown(words: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            "train-layers",
            f"-train {words!r}",
            "all, head, tune:head, tune:last:N, or layers such as fc.2,head",
            "name the layers that learn",
        )
    )
