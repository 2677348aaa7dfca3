"""Weights of an older model that fill nothing in a new one, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from deepseg.transfer.matching import ranges

NOTE = "left behind in the source: "  # how the line begins


def left_behind(unused: Collection[str], names: Iterable[str]) -> Iterator[str]:
    """A line that names the layers, and the weights of other layers, that fill nothing.

    Args:
        unused: Names of tensors that fill nothing.
        names: Names of all tensors of the older model.

    >>> names = ["normal.1.conv.weight", "normal.2.conv.weight", "fc.1.conv.weight", "fc.1.bias"]
    >>> list(left_behind(["normal.1.conv.weight", "normal.2.conv.weight", "fc.1.bias"], names))
    ['left behind in the source: normal.1-2; bias of fc.1']
    """
    roles: dict[str, list[str]] = {}
    used: set[str] = set()
    for name in names:
        address, role = _parts(name)
        if name in unused:
            roles.setdefault(address, []).append(role)
        else:
            used.add(address)
    whole = [address for address in roles if address not in used]
    in_parts: dict[str, list[str]] = {}
    for address in roles:
        if address in used:
            in_parts.setdefault(", ".join(roles[address]), []).append(address)
    words = [", ".join(ranges(whole))] if whole else []
    words += [f"{part} of {', '.join(ranges(layers))}" for part, layers in in_parts.items()]
    if words:
        yield f"{NOTE}{'; '.join(words)}"


def _parts(name: str) -> tuple[str, str]:
    """Address of a layer and the role of a tensor in it."""
    pathway, number, *role = name.split(".")
    return f"{pathway}.{number}", ".".join(role)
