"""What becomes of every tensor of a new model: decided as a whole, shown, then applied.

A plan says for each tensor which part of it is taken from which tensor of the older model, and why
the rest is not. Making one changes nothing; `applied` gives the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.model.provenance import FilledFrom
from deepseg.transfer.map_selection import MapSelection
from deepseg.transfer.matching import ranges
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source


@dataclass(frozen=True)
class Copy:
    """A part of a tensor that comes from the older model.

    Attributes:
        source: Name of the older model's tensor.
        wirings: Along each of the first axes: outputs and inputs of a kernel, or the maps that a
            statistic belongs to. Further axes are those of the kernel itself.
        scale: Factor on all values.
    """

    source: str
    wirings: tuple[MapSelection, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes:
        name: Of the tensor, such as ``normal.3.conv.weight``.
        shape: In the new model.
        copy: The part that comes from the older model, or None.
        given: All values, where the plan makes them itself.
        why: What stays as initialised and why, or what was made; empty if all was copied.
    """

    name: str
    shape: tuple[int, ...]
    copy: Copy | None = None
    given: Tensor | None = None
    why: str = ""

    @property
    def values(self) -> int:
        """How many numbers the tensor has."""
        return _product(self.shape)

    @property
    def filled(self) -> int:
        """How many of them do not stay as initialised."""
        if self.given is not None:
            return self.values
        if self.copy is None:
            return 0
        kept = [len(wiring.filled) for wiring in self.copy.wirings]
        return _product((*kept, *self.shape[len(kept) :]))

    def record(self) -> dict[str, Any]:
        """The entry as a file holds it."""
        spans = [] if self.copy is None else [wiring.spans() for wiring in self.copy.wirings]
        return {
            "tensor": self.name,
            "shape": list(self.shape),
            "from": None if self.copy is None else self.copy.source,
            "values": self.values,
            "filled": self.filled,
            "maps": spans,
            "scale": 1.0 if self.copy is None else self.copy.scale,
            "why": self.why,
        }


@dataclass(frozen=True)
class LayerSummary:
    """What becomes of one layer, for people.

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
    """What becomes of every weight of a new model.

    Attributes:
        source: The older model.
        rules: What the user asked for.
        entries: One per tensor of the new model, in its order.
        rows: One per layer.
        source_only: Tensors of the older model that feed nothing.
        notes: What holds for the model as a whole.
    """

    source: Source
    rules: TransferRules
    entries: tuple[TensorPlan, ...]
    rows: tuple[LayerSummary, ...]
    source_only: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def touched(self) -> list[TensorPlan]:
        """Tensors that do not stay entirely as initialised."""
        return [entry for entry in self.entries if entry.filled]

    @property
    def sources(self) -> list[str]:
        """Tensors of the older model that feed something, each once."""
        return list(dict.fromkeys(one.copy.source for one in self.entries if one.copy is not None))

    @property
    def target_only(self) -> tuple[str, ...]:
        """Tensors of the new model that stay entirely as initialised."""
        return tuple(entry.name for entry in self.entries if not entry.filled)

    def table(self) -> list[list[str]]:
        """The rows for people: neighbours that stay for one reason stand together."""
        runs: list[tuple[list[str], LayerSummary]] = []
        for row in self.rows:
            pathway = row.layer.rpartition(".")[0]
            if runs and not row.source and _stands_with(runs[-1][1], row, pathway):
                runs[-1][0].append(row.layer)
            else:
                runs.append(([row.layer], row))
        return [
            [", ".join(ranges(layers)), row.source, row.outputs, row.inputs, row.new]
            for layers, row in runs
        ]

    def summary(self) -> str:
        """One line: how much of the new model the older one fills."""
        values = sum(entry.values for entry in self.entries)
        filled = sum(entry.filled for entry in self.entries)
        return (
            f"{len(self.touched)} of {len(self.entries)} tensors filled from {self.source.file}, "
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
            "layers": [vars(row) for row in self.rows],
            "tensors": [entry.record() for entry in self.entries],
            "source_only": list(self.source_only),
            "target_only": list(self.target_only),
        }

    def provenance(self) -> FilledFrom:
        """What the new model remembers of the older one."""
        return FilledFrom(
            file=str(self.source.file),
            sha256=self.source.sha256,
            rules=self.rules.chosen(),
            tensors=f"{len(self.touched)} of {len(self.entries)}",
            layers=tuple(tuple(row) for row in self.table()),
            is_random=self.source.is_random,
        )


def _stands_with(before: LayerSummary, row: LayerSummary, pathway: str) -> bool:
    alike = (before.source, before.new) == (row.source, row.new)
    return alike and before.layer.startswith(f"{pathway}.")


def applied(plan: Plan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The new model's weights, filled as the plan says.

    Args:
        plan: Made for a model of these weights.
        weights: As initialised; they are not changed.
    """
    return {
        entry.name: _filled(entry, weights[entry.name], plan.source.tensors)
        for entry in plan.entries
    }


def _filled(entry: TensorPlan, new: Tensor, sources: Mapping[str, Tensor]) -> Tensor:
    if entry.given is not None:
        return entry.given.to(new.dtype)
    if entry.copy is None:
        return new
    values = sources[entry.copy.source].to(new.dtype)
    if entry.copy.scale != 1:
        values = values * entry.copy.scale
    for axis, wiring in enumerate(entry.copy.wirings):
        values = _combined(values, axis, wiring)
    kernel = new.shape[len(entry.copy.wirings) :]
    values = _centred(values, tuple(kernel))
    result = new.clone()
    result[_where(entry.copy.wirings)] = values
    return result


def _combined(values: Tensor, axis: int, wiring: MapSelection) -> Tensor:
    """The filled maps of one axis, each the weighted sum of its sources."""
    maps = []
    for row in wiring.rows:
        if row is None:
            continue
        total = torch.zeros_like(values.select(axis, 0))
        for index, factor in row.items():
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


def _where(wirings: tuple[MapSelection, ...]) -> tuple[Tensor, ...]:
    """Index of the filled maps along all axes at once."""
    filled = [torch.tensor(wiring.filled) for wiring in wirings]
    return tuple(
        index.view(*[-1 if other == axis else 1 for other in range(len(filled))])
        for axis, index in enumerate(filled)
    )


def _product(numbers: tuple[int, ...]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _percent(part: int, whole: int) -> str:
    """Nothing and everything are said only where they are true."""
    if 0 < part < whole:
        return f"{min(max(100 * part // whole, 1), 99)} %"
    return "all" if part else "none"
