"""Metrics that a program has registered, which its train and test files can name.

They are functions of this process. A process that another one starts, such as those of
``-devices``, knows only what it registers itself. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.registration import raise_if_unusable
from deepseg.errors import DeepsegError, Problem, did_you_mean

MetricFunction = Callable[[NDArray[np.bool_], NDArray[np.bool_], tuple[float, float, float]], Any]

RESERVED = (
    *("dice", "precision", "sensitivity", "specificity", "accuracy", "loss", "mean", "foreground"),
    *("hausdorff95_mm", "surface_distance_mm", "predicted_ml", "true_ml", "cases", "custom"),
    *("lesions_found", "lesions_missed", "lesions_false", "case"),
)


@dataclass(frozen=True)
class _Metric:
    function: MetricFunction
    lower_is_better: bool


_registered: dict[str, _Metric] = {}


def register_metric(name: str, function: MetricFunction, *, lower_is_better: bool = False) -> None:
    """Let train and test files of this process name a metric of whole cases.

    It is measured for the foreground, every class and every group, where a test file lists it under
    ``metrics``, or a train file under ``validation.volumes.metrics``.

    >>> def volume_error_ml(prediction, truth, spacing_mm):
    ...     voxels = abs(int(prediction.sum()) - int(truth.sum()))
    ...     return voxels * spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / 1000
    >>> register_metric("volume_error_ml", volume_error_ml, lower_is_better=True)
    >>> masks = np.ones((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    >>> measured(["volume_error_ml"], *masks, spacing_mm=(1, 1, 2))
    {'volume_error_ml': 0.048}

    Args:
        name: A word; a metric of this name that was registered before is replaced.
        function: Of the masks ``(X, Y, Z)`` of prediction and truth and the voxel size in mm along
            X, Y, Z; gives a number, or None or NaN where it is undefined. Voxels that nobody has
            labelled are in neither mask.
        lower_is_better: For the choice of the best model.

    Raises:
        DeepsegError: ``metric-name`` for a name that is no word or that deepseg uses itself, or
            something that is no function.
    """
    raise_if_unusable(
        name,
        function,
        code="metric-name",
        expected="a name of letters, digits and underscores that is not that of a measure of "
        "deepseg, and a function for it",
        fix="choose such a name, and give a function of prediction, truth and spacing_mm",
        reserved=RESERVED,
    )
    _registered[name] = _Metric(function, lower_is_better)


def unregistered_metrics(names: Iterable[str], *, key: str) -> Iterator[Problem]:
    """A problem for every name under which this process has registered no metric.

    Args:
        names: In the settings.
        key: That holds them.
    """
    registered = ", ".join(sorted(_registered)) or "none"
    for name in names:
        if name not in _registered:
            yield Problem(
                code="metric-unregistered",
                got=f"{name!r} in {key}",
                expected=f"a metric that this process has registered: {registered}",
                fix="call deepseg.register_metric in the same Python process before the session; "
                "Dice, distances and lesions are always measured" + did_you_mean(name, _registered),
            )


def is_lower_better(name: str) -> bool:
    """True for a registered metric that is better the lower it is."""
    return name in _registered and _registered[name].lower_is_better


def measured(
    names: Iterable[str],
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
) -> dict[str, float | None]:
    """The values of registered metrics; None where they are undefined.

    Args:
        names: Of the metrics.
        prediction: ``(X, Y, Z)``.
        truth: ``(X, Y, Z)``.
        spacing_mm: Voxel size along X, Y, Z.

    Raises:
        DeepsegError: ``metric-value`` for anything but a number.
    """
    x, y, z = (float(mm) for mm in spacing_mm)
    return {
        name: _number(_registered[name].function(prediction, truth, (x, y, z)), name)
        for name in names
    }


def fingerprints(names: Iterable[str]) -> Mapping[str, str]:
    """Hashes of the source of registered metrics, by which results of older ones are told."""
    return {
        name: hashlib.sha256(_source(_registered[name].function).encode()).hexdigest()
        for name in names
        if name in _registered
    }


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DeepsegError(
            Problem(
                code="metric-value",
                got=f"{repr(value)[:100]} of the registered metric {name!r}",
                expected="a number, or None where the metric is undefined",
                fix="correct the function",
            )
        ) from None
    return number if math.isfinite(number) else None


def _source(function: MetricFunction) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # made at a prompt, or an object that can be called
        return getattr(function, "__qualname__", type(function).__qualname__)
