"""Labels that a volume holds, and the problem of those that no class has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepseg.data.cases.case import Case
from deepseg.errors import Problem

Array: TypeAlias = NDArray[Any]

MANY_LABELS = 32  # values that no class has, above which a file of labels is taken for an image


def value_counts(labels: Array) -> dict[int, int]:
    """Voxels of every value in ``labels``, ascending.

    >>> value_counts(np.array([2, 0, 2, -1]))
    {-1: 1, 0: 1, 2: 2}
    """
    low, high = int(labels.min()), int(labels.max())
    if high - low < 1 << 16:  # counting is much quicker than sorting
        counts = np.bincount(labels.ravel(order="K").astype(np.int64) - low)
        return {low + i: int(n) for i, n in enumerate(counts) if n}
    values, counts = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def strange_labels(case: Case, counts: Mapping[int, int], class_count: int) -> Problem:
    """The problem of labels in ``counts`` that are of no class."""
    strange = [value for value in counts if not 0 <= value < class_count]
    expected = f"labels 0 to {class_count - 1} ({class_count} classes)"
    if len(strange) > MANY_LABELS or strange[0] < -1:
        values = f"{len(counts)} different values" if len(counts) > 1 else "the value"
        return Problem(
            code="label-values",
            got=f"{values} from {min(counts)} to {max(counts)}, which looks like an image",
            expected=expected,
            fix=f"correct the label file in {case.where}",
            where=str(case.labels),
        )
    values = ", ".join(map(str, counts))
    voxels = ", ".join(f"{value}: {counts[value]} voxels" for value in strange)
    entries = ", ".join(f"{a}: {b}" for a, b in _suggested_map(case, counts, class_count).items())
    proposals = [f"set 'label_map: {{{entries}}}' as it fits your data"]
    if class_count <= max(counts):
        proposals.append(f"give the model {max(counts) + 1} classes")
    if len(counts) > class_count:  # no map keeps these labels apart
        proposals.reverse()
    return Problem(
        code="label-values",
        got=f"labels {{{values}}} ({voxels})",
        expected=expected,
        fix=", or ".join(proposals),
        where=str(case.labels),
    )


def _suggested_map(case: Case, counts: Mapping[int, int], class_count: int) -> dict[int, int]:
    """A label map with the labels that no class has on the highest classes without one.

    Where all classes have a label, they go to the highest: the background would hide them.
    """
    free = [label for label in range(class_count) if label not in counts]
    strange = [value for value in counts if value >= class_count]
    targets = dict.fromkeys((value for value in counts if value < 0), 0)
    targets |= dict.fromkeys(strange, class_count - 1)
    targets |= dict(zip(reversed(strange), reversed(free), strict=False))
    mapped = {target for _, target in case.label_map}
    current = {label: targets.get(target, target) for label, target in case.label_map}
    return current | {value: label for value, label in targets.items() if value not in mapped}
