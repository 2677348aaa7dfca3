"""From class probabilities to one label per voxel.

Nothing here imports torch, and nothing here knows files, tiles or the region of interest.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]


def most_probable(probabilities: NDArray[np.floating[Any]]) -> Labels:
    """Most probable class of every voxel; the lowest of equally probable ones.

    A voxel that was never predicted has probability 0 for every class and so becomes background.
    The classes are walked one by one, because ``argmax`` over the first axis is slow and its
    result of 8 bytes per voxel is larger than a probability map.

    Args:
        probabilities: ``(K, X, Y, Z)``, finite, of K classes; class 0 is the background.

    Returns:
        ``(X, Y, Z)`` labels; uint8 for up to 256 classes, uint16 above.

    >>> most_probable(np.array([[0.2, 0.5, 0], [0.8, 0.5, 0]]).reshape(2, 1, 1, 3)).tolist()
    [[[1, 0, 0]]]
    """
    number_of_classes, *shape = probabilities.shape
    small = number_of_classes <= 256
    labels: Labels = np.zeros(shape, np.uint8) if small else np.zeros(shape, np.uint16)
    highest = probabilities[0].copy()
    for label in range(1, number_of_classes):
        labels[probabilities[label] > highest] = label
        np.maximum(highest, probabilities[label], out=highest)
    return labels
