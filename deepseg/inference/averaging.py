"""Several predictions of one case averaged: mean probabilities, and how far they are apart.

Members of an ensemble and mirror images of the case are added one after the other; only one sum per
class is held, and one of all squares where the variance is requested.
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

SCRATCH = 3  # maps that exist for a moment while a mean, its labels or its entropy are computed


class Average:
    """The mean of class probabilities, added up prediction by prediction.

    Args:
        classes: Number K of classes.
        shape: Of a map.
        with_variance: Also add up the squares, from which the variance follows.

    >>> average = Average(2, (1, 1, 1), with_variance=True)
    >>> for share in (0.25, 0.75):
    ...     average.add(np.full((1, 1, 1), p, np.float32) for p in (share, 1 - share))
    >>> mean, variance = average.finalise()
    >>> mean.ravel().tolist(), variance.item()
    ([0.5, 0.5], 0.0625)
    """

    def __init__(self, classes: int, shape: Int3, *, with_variance: bool = False) -> None:
        self._sums = np.zeros((classes, *shape), np.float32)
        self._squares = np.zeros(shape, np.float32) if with_variance else None
        self._count = 0

    def add(self, prediction: Iterable[Maps]) -> None:
        """Add the ``(X, Y, Z)`` maps of all classes; each is read once."""
        self._count += 1
        for label, probability in enumerate(prediction):
            self._sums[label] += probability
            if self._squares is not None:
                self._squares += probability * probability

    def finalise(self) -> tuple[Maps, Maps | None]:
        """Mean and variance, made in place: nothing can be added afterwards.

        Returns:
            ``(K, X, Y, Z)``; and ``(X, Y, Z)``, the variance over the predictions (n in the
            denominator) as a mean over the classes, or None.
        """
        mean, variance = self._sums, self._squares
        mean /= np.float32(self._count)
        if variance is not None:
            variance /= np.float32(self._count)
            for class_mean in mean:
                variance -= class_mean * class_mean
            np.maximum(variance, 0, out=variance)
            variance /= np.float32(len(mean))
        return mean, variance


def entropy(probabilities: Maps) -> Maps:
    """``(X, Y, Z)``: entropy of the classes, 0 where a class is certain, 1 where all are equal.

    Voxels that were not predicted, with probability 0 for every class, have entropy 0.

    Args:
        probabilities: ``(K, X, Y, Z)``.

    >>> voxels = np.array([[1, 0.5, 0], [0, 0.5, 0]], np.float32).reshape(2, 1, 1, 3)
    >>> entropy(voxels).ravel().round(3).tolist()
    [0.0, 1.0, 0.0]
    """
    result = np.zeros(probabilities.shape[1:], np.float32)
    for probability in probabilities:
        logarithms = np.maximum(probability, np.finfo(np.float32).tiny)
        np.log(logarithms, out=logarithms)
        logarithms *= probability
        result -= logarithms
    result /= np.log(np.float32(len(probabilities)))
    return result


def softmax(scores: Maps) -> Maps:
    """``(K, X, Y, Z)`` probabilities of scores, made in place.

    >>> scores = np.log(np.array([1, 3], np.float32)).reshape(2, 1, 1, 1)
    >>> softmax(scores).ravel().round(3).tolist()
    [0.25, 0.75]
    """
    scores -= scores.max(0)
    np.exp(scores, out=scores)
    scores /= scores.sum(0)
    return scores


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of the axes along which a case is mirrored, none first.

    >>> mirrorings([2, 0])
    [(), (0,), (2,), (0, 2)]
    """
    choices = product(*([(), (axis,)] for axis in sorted(set(axes))))
    return sorted((sum(choice, ()) for choice in choices), key=lambda combo: (len(combo), combo))


def mirrored(array: NDArray[Scalar], axes: Sequence[int]) -> NDArray[Scalar]:
    """``(..., X, Y, Z)`` reversed along some of its last three axes; its own inverse.

    >>> mirrored(np.arange(6).reshape(1, 2, 3), [2]).tolist()
    [[[2, 1, 0], [5, 4, 3]]]
    """
    return np.flip(array, tuple(axis - 3 for axis in axes)) if axes else array
