"""The fate of every tensor of a new model: decided as a whole, shown, then applied.

A plan says for each tensor which part of it is taken from which tensor of the older model, and why
the rest is not. Making one changes nothing; `applied` gives the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.checkpoint import Checkpoint
from deepseg.model.provenance import FilledFrom
from deepseg.transfer.map_selection import MapSelection
from deepseg.transfer.matching import ranges
from deepseg.transfer.preparation import CarriedPreparation
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source


@dataclass(frozen=True)
class Copy:
    """A part of a tensor that comes from the older model.

    Attributes:
        source: Name of the older model's tensor.
        selections: Along each of the first axes: outputs and inputs of a kernel, or the maps that a
            statistic belongs to. Further axes are those of the kernel itself.
        scale: Factor on all values.
        rows: The tensor has so many rows, each of which is filled alike; 0 if it has none.
    """

    source: str
    selections: tuple[MapSelection, ...]
    scale: float = 1.0
    rows: int = 0


@dataclass(frozen=True)
class TensorPlan:
    """The plan of one tensor.

    Attributes:
        name: Of the tensor, such as ``normal.3.conv.weight``.
        shape: In the new model.
        copy: The part that comes from the older model, or None.
        constant: All values, where the plan makes them itself.
        reason: What stays as initialised and why, or what was made; empty if all was copied.
        free: Values that earlier older models left new, of the tensor's shape; None for all.
    """

    name: str
    shape: tuple[int, ...]
    copy: Copy | None = None
    constant: Tensor | None = None
    reason: str = ""
    free: Tensor | None = None

    @property
    def values(self) -> int:
        """The number of values of the tensor."""
        return prod(self.shape)

    @property
    def filled(self) -> int:
        """The number of values that do not stay as initialised."""
        if self.free is not None:
            return int((self.origin_mask() & self.free).sum())
        if self.constant is not None:
            return self.values
        if self.copy is None:
            return 0
        maps = [len(selection.filled) for selection in self.copy.selections]
        rows = self.shape[:1] if self.copy.rows else ()
        return prod((*rows, *maps, *self.shape[len(rows) + len(maps) :]))

    def origin_mask(self) -> Tensor:
        """True for values that come from the older model or the plan itself; not for mere zeros."""
        if self.copy is None:
            return torch.full(self.shape, self.constant is not None)
        rows = (slice(None),) if self.copy.rows else ()
        mask = torch.zeros(self.shape, dtype=torch.bool)
        if all(selection.copied for selection in self.copy.selections):
            mask[(*rows, *_index([selection.copies for selection in self.copy.selections]))] = True
        return mask

    def after(self, earlier: TensorPlan, file: str) -> TensorPlan:
        """The plan for what an earlier older model, read from ``file``, left new."""
        free = (
            ~earlier.origin_mask()
            if earlier.free is None
            else earlier.free & ~earlier.origin_mask()
        )
        if self.copy is None and self.constant is None:
            return replace(self, free=free)
        reason = f"filled from {file}" if not free.any() else self.reason
        plan = replace(self, free=free, reason=reason)
        return plan if plan.filled else replace(plan, copy=None, constant=None)

    def record(self) -> dict[str, Any]:
        """The plan of this tensor as a file holds it."""
        spans = (
            [] if self.copy is None else [selection.spans() for selection in self.copy.selections]
        )
        return {
            "tensor": self.name,
            "shape": list(self.shape),
            "from": None if self.copy is None else self.copy.source,
            "values": self.values,
            "filled": self.filled,
            "maps": spans,
            "scale": 1.0 if self.copy is None else self.copy.scale,
            "why": self.reason,
        }


@dataclass(frozen=True)
class LayerSummary:
    """The plan of one layer, for people.

    Attributes:
        layer: Of the new model.
        source: The older model's layer, or empty.
        outputs: Kernels taken over of all, such as ``30/60``.
        inputs: Inputs of these kernels, likewise.
        new: What stays as initialised, or was made, and why.
    """

    layer: str
    source: str
    outputs: str
    inputs: str
    new: str


@dataclass(frozen=True)
class Plan:
    """The plan of all weights of a new model.

    Attributes:
        source: The older model.
        rules: What the user asked for.
        tensors: One per tensor of the new model, in its order.
        layers: One per layer.
        source_only: Tensors of the older model that feed nothing.
        notes: What holds for the model as a whole.
        preparation: How its cases are prepared, where the older model decides that.
        earlier: Plans of other older models, applied before this one, which fills what they left
            new.
    """

    source: Source
    rules: TransferRules
    tensors: tuple[TensorPlan, ...]
    layers: tuple[LayerSummary, ...]
    source_only: tuple[str, ...]
    notes: tuple[str, ...] = ()
    preparation: CarriedPreparation = field(default_factory=CarriedPreparation)
    earlier: tuple[Plan, ...] = ()

    @property
    def filled(self) -> list[TensorPlan]:
        """Tensors that do not stay entirely as initialised."""
        return [tensor for tensor in self.tensors if tensor.filled]

    @property
    def source_tensors(self) -> dict[str, Tensor]:
        """Tensors of the older model that fill something, by name."""
        copies = [tensor.copy for tensor in self.tensors if tensor.copy is not None]
        return {copy.source: self.source.tensors[copy.source] for copy in copies}

    @property
    def target_only(self) -> tuple[str, ...]:
        """Tensors of the new model that stay entirely as initialised."""
        return tuple(tensor.name for tensor in self.tensors if not tensor.filled)

    def table(self) -> list[list[str]]:
        """Rows for people: neighbours that stay new for one reason stand together."""
        runs: list[tuple[list[str], LayerSummary]] = []
        for layer in self.layers:
            if runs and not layer.source and _stays_like(runs[-1][1], layer):
                runs[-1][0].append(layer.layer)
            else:
                runs.append(([layer.layer], layer))
        return [
            [", ".join(ranges(addresses)), layer.source, layer.outputs, layer.inputs, layer.new]
            for addresses, layer in runs
        ]

    def summary(self) -> str:
        """One line: how much of the new model the older one fills."""
        values = sum(tensor.values for tensor in self.tensors)
        filled = sum(tensor.filled for tensor in self.tensors)
        return (
            f"{len(self.filled)} of {len(self.tensors)} tensors filled from {self.source.file}, "
            f"{filled:,} of {values:,} numbers ({_percent(filled, values)})"
        )

    def record(self) -> dict[str, Any]:
        """The plan as a JSON file holds it."""
        return {
            "source": {
                "file": str(self.source.file),
                "kind": self.source.kind,
                "sha256": self.source.sha256,
            },
            "rules": self.rules.chosen(),
            "notes": list(self.notes),
            "preparation": self.preparation.record(),
            "layers": [vars(layer) for layer in self.layers],
            "tensors": [tensor.record() for tensor in self.tensors],
            "source_only": list(self.source_only),
            "target_only": list(self.target_only),
            **({"earlier": [plan.record() for plan in self.earlier]} if self.earlier else {}),
        }

    def provenance(self) -> FilledFrom:
        """The record of the older model that the new one keeps."""
        return FilledFrom(
            file=str(self.source.file),
            sha256=self.source.sha256,
            rules=self.rules.chosen(),
            tensors=f"{len(self.filled)} of {len(self.tensors)}",
            layers=tuple(tuple(row) for row in self.table()),
            is_random=self.source.is_random,
            device_steps=self.source.device_steps,
            earlier=tuple(plan.provenance() for plan in self.earlier),
        )


def _stays_like(before: LayerSummary, layer: LayerSummary) -> bool:
    """Both are layers of one pathway that stay new for one reason."""
    pathways = {summary.layer.rpartition(".")[0] for summary in (before, layer)}
    return len(pathways) == 1 and (before.source, before.new) == (layer.source, layer.new)


def filled_checkpoint(plan: Plan, checkpoint: Checkpoint) -> Checkpoint:
    """The new model with the weights, the preparation and the provenance that the plan says.

    Args:
        plan: Made for the weights of ``checkpoint``.
        checkpoint: As initialised; it is not changed.
    """
    return replace(
        checkpoint,
        weights=applied(plan, checkpoint.weights),
        preparation=plan.preparation.preparation,
        cohort=plan.preparation.cohort,
        provenance=replace(checkpoint.provenance, filled_from=plan.provenance()),
    )


def applied(plan: Plan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The new model's weights, filled as the plan says.

    Args:
        plan: Made for a model of these weights.
        weights: As initialised; they are not changed.
    """
    for earlier in plan.earlier:
        weights = applied(earlier, weights)
    return {
        tensor.name: _applied(tensor, weights[tensor.name], plan.source.tensors)
        for tensor in plan.tensors
    }


def _applied(plan: TensorPlan, initial: Tensor, sources: Mapping[str, Tensor]) -> Tensor:
    filled = _filled(plan, initial, sources)
    return filled if plan.free is None else torch.where(plan.free, filled, initial)


def _filled(plan: TensorPlan, initial: Tensor, sources: Mapping[str, Tensor]) -> Tensor:
    if plan.constant is not None:
        return plan.constant.to(initial.dtype)
    if plan.copy is None:
        return initial
    values = sources[plan.copy.source].to(initial.dtype)
    if plan.copy.rows:
        return torch.stack([_copied(plan.copy, row, values) for row in initial])
    return _copied(plan.copy, initial, values)


def _copied(copy: Copy, initial: Tensor, values: Tensor) -> Tensor:
    if copy.scale != 1:
        values = values * copy.scale
    for axis, selection in enumerate(copy.selections):
        values = _combined(values, axis, selection)
    kernel = initial.shape[len(copy.selections) :]
    values = _centred(values, tuple(kernel))
    result = initial.clone()
    result[_index([selection.filled for selection in copy.selections])] = values
    return result


def _combined(values: Tensor, axis: int, selection: MapSelection) -> Tensor:
    """The filled maps of one axis, each the weighted sum of its sources."""
    maps = []
    for factors in selection.maps:
        if factors is None:
            continue
        total = torch.zeros_like(values.select(axis, 0))
        for index, factor in factors.items():
            total = total + (values.select(axis, index) * factor)
        maps.append(total)
    return torch.stack(maps, axis)


def _centred(values: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Smaller kernels in the middle of larger ones, zero around them."""
    leading = values.dim() - len(kernel)
    if tuple(values.shape[leading:]) == kernel:
        return values
    margins = [
        margin
        for k, old in zip(reversed(kernel), reversed(values.shape), strict=False)
        for margin in ((k - old) // 2, k - old - (k - old) // 2)
    ]
    return F.pad(values, margins)


def _index(maps: Sequence[list[int]]) -> tuple[Tensor, ...]:
    """Index of maps along all axes at once."""
    filled = [torch.tensor(numbers) for numbers in maps]
    return tuple(
        index.view(*[-1 if other == axis else 1 for other in range(len(filled))])
        for axis, index in enumerate(filled)
    )


def _percent(part: int, whole: int) -> str:
    """The share in percent; ``none`` and ``all`` only where they are true.

    >>> _percent(0, 300), _percent(1, 300), _percent(299, 300), _percent(300, 300)
    ('none', '1 %', '99 %', 'all')
    """
    if 0 < part < whole:
        return f"{min(max(100 * part // whole, 1), 99)} %"
    return "all" if part else "none"
