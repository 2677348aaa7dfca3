"""What is found out about a case: labels and maps, filled piece by piece.

Who finds it, and in which order, is not known here. Nothing imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Box, Int3, volume
from deepseg.inference.postprocess import Labels

FLOAT_BYTES = 4


@dataclass(frozen=True)
class RequestedMaps:
    """What is wanted of a case besides its labels.

    Attributes:
        probabilities: Labels of the classes whose probability maps are wanted.
        uncertainty: ``entropy``, ``variance``, both or none.
    """

    probabilities: Sequence[int] = ()
    uncertainty: Sequence[str] = ()

    def bytes_of(self, shape: Int3) -> int:
        """Memory of the labels and of all maps of a case."""
        maps = len(self.probabilities) + len(self.uncertainty)
        return volume(shape) * (1 + FLOAT_BYTES * maps)


@dataclass(frozen=True)
class BoxPrediction:
    """What was found in a box of the image.

    Attributes:
        box: In the image.
        labels: ``box.size``.
        probabilities: ``box.size`` by label, of those wanted.
        uncertainty: ``box.size`` by name, of those wanted.
    """

    box: Box
    labels: NDArray[np.integer[Any]]
    probabilities: Mapping[int, NDArray[np.float32]]
    uncertainty: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Prediction:
    """Labels of a case, and the maps that are wanted; all 0 where nothing was found yet.

    Attributes:
        labels: ``(X, Y, Z)``.
        probabilities: ``(X, Y, Z)`` float32 by label.
        uncertainty: ``(X, Y, Z)`` float32 by name.
    """

    def __init__(self, shape: Int3, classes: int, wanted: RequestedMaps) -> None:
        small = classes <= 256
        self.labels: Labels = np.zeros(shape, np.uint8) if small else np.zeros(shape, np.uint16)
        self.probabilities = {label: np.zeros(shape, np.float32) for label in wanted.probabilities}
        self.uncertainty = {name: np.zeros(shape, np.float32) for name in wanted.uncertainty}

    def put(self, piece: BoxPrediction) -> None:
        """Note what was found in a box."""
        self.labels[piece.box.slices] = piece.labels
        for label, values in piece.probabilities.items():
            self.probabilities[label][piece.box.slices] = values
        for name, values in piece.uncertainty.items():
            self.uncertainty[name][piece.box.slices] = values

    def clear_outside(self, roi: NDArray[np.bool_] | None) -> None:
        """Make everything 0 outside the ``(X, Y, Z)`` region of interest, if there is one."""
        if roi is not None:
            outside = ~roi
            for one in (self.labels, *self.probabilities.values(), *self.uncertainty.values()):
                one[outside] = 0
