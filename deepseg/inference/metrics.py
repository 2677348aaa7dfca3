"""Agreement of a segmentation with the truth: overlap, surface distances and volumes.

Nothing here imports torch, and nothing here knows files, sessions or networks.

Rules for empty masks, the same for a case, a class, a group and a stream of samples. A number that
is undefined is None; it is counted, and never enters a mean as 0 or NaN.

* nothing predicted and nothing true: Dice is None, because there was nothing to find;
* only one of the two: Dice is 0 (DeepMedic leaves such a case out if nothing is true);
* nothing predicted: precision is None; nothing true: sensitivity is None; everything true:
  specificity is None;
* either of the two empty: both surface distances are None.

The surface of a mask are those of its voxels that have one of their 6 neighbours outside it; the
outside of the image counts as outside. Every surface voxel of one mask has a distance to the
nearest surface voxel of the other, measured from centre to centre in millimetres, also where the
axes of the grid are not at right angles (a tilted gantry). With the two sets of distances, one per
direction:

* ``hausdorff95_mm`` is the larger of the 95th percentiles of the two sets (interpolated linearly);
* ``surface_distance_mm`` is the mean of both sets taken together (average symmetric distance).

A lesion is a component of the truth whose voxels touch by faces, edges or corners (26 neighbours).
It is found if at least one of its voxels is predicted, else missed; a component of the prediction
without a single true voxel is a false one. One that covers two lesions finds both.

These are the definitions of MONAI and of the sources. Tools that weight surfaces by area, or take
one percentile of both sets together, give other values.

Sources: A. A. Taha, A. Hanbury, "Metrics for evaluating 3D medical image segmentation: analysis,
selection, and tool", BMC Medical Imaging, 2015, doi:10.1186/s12880-015-0068-x; L. Maier-Hein,
A. Reinke et al., "Metrics reloaded: recommendations for image analysis validation", Nature
Methods, 2024, doi:10.1038/s41592-023-02151-z.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from deepseg.inference.metric_registry import measured

Mask: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.integer[Any]]

FOREGROUND = "foreground"

_TOUCHING = np.ones((3, 3, 3), bool)  # the 26 neighbours of a voxel, and itself
_RIGHT_ANGLE = 1e-4  # cosine between two axes, up to which they count as perpendicular


@dataclass(frozen=True)
class Counts:
    """Voxels of one class. Python integers: whole trainings can be added up.

    Attributes:
        true_positives: Predicted and true.
        predicted: Predicted, rightly or not.
        true: Of this class in the truth.
        total: Evaluated voxels, of all classes.

    >>> counts = Counts(true_positives=3, predicted=4, true=6, total=20)
    >>> counts.dice, counts.precision, counts.sensitivity
    (0.6, 0.75, 0.5)
    >>> counts.true_negatives, counts.accuracy
    (13, 0.8)
    """

    true_positives: int
    predicted: int
    true: int
    total: int

    @property
    def true_negatives(self) -> int:
        """Voxels that are neither predicted nor true."""
        return self.total - self.predicted - self.true + self.true_positives

    @property
    def dice(self) -> float | None:
        """Overlap of prediction and truth over their mean size."""
        return _ratio(2 * self.true_positives, self.predicted + self.true)

    @property
    def precision(self) -> float | None:
        """Part of the prediction that is true."""
        return _ratio(self.true_positives, self.predicted)

    @property
    def sensitivity(self) -> float | None:
        """Part of the truth that is predicted."""
        return _ratio(self.true_positives, self.true)

    @property
    def specificity(self) -> float | None:
        """Part of the voxels outside the truth that are not predicted either."""
        return _ratio(self.true_negatives, self.total - self.true)

    @property
    def accuracy(self) -> float | None:
        """Part of all voxels on which prediction and truth agree."""
        return _ratio(self.true_positives + self.true_negatives, self.total)

    def add(self, other: Counts) -> Counts:
        """The counts of both."""
        return Counts(
            self.true_positives + other.true_positives,
            self.predicted + other.predicted,
            self.true + other.true,
            self.total + other.total,
        )


@dataclass(frozen=True)
class Confusion:
    """Counts of all classes in training or validation samples; sub-epochs are added up.

    Attributes:
        classes: Counts of every class, the background (label 0) first.
    """

    classes: tuple[Counts, ...]

    @staticmethod
    def empty(number_of_classes: int) -> Confusion:
        """Counts of no voxels, to which the first samples are added."""
        return Confusion((Counts(0, 0, 0, 0),) * number_of_classes)

    @staticmethod
    def of(prediction: Labels, truth: Labels, *, number_of_classes: int) -> Confusion:
        """Count voxels by label; those whose truth is negative are unknown and left out.

        Args:
            prediction: Labels below ``number_of_classes``, of any shape.
            truth: The same shape and labels.

        >>> confusion = Confusion.of(
        ...     np.array([0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, -1]), number_of_classes=3
        ... )
        >>> [counts.dice for counts in confusion.classes], confusion.accuracy
        ([1.0, 0.6666666666666666, 0.6666666666666666], 0.75)
        """
        labelled = truth >= 0
        if not labelled.all():
            prediction, truth = prediction[labelled], truth[labelled]
        pairs = np.multiply(truth, number_of_classes, dtype=np.int64)
        pairs += prediction
        square = (number_of_classes, number_of_classes)
        table = np.bincount(pairs.ravel(), minlength=number_of_classes**2).reshape(square)
        return Confusion.of_table(table)

    @staticmethod
    def of_table(table: NDArray[np.integer[Any]]) -> Confusion:
        """Counts from voxels ``(K, K)`` by label and prediction.

        >>> [counts.predicted for counts in Confusion.of_table(np.array([[5, 1], [2, 3]])).classes]
        [7, 4]
        """
        agreed, predicted, true = table.diagonal(), table.sum(0), table.sum(1)
        counts = zip(agreed.tolist(), predicted.tolist(), true.tolist(), strict=True)
        total = int(table.sum())
        return Confusion(tuple(Counts(a, p, t, total) for a, p, t in counts))

    @property
    def foreground(self) -> Counts:
        """Counts of all labels above 0 together, against the background."""
        background = self.classes[0]
        return Counts(
            background.true_negatives,
            background.total - background.predicted,
            background.total - background.true,
            background.total,
        )

    @property
    def accuracy(self) -> float | None:
        """Part of all voxels that got their own label; None before the first voxel."""
        return _ratio(sum(c.true_positives for c in self.classes), self.classes[0].total)

    def rows(self, classes: Sequence[str]) -> dict[str, Counts]:
        """``foreground``, then every foreground class by name; ``classes`` as in `class_scores`."""
        return {
            FOREGROUND: self.foreground,
            **dict(zip(classes[1:], self.classes[1:], strict=True)),
        }

    def add(self, other: Confusion) -> Confusion:
        """The counts of both."""
        return Confusion(tuple(a.add(b) for a, b in zip(self.classes, other.classes, strict=True)))


@dataclass(frozen=True)
class Scores:
    """Agreement on one class, or named group of classes, in one case; None where undefined.

    Attributes:
        hausdorff95_mm: Larger of the 95th percentiles of the distances in the two directions.
        surface_distance_mm: Average symmetric surface distance.
        predicted_ml: Volume of the prediction.
        true_ml: Volume of the truth.
        lesions_found: Components of the truth that the prediction touches.
        lesions_missed: Other components of the truth.
        lesions_false: Components of the prediction that do not touch the truth.
        custom: Values of registered metrics by name.
    """

    dice: float | None
    precision: float | None
    sensitivity: float | None
    specificity: float | None
    hausdorff95_mm: float | None
    surface_distance_mm: float | None
    predicted_ml: float
    true_ml: float
    lesions_found: int | None = None
    lesions_missed: int | None = None
    lesions_false: int | None = None
    custom: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float | int | None]:
        """Every measure by its name, the registered metrics last."""
        return {**{name: getattr(self, name) for name in MEASURES}, **self.custom}

    def record(self) -> dict[str, Any]:
        """The fields as plain values, of which `Scores` makes an equal one."""
        values = asdict(self)
        return values if self.custom else {name: values[name] for name in MEASURES}


MEASURES = tuple(field.name for field in fields(Scores) if field.name != "custom")


def scores(
    prediction: Mask,
    truth: Mask,
    *,
    spacing_mm: Sequence[float],
    axes_mm: NDArray[np.floating[Any]] | None = None,
    roi: NDArray[Any] | None = None,
    metrics: Sequence[str] = (),
) -> Scores:
    """Compare two masks by the definitions at the top of this module.

    Args:
        prediction: ``(X, Y, Z)`` bool.
        truth: ``(X, Y, Z)`` bool.
        spacing_mm: Distance of voxel centres along X, Y, Z.
        axes_mm: Steps to the next voxel along X, Y, Z, the columns of ``(3, 3)``, for axes that may
            not be at right angles; None for those that are.
        roi: ``(X, Y, Z)``, true or above 0 inside the region of interest; the rest of the image is
            not evaluated. None for everywhere.
        metrics: Names of registered metrics that are measured too.

    >>> prediction, truth = np.zeros((2, 4, 5, 6), bool)
    >>> prediction[1, 1, 1] = truth[1, 1, 3] = True
    >>> scored = scores(prediction, truth, spacing_mm=(1, 1, 1.5))
    >>> scored.dice, scored.surface_distance_mm, scored.hausdorff95_mm, scored.true_ml
    (0.0, 3.0, 3.0, 0.0015)
    """
    axes = np.diag(np.asarray(spacing_mm, float)) if axes_mm is None else axes_mm
    total = truth.size
    if roi is not None:
        inside = roi > 0
        prediction, truth, total = prediction & inside, truth & inside, int(inside.sum())
    true_positives, predicted, true = (
        int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth)
    )
    counts = Counts(true_positives, predicted, true, total)
    hausdorff95_mm, surface_distance_mm = None, None
    if predicted and true:
        hausdorff95_mm, surface_distance_mm = _distances_mm(prediction, truth, axes)
    volume_mm3 = np.prod(spacing_mm) if axes_mm is None else abs(np.linalg.det(axes_mm))
    volume_ml = float(volume_mm3) / 1000
    hits, missed, false = lesion_counts(prediction, truth)
    return Scores(
        dice=counts.dice,
        precision=counts.precision,
        sensitivity=counts.sensitivity,
        specificity=counts.specificity,
        hausdorff95_mm=hausdorff95_mm,
        surface_distance_mm=surface_distance_mm,
        predicted_ml=predicted * volume_ml,
        true_ml=true * volume_ml,
        lesions_found=hits,
        lesions_missed=missed,
        lesions_false=false,
        custom=measured(metrics, prediction, truth, spacing_mm=spacing_mm),
    )


def lesion_counts(prediction: Mask, truth: Mask) -> tuple[int, int, int]:
    """Lesions that are found, that are missed, and false ones, as defined at the top.

    Args:
        prediction: ``(X, Y, Z)`` bool.
        truth: ``(X, Y, Z)`` bool.

    >>> truth, prediction = np.zeros((2, 1, 1, 9), bool)
    >>> truth[..., [0, 1, 4]] = prediction[..., [1, 6, 8]] = True
    >>> lesion_counts(prediction, truth)
    (1, 1, 2)
    """
    occupied = prediction | truth
    if not occupied.any():
        return 0, 0, 0
    box = _bounding_box(occupied)
    true, lesions = ndimage.label(truth[box], _TOUCHING)
    predicted, components = ndimage.label(prediction[box], _TOUCHING)
    both = prediction[box] & truth[box]
    hits, right = np.unique(true[both]).size, np.unique(predicted[both]).size
    return hits, lesions - hits, components - right


def class_scores(
    segmentation: Labels,
    truth: Labels,
    *,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    spacing_mm: Sequence[float],
    axes_mm: NDArray[np.floating[Any]] | None = None,
    roi: NDArray[Any] | None = None,
    metrics: Sequence[str] = (),
) -> dict[str, Scores]:
    """Scores of the whole foreground, of every foreground class, and of every group, in this order.

    Voxels whose truth is negative are unknown and left out, like those outside ``roi``.

    Args:
        segmentation: ``(X, Y, Z)`` labels.
        truth: ``(X, Y, Z)`` labels.
        classes: Name of every label, the background (label 0) first. Distinct from group names.
        groups: Labels that together make one region, such as ``{"whole": [1, 2, 3, 4]}``.
        spacing_mm: Distance of voxel centres along X, Y, Z.
        axes_mm: Steps to the next voxel along X, Y, Z, the columns of ``(3, 3)``, for axes that may
            not be at right angles; None for those that are.
        roi: ``(X, Y, Z)``, true or above 0 inside the region of interest; None for everywhere.
        metrics: Names of registered metrics that are measured too.

    >>> truth = np.array([[[0, 1, 2, 2]]])
    >>> rows = class_scores(
    ...     np.array([[[0, 2, 2, 2]]]), truth, classes=["background", "rim", "core"],
    ...     groups={"whole": [1, 2]}, spacing_mm=(1, 1, 1),
    ... )
    >>> {name: row.dice for name, row in rows.items()}
    {'foreground': 1.0, 'rim': 0.0, 'core': 0.8, 'whole': 1.0}
    """
    labelled = truth >= 0
    evaluated = labelled if roi is None else labelled & (roi > 0)
    compare = partial(
        scores, spacing_mm=spacing_mm, axes_mm=axes_mm, roi=evaluated, metrics=metrics
    )
    rows = {FOREGROUND: compare(segmentation > 0, truth > 0)}
    regions = {name: [label] for label, name in enumerate(classes) if label > 0}
    for name, labels in {**regions, **groups}.items():
        rows[name] = compare(np.isin(segmentation, list(labels)), np.isin(truth, list(labels)))
    return rows


def mean_dice(rows: Mapping[str, Scores], classes: Sequence[str]) -> float | None:
    """Mean Dice of ``classes``, of those for which it is defined; None if it is for none.

    Args:
        rows: Scores of a case by name.
        classes: Names of the foreground classes.
    """
    dice = (rows[name].dice for name in classes if name in rows)
    defined = [value for value in dice if value is not None]
    return statistics.fmean(defined) if defined else None


def summary(
    per_case: Mapping[str, Mapping[str, Scores]],
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Statistics of every measure of every row, over the cases in which it is defined.

    Args:
        per_case: Results of `class_scores` by name of the case.

    Returns:
        Per row, per measure (of `Scores.values`): ``mean`` and ``median``, None if no case
        defines them; ``standard_deviation`` (of the sample, n - 1), None below two cases;
        ``defined`` and ``undefined``, numbers of cases.

    >>> mask, empty = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    >>> pairs = {"anna": (mask, mask), "ben": (empty, mask), "carl": (empty, empty)}
    >>> cases = {n: {"a": scores(p, t, spacing_mm=(1, 1, 1))} for n, (p, t) in pairs.items()}
    >>> dice = summary(cases)["a"]["dice"]
    >>> dice["mean"], dice["defined"], dice["undefined"]
    (0.5, 2, 1)
    """
    names = dict.fromkeys(name for rows in per_case.values() for name in rows)
    by_row = {name: [rows[name] for rows in per_case.values() if name in rows] for name in names}
    return {
        name: {
            measure: _statistics([case.values.get(measure) for case in cases])
            for measure in measure_names(cases)
        }
        for name, cases in by_row.items()
    }


def measure_names(rows: Iterable[Scores]) -> tuple[str, ...]:
    """Names of the measures of ``rows``, those of registered metrics last, in their order."""
    return (*MEASURES, *dict.fromkeys(name for scored in rows for name in scored.custom))


def _statistics(values: Sequence[float | None]) -> dict[str, float | int | None]:
    defined = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "median": statistics.median(defined) if defined else None,
        "standard_deviation": statistics.stdev(defined) if len(defined) > 1 else None,
        "defined": len(defined),
        "undefined": len(values) - len(defined),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _distances_mm(
    prediction: Mask, truth: Mask, axes_mm: NDArray[np.floating[Any]]
) -> tuple[float, float]:
    """95 % Hausdorff and average symmetric surface distance of two masks that are not empty."""
    # Nearest surface voxels lie in the box around both masks: the rest need not be transformed.
    box = _bounding_box(prediction | truth)
    predicted, true = _surface(prediction[box]), _surface(truth[box])
    nearest = _nearest_at_right_angles if _are_perpendicular(axes_mm) else _nearest_on_any_axes
    to_true, to_predicted = nearest(predicted, true, axes_mm), nearest(true, predicted, axes_mm)
    hausdorff95 = max(np.percentile(to_true, 95), np.percentile(to_predicted, 95))
    return float(hausdorff95), float(np.concatenate([to_true, to_predicted]).mean())


def _are_perpendicular(axes_mm: NDArray[np.floating[Any]]) -> bool:
    """True if a step along one axis does not move along another.

    >>> _are_perpendicular(np.diag([1, 2, 3]))
    True
    >>> _are_perpendicular(np.array([[1, 0, 0], [0, 1, 0.5], [0, 0, 1]]))
    False
    """
    directions = axes_mm / np.linalg.norm(axes_mm, axis=0)
    cosines = directions.T @ directions - np.eye(3)
    return bool(np.abs(cosines).max() <= _RIGHT_ANGLE)


def _nearest_at_right_angles(
    sources: Mask, targets: Mask, axes_mm: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Distance from every voxel of ``sources`` to the nearest of ``targets``, by a transform."""
    spacing_mm = np.linalg.norm(axes_mm, axis=0)
    distances = ndimage.distance_transform_edt(~targets, sampling=spacing_mm)
    return np.asarray(distances[sources])


def _nearest_on_any_axes(
    sources: Mask, targets: Mask, axes_mm: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Distance from every voxel of ``sources`` to the nearest of ``targets``, found in a tree."""
    source_mm, target_mm = (np.argwhere(mask) @ axes_mm.T for mask in (sources, targets))
    return np.asarray(cKDTree(target_mm).query(source_mm)[0])


def _surface(mask: Mask) -> Mask:
    """Voxels of ``mask`` with a 6-neighbour outside it or outside the array."""
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Smallest box around a mask that is not empty."""
    occupied = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(int(where[0]), int(where[-1]) + 1) for where in occupied)
