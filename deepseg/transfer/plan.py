"""Which weight of a new model comes from where: decided as a whole, shown, then applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from deepseg.errors import DeepsegError, Problem
from deepseg.model.layout import Layout
from deepseg.transfer.source import Source

Choice: TypeAlias = Literal["all", "all but the head"]


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor of the new model.

    Attributes:
        source: Where weights come from.
        copied: Names of the tensors that are taken over.
        kept: Why each other tensor stays as it was initialised.
    """

    source: Source
    copied: tuple[str, ...]
    kept: Mapping[str, str]

    def rows(self, layout: Layout) -> list[list[str]]:
        """Per layer: its address, the tensors copied of all it has, and what stays and why."""
        rows = []
        for layer in layout:
            own = [name for name in (*self.copied, *self.kept) if _is_of(name, layer.address)]
            copied = [name for name in own if name in self.copied]
            stays = [
                f"{name.removeprefix(layer.address + '.')}: {reason}"
                for name, reason in self.kept.items()
                if name in own
            ]
            rows.append([layer.address, f"{len(copied)}/{len(own)}", "; ".join(stays)])
        return rows

    def provenance(self) -> dict[str, str]:
        """What the new model remembers."""
        return {
            "weights from": str(self.source.file),
            "sha256": self.source.sha256,
            "tensors": f"{len(self.copied)} of {len(self.copied) + len(self.kept)}",
        }


def make_plan(source: Source, weights: Mapping[str, Tensor], head: str, choice: Choice) -> Plan:
    """Take over the tensors of the same name; every one must be there and have the same shape.

    Args:
        source: The older model.
        weights: Of the new model.
        head: Address of its classification layer.
        choice: Which layers.

    Raises:
        DeepsegError: ``weights-do-not-fit``.
    """
    kept = {}
    problems = []
    for name, tensor in weights.items():
        old = source.tensors.get(name)
        if choice == "all but the head" and _is_of(name, head):
            kept[name] = "new classification layer"
        elif old is None or old.shape != tensor.shape:
            problems.append(_misfit(name, old, tensor))
    if problems:
        raise DeepsegError(*problems).at(str(source.file))
    return Plan(source, tuple(name for name in weights if name not in kept), kept)


def applied(plan: Plan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The new model's weights with everything that the plan takes over."""
    taken = set(plan.copied)
    return {
        name: plan.source.tensors[name].to(tensor.dtype) if name in taken else tensor
        for name, tensor in weights.items()
    }


def _is_of(name: str, address: str) -> bool:
    return name.startswith(f"{address}.")


def _misfit(name: str, old: Tensor | None, new: Tensor) -> Problem:
    return Problem(
        code="weights-do-not-fit",
        got=f"no {name}" if old is None else f"{name} of shape {_text(old.shape)}",
        expected=f"{name} of shape {_text(new.shape)}",
        fix="give a model of the same layers",
    )


def _text(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
