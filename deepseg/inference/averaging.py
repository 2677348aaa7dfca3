"""Several answers about one case as one: mean probabilities, and how far they are apart.

Members of an ensemble and mirror images of the case answer one after the other; what is kept is one
sum per class, and one of all squares where the variance is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepseg.geometry.boxes import Int3

Scalar = TypeVar("Scalar", bound=np.generic)
Maps = NDArray[np.float32]

SCRATCH = 3  # maps that exist for a moment while a mean, its labels or its entropy are found


class Average:
    """The mean of class probabilities, added up answer by answer.

    Args:
        classes: Number K of classes.
        shape: Of a map.
        with_variance: Keep what `variance` needs.
    """

    def __init__(self, classes: int, shape: Int3, *, with_variance: bool = False) -> None:
        self._sums = np.zeros((classes, *shape), np.float32)
        self._squares = np.zeros(shape, np.float32) if with_variance else None
        self._count = 0

    def add(self, answer: Iterable[Maps]) -> None:
        """Add the ``(X, Y, Z)`` maps of all classes, each of which is read once."""
        self._count += 1
        for label, one in enumerate(answer):
            self._sums[label] += one
            if self._squares is not None:
                self._squares += one * one

    def taken(self) -> tuple[Maps, Maps | None]:
        """The mean and the variance, made in place: this is the end of the average.

        Returns:
            ``(K, X, Y, Z)``; and ``(X, Y, Z)``, the variance over the answers (n in the
            denominator) as a mean over the classes, or None.
        """
        mean, variance = self._sums, self._squares
        mean /= np.float32(self._count)
        if variance is not None:
            variance /= np.float32(self._count)
            for one in mean:
                variance -= one * one
            np.maximum(variance, 0, out=variance)
            variance /= np.float32(len(mean))
        return mean, variance


def entropy(probabilities: Maps) -> Maps:
    """``(X, Y, Z)``: entropy of the classes, 0 where one is certain and 1 where all are equal.

    Voxels that were not predicted, with probability 0 for every class, have entropy 0.

    Args:
        probabilities: ``(K, X, Y, Z)``.
    """
    result = np.zeros(probabilities.shape[1:], np.float32)
    for one in probabilities:
        logarithms = np.maximum(one, np.finfo(np.float32).tiny)
        np.log(logarithms, out=logarithms)
        logarithms *= one
        result -= logarithms
    result /= np.log(np.float32(len(probabilities)))
    return result


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of the axes along which a case is mirrored, none first."""
    choices = product(*([(), (axis,)] for axis in sorted(set(axes))))
    return sorted((sum(choice, ()) for choice in choices), key=lambda one: (len(one), one))


def mirrored(array: NDArray[Scalar], axes: Sequence[int]) -> NDArray[Scalar]:
    """``(..., X, Y, Z)`` reversed along some of its last three axes; its own inverse."""
    return np.flip(array, tuple(axis - 3 for axis in axes)) if axes else array
