"""Layers that learn on a device, in the words of a user."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deepseg.errors import DeepsegError, Problem
from deepseg.model.layout import Layout

PRESET = "tune:"


def trained_layers(words: str, plan: Layout) -> tuple[str, ...]:
    """Addresses of the layers that ``words`` name, in the order of the layout.

    Args:
        words: ``all``; ``head``; ``tune:last:2``, the last two depths; or addresses, ranges and
            wildcards with commas between them, such as ``fc.2,head``. ``tune:`` may be left out.
        plan: The layers of the model.

    Raises:
        DeepsegError: ``layer-unknown`` or ``train-layers``.
    """
    text = words.removeprefix(PRESET).strip()
    if text == "all":
        return plan.order
    depth = re.fullmatch(r"last:(\d+)", text)
    if depth is not None:
        return _last(int(depth[1]), plan)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or any(":" in name for name in names):
        raise _unknown(words)
    return plan.addresses(names)


def _last(count: int, plan: Layout) -> tuple[str, ...]:
    depths = _depths(plan)
    deepest = max(depths.values())
    if not 1 <= count <= deepest:
        raise _unknown(f"tune:last:{count}", f"tune:last:1 to tune:last:{deepest}")
    return tuple(address for address in plan.order if depths[address] > deepest - count)


def _depths(plan: Layout) -> Mapping[str, int]:
    """The depth of every layer; parallel layers count together, from the image on."""
    imported = {layer.address: layer.depth for layer in plan.imported_layers}
    return imported | {layer.address: layer.depth for layer in plan}


def _unknown(
    got: str, expected: str = "all, head, tune:last:N, or layers such as fc.2,head"
) -> DeepsegError:
    return DeepsegError(
        Problem("train-layers", f"-train {got!r}", expected, "name the layers that learn")
    )
