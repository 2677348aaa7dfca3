"""Layers that a user fills from a layer of an imported network, or the other way round.

Kernel fills kernel and bias fills bias, where their shapes agree; in classification layers, classes
go by name. What else such a layer has, such as a norm, has no counterpart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from deepseg.config.blocks.optimisers import KERNEL_TYPES
from deepseg.errors import Problem, raise_if_any
from deepseg.model.layout import Layout
from deepseg.transfer.map_selection import MapSelection, overlap
from deepseg.transfer.plan import Copy, LayerSummary, TensorPlan


@dataclass(frozen=True)
class MappedLayers:
    """Pairs of layers of two models, one of each an imported layer.

    Attributes:
        pairs: Address of the layer that fills each, by address.
        source: Layers of the older model.
        target: Layers of the new model.
        classes: Of the classification layers, by name.
    """

    pairs: Mapping[str, str]
    source: Layout
    target: Layout
    classes: MapSelection

    def tensors(
        self, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> dict[str, TensorPlan]:
        """Plans of the tensors that are filled, by name.

        Args:
            weights: Of the new model, as initialised.
            values: Tensors of the older model.

        Raises:
            DeepsegError: ``layer-map``, if nothing of a layer fits the other.
        """
        plans: dict[str, TensorPlan] = {}
        problems = []
        for address, origin in self.pairs.items():
            filled = list(self._filled(address, origin, weights, values))
            plans |= {plan.name: plan for plan in filled}
            if not filled:
                problems.append(
                    Problem(
                        "layer-map",
                        got=f"-map {address}={origin}, of which no kernel or bias fits",
                        expected="layers whose kernels or biases have one shape",
                        fix="name another layer; -show lists their shapes",
                    )
                )
        raise_if_any(problems)
        return plans

    def summaries(self, tensors: Mapping[str, TensorPlan]) -> Iterator[LayerSummary]:
        """The rows of a transfer's table for these layers."""
        for address, origin in self.pairs.items():
            plans = [t for name, t in tensors.items() if self.target.address_of(name) == address]
            copied = sum(plan.copy is not None for plan in plans)
            reasons = sorted({plan.reason for plan in plans if plan.reason})
            outputs = f"{copied}/{len(plans)} tensors"
            yield LayerSummary(address, origin, outputs, "", "; ".join(reasons))

    def _filled(
        self, address: str, origin: str, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Iterator[TensorPlan]:
        parts = _parts(self.source, origin, values)
        for role, name in _parts(self.target, address, weights).items():
            if role in parts:
                copy = self._copy(address, origin, weights[name], parts[role], values[parts[role]])
                if copy is not None:
                    notes = [note for selection in copy.selections for note in selection.notes]
                    yield TensorPlan(
                        name, tuple(weights[name].shape), copy, reason="; ".join(notes)
                    )

    def _copy(self, address: str, origin: str, new: Tensor, name: str, old: Tensor) -> Copy | None:
        """The copy of one tensor into another; None if their shapes differ."""
        is_head = address == self.target.head and origin == self.source.head
        if is_head and new.shape[1:] == old.shape[1:]:
            return Copy(name, (self.classes, *(overlap(n, n) for n in new.shape[1:2])))
        if new.shape != old.shape:
            return None
        return Copy(name, tuple(overlap(n, n) for n in new.shape[:2]))


def _parts(plan: Layout, address: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of the kernel and of the bias of a layer, by their role."""
    parts: dict[str, str] = {}
    for name in tensors:
        if plan.address_of(name) != address:
            continue
        imported = plan.imported_weights.get(name)
        if imported is None:
            roles = {f"{address}.conv.weight": "kernel", f"{address}.bias": "bias"}
            role = roles.get(name, "")
        elif imported[1].type in KERNEL_TYPES:
            role = "kernel"
        else:
            role = "bias" if imported[1].type == "Bias" else ""
        if role:
            parts.setdefault(role, name)
    return parts
