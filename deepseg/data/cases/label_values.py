"""Labels that a volume holds, and the problem of those that no class has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepseg.counts import counted
from deepseg.data.cases.case import UNKNOWN, Case
from deepseg.errors import Problem

Array: TypeAlias = NDArray[Any]

MANY_LABELS = 32  # values of labels, up to which all are named
ROUGH = 0.5  # share of neighbours that differ, above which a volume is taken for an image
IGNORE_VALUE = 255  # a usual mark of voxels that nobody has labelled
OBJECTS = 3  # values from which on they may number objects of one class


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


def strange_labels(case: Case, labels: Array, class_count: int) -> Problem:
    """The problem of labels that are of no class.

    Args:
        case: Whose label file it is.
        labels: ``(X, Y, Z)``, at least one of them of no class.
        class_count: Classes of the model.
    """
    counts = value_counts(labels)
    strange = [value for value in counts if not 0 <= value < class_count]
    got, fix = "", f"correct the label file in {case.where}"
    if len(counts) > MANY_LABELS and roughness(labels) > ROUGH:
        got = f"{len(counts)} different values from {min(counts)} to {max(counts)}, which looks "
        got += "like an image"
    elif len(strange) > MANY_LABELS:
        got = f"{len(counts)} labels from {min(counts)} to {max(counts)}, {len(strange)} of them "
        got += f"of no class ({', '.join(map(str, strange[:3]))}, …)"
        fix = "name the class of each in label_map, or give the model a class for each and number "
        fix += f"them 0 to {len(counts) - 1} in label_map"
    else:
        voxels = ", ".join(f"{value}: {counted(counts[value], 'voxel')}" for value in strange)
        got = f"labels {{{', '.join(map(str, counts))}}} ({voxels})"
        fix = ", or ".join(_proposals(case, labels, counts, class_count))
    expected = f"labels 0 to {class_count - 1} ({class_count} classes)"
    return Problem("label-values", got, expected, fix, str(case.labels))


def roughness(labels: Array) -> float:
    """Share of neighbouring voxels that differ, where not both have the most frequent value.

    It is small for labels, which are the same over whole regions, and near 1 for an image.

    >>> roughness(np.array([0, 0, 0, 7, 7, 7, 7, 2, 2, 0]))  # 3 of 7 pairs
    0.42857142857142855
    """
    counts = value_counts(labels)
    background = labels == max(counts, key=counts.__getitem__)
    pairs = differing = 0
    for axis in range(labels.ndim):
        first, second = _neighbours(labels, axis)
        both = np.logical_and(*_neighbours(background, axis))
        pairs += both.size - int(np.count_nonzero(both))
        differing += int(np.count_nonzero(first != second))
    return differing / pairs if pairs else 0.0


def _neighbours(array: Array, axis: int) -> tuple[Array, Array]:
    """Every voxel but the last along ``axis``, and the one after each."""
    turned = np.moveaxis(array, axis, 0)
    return turned[:-1], turned[1:]


def _proposals(
    case: Case, labels: Array, counts: Mapping[int, int], class_count: int
) -> Iterator[str]:
    """Changes that make the labels right, the most likely one first."""
    targets = _suggested_map(case, counts, class_count)
    entries = ", ".join(f"{a}: {'ignore' if b == UNKNOWN else b}" for a, b in targets.items())
    number_objects = class_count == 2 and _number_objects(labels, counts)
    purpose = "if the values number the objects of one class" if number_objects else "as it fits"
    renaming = f"set 'label_map: {{{entries}}}' {purpose}"
    renaming += "" if number_objects else " your data"
    classes = max(counts) + 1
    are_classes = class_count < classes <= 2 * sum(value >= 0 for value in counts)
    more = [f"give the model {classes} classes"] if are_classes else []
    if len(counts) > class_count and not number_objects:  # no map keeps these labels apart
        yield from [*more, renaming]
    else:
        yield from [renaming, *more]


def _number_objects(labels: Array, counts: Mapping[int, int]) -> bool:
    """True if every value above 0 is one connected object: 1, 2, 3, and so on."""
    values = [value for value in counts if value != 0]
    if len(values) < OBJECTS or values != list(range(1, len(values) + 1)):
        return False
    touching = np.ones((3,) * labels.ndim, bool)
    return all(ndimage.label(labels == value, touching)[1] == 1 for value in values)


def _suggested_map(case: Case, counts: Mapping[int, int], class_count: int) -> dict[int, int]:
    """A label map with the labels that no class has on the highest classes without one.

    Where all classes have a label, they go to the highest: the background would hide them. Values
    that usually mark unlabelled voxels are ignored.
    """
    if min(counts) == -1 and counts[-1] == max(counts.values()) and max(counts) < class_count - 1:
        return {value: value + 1 for value in counts}  # classes that are counted from -1
    free = [label for label in range(class_count) if label not in counts]
    targets = {value: UNKNOWN for value in counts if value < 0}
    low = min(counts)
    if low < 0 and 0 not in counts and counts[low] == max(counts.values()):
        targets[low] = 0
    foreground = [value for value in counts if value > 0]
    if IGNORE_VALUE in foreground and len(foreground) > 1:
        targets[IGNORE_VALUE] = UNKNOWN
    strange = [value for value in counts if value >= class_count and value not in targets]
    targets |= dict.fromkeys(strange, class_count - 1)
    targets |= dict(zip(reversed(strange), reversed(free), strict=False))
    mapped = {target for _, target in case.label_map}
    current = {label: targets.get(target, target) for label, target in case.label_map}
    return current | {value: label for value, label in targets.items() if value not in mapped}
