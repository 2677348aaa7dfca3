"""Several answers about one case as one: mean probabilities, and how far they are apart.

Members of an ensemble and mirror images of the case answer one after the other; what is kept is one
sum per class, and one of squares where the variance is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Int3

Scalar = TypeVar("Scalar", bound=np.generic)


class Average:
    """The mean of class probabilities, added up answer by answer.

    Args:
        classes: Number K of classes.
        shape: Of a map.
        with_variance: Keep what `variance` needs.
    """

    def __init__(self, classes: int, shape: Int3, *, with_variance: bool = False) -> None:
        self._sum = np.zeros((classes, *shape), np.float32)
        self._squares = np.zeros((classes, *shape), np.float32) if with_variance else None
        self._count = 0

    def add(self, label: int, probabilities: NDArray[np.float32]) -> None:
        """Add the ``(X, Y, Z)`` map of one class; the background's counts the answers."""
        self._sum[label] += probabilities
        if self._squares is not None:
            self._squares[label] += probabilities * probabilities
        self._count += label == 0

    @property
    def mean(self) -> NDArray[np.float32]:
        """``(K, X, Y, Z)``."""
        return self._sum / np.float32(self._count)

    @property
    def variance(self) -> NDArray[np.float32]:
        """``(X, Y, Z)``: variance over the answers (n in the denominator), mean of the classes."""
        assert self._squares is not None
        mean = self.mean
        spread = self._squares / np.float32(self._count) - mean * mean
        return np.asarray(np.maximum(spread, 0).mean(0))


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(X, Y, Z)``: entropy of the classes, 0 where one is certain and 1 where all are equal.

    Voxels that were not predicted, with probability 0 for every class, have entropy 0.

    Args:
        probabilities: ``(K, X, Y, Z)``.
    """
    result = np.zeros(probabilities.shape[1:], np.float32)
    for one in probabilities:
        result -= one * np.log(np.maximum(one, np.finfo(np.float32).tiny))
    return np.asarray(result / np.log(np.float32(len(probabilities))))


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of the axes along which a case is mirrored, none first."""
    choices = product(*([(), (axis,)] for axis in sorted(set(axes))))
    return sorted((sum(choice, ()) for choice in choices), key=lambda one: (len(one), one))


def mirrored(array: NDArray[Scalar], axes: Sequence[int]) -> NDArray[Scalar]:
    """``(..., X, Y, Z)`` reversed along some of its last three axes; its own inverse."""
    return np.flip(array, tuple(axis - 3 for axis in axes)) if axes else array
