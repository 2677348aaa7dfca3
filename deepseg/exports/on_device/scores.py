"""Segmentations of whole cases, and their Dice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from deepseg.exports.on_device.cases import Case, Cases, Labels
from deepseg.exports.on_device.networks import Network, outputs
from deepseg.exports.on_device.segments import segment_inputs
from deepseg.exports.on_device.states import State


def segmentation(network: Network, state: State, case: Case) -> Labels:
    """``(X, Y, Z)``: the most probable class of every voxel; background outside the ROI."""
    plan = network.manifest["infer"]
    size, low = np.array(plan["prediction"]), np.array(plan["margin"][0])
    stride = np.maximum(size // plan["phase"], 1) * plan["phase"]
    shape = case.labels.shape
    result = np.zeros(shape, np.int16)
    for corner in product(*(range(0, n, int(s)) for n, s in zip(shape, stride, strict=True))):
        box = tuple(
            slice(a, min(a + int(s), n)) for a, s, n in zip(corner, size, shape, strict=True)
        )
        if case.roi is not None and not case.roi[box].any():
            continue
        inputs = segment_inputs(case, np.array(corner) - low, plan)
        feeds = {**state, **{name: block[None] for name, block in inputs.items()}}
        probabilities = outputs(network.infer, feeds)["probabilities"]
        labels = probabilities[0].argmax(0).astype(np.int16)
        result[box] = labels[tuple(slice(0, s.stop - s.start) for s in box)]
    if case.roi is not None:
        result[~case.roi] = 0
    return result


@dataclass(frozen=True)
class Scores:
    """Dice of every foreground class over all voxels of some cases; None where it is undefined."""

    by_class: Mapping[str, float | None]

    @property
    def mean(self) -> float:
        """Of the classes that occur; not a number if none does."""
        values = [value for value in self.by_class.values() if value is not None]
        return float(np.mean(values)) if values else math.nan

    def __str__(self) -> str:
        words = (f"{n} {'-' if v is None else f'{v:.4f}'}" for n, v in self.by_class.items())
        return ", ".join(words)


def scores(network: Network, state: State, cases: Cases, names: Sequence[str]) -> Scores:
    """Scores of the cases of these names, which are read one after the other."""
    classes = len(network.classes)
    counts = np.zeros((3, classes), np.int64)
    for name in names:
        case = cases.read(name)
        labelled = case.labels >= 0
        predicted, true = segmentation(network, state, case)[labelled], case.labels[labelled]
        for row, values in enumerate((predicted, true, true[predicted == true])):
            counts[row] += np.bincount(values, minlength=classes)
    sizes, overlaps = counts[0] + counts[1], counts[2]
    dice = [
        2 * int(n) / int(size) if size else None for n, size in zip(overlaps, sizes, strict=True)
    ]
    return Scores(dict(zip(network.classes[1:], dice[1:], strict=True)))
