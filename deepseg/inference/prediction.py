"""The labels and maps that are predicted of a case, filled box by box.

Who predicts them, and in which order, is not known here. Nothing imports torch.
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
    """Maps that are requested of a case besides its labels.

    Attributes:
        probabilities: Labels of the classes whose probability maps are requested.
        uncertainty: ``entropy``, ``variance``, both or none.
        feature_maps: Layers whose maps are requested, and which of their maps.
    """

    probabilities: Sequence[int] = ()
    uncertainty: Sequence[str] = ()
    feature_maps: Mapping[str, slice] = field(default_factory=dict)

    def bytes_of(self, shape: Int3) -> int:
        """Memory of the labels, probabilities and uncertainty maps of a case.

        >>> RequestedMaps(probabilities=[1, 2], uncertainty=["entropy"]).bytes_of((10, 10, 10))
        13000
        """
        maps = len(self.probabilities) + len(self.uncertainty)
        return volume(shape) * (1 + FLOAT_BYTES * maps)


@dataclass(frozen=True)
class BoxPrediction:
    """The prediction of a box of the image.

    Attributes:
        box: In the image.
        labels: ``box.size``.
        probabilities: ``box.size`` by label, of those requested.
        uncertainty: ``box.size`` by name, of those requested.
    """

    box: Box
    labels: NDArray[np.integer[Any]]
    probabilities: Mapping[int, NDArray[np.float32]]
    uncertainty: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Prediction:
    """Labels of a case, and the requested maps; all 0 where nothing was predicted yet.

    Attributes:
        labels: ``(X, Y, Z)``.
        probabilities: ``(X, Y, Z)`` float32 by label.
        uncertainty: ``(X, Y, Z)`` float32 by name.

    >>> prediction = Prediction((1, 1, 3), classes=2, requested=RequestedMaps())
    >>> box = Box((0, 0, 1), (1, 1, 2))
    >>> prediction.put(BoxPrediction(box, np.ones(box.size, int), {}))
    >>> prediction.labels.tolist()
    [[[0, 1, 1]]]
    """

    def __init__(self, shape: Int3, classes: int, requested: RequestedMaps) -> None:
        small = classes <= 256
        self.labels: Labels = np.zeros(shape, np.uint8) if small else np.zeros(shape, np.uint16)
        self.probabilities = {
            label: np.zeros(shape, np.float32) for label in requested.probabilities
        }
        self.uncertainty = {name: np.zeros(shape, np.float32) for name in requested.uncertainty}

    def put(self, piece: BoxPrediction) -> None:
        """Fill in the prediction of a box."""
        self.labels[piece.box.slices] = piece.labels
        for label, values in piece.probabilities.items():
            self.probabilities[label][piece.box.slices] = values
        for name, values in piece.uncertainty.items():
            self.uncertainty[name][piece.box.slices] = values

    def clear_outside(self, roi: NDArray[np.bool_] | None) -> None:
        """Make everything 0 outside the ``(X, Y, Z)`` region of interest, if there is one."""
        if roi is not None:
            outside = ~roi
            for array in (self.labels, *self.probabilities.values(), *self.uncertainty.values()):
                array[outside] = 0
