"""The cases that a session trains on: their preparation, and the record that the model keeps."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.summary import CaseSummary, Intensity
from deepseg.inference.cohort_differences import Comparison, turned_spacing
from deepseg.model.checkpoint import Checkpoint, IntensityRange, TrainingCohort


def decides_orientation(preparation: Preparation, model: Checkpoint) -> bool:
    """All cases are turned to one orientation; not in sessions that began without."""
    return (
        model.training is None or inherited_preparation(preparation, model).orientation is not None
    )


def inherited_preparation(preparation: Preparation, model: Checkpoint) -> Preparation:
    """The preparation with the model's orientation, unless it has one.

    Where a train file says nothing, cases of a model that comes from nnU-Net are prepared as that
    was.
    """
    learnt = model.preparation
    if learnt is not None and learnt.nnunet is not None and preparation == Preparation():
        return learnt
    if preparation.orientation is not None or learnt is None or learnt.orientation is None:
        return preparation
    return preparation.model_copy(update={"orientation": learnt.orientation})


def session_preparation(
    preparation: Preparation, model: Checkpoint, orientations: Sequence[str | None]
) -> Preparation:
    """The preparation with an orientation: its own, the model's, or that of most cases.

    Args:
        preparation: Of the train file.
        model: With which the session begins, or from which it goes on.
        orientations: Of the cases to learn from.
    """
    inherited = inherited_preparation(preparation, model)
    if inherited.nnunet is not None:
        return inherited  # nnU-Net turns no axes
    if inherited.orientation is not None or not decides_orientation(preparation, model):
        return inherited
    return inherited.model_copy(update={"orientation": most_common(orientations)})


def most_common(orientations: Sequence[str | None]) -> str | None:
    """The orientation of most cases; of several, that of the first case with one of them.

    >>> most_common(["RAS", "LPS", None, "LPS", "RAS"])
    'RAS'
    """
    counts = Counter(letters for letters in orientations if letters is not None)
    return counts.most_common(1)[0][0] if counts else None


def training_comparison(config: TrainConfig, model: Checkpoint) -> Comparison:
    """Compares cases of a session with those that its model has learnt from before."""
    return Comparison(
        model=str(model.origin),
        cohort=model.cohort,
        preparation=inherited_preparation(config.preparation, model),
        accepted=config.accept,
        key="accept",
    )


def training_cohort(
    cases: Sequence[CaseSummary], preparation: Preparation, network: ModelConfig
) -> TrainingCohort:
    """The record of ``cases``, which are at least one.

    Args:
        cases: As they were checked.
        preparation: Of the session; its voxel size is what the network sees.
        network: Whose channels and classes they have.
    """
    first, spacing_mm = cases[0], preparation.spacing_mm
    if spacing_mm is None:
        spacing_mm = turned_spacing(first.spacing_mm, first.orientation, preparation)
    missing = {index for case in cases for index in case.missing_channels}
    masked = sum(case.roi_voxels is not None for case in cases)
    shares = _class_shares(cases, network.classes)
    return TrainingCohort(
        spacing_mm=spacing_mm,
        orientations=tuple(
            sorted({case.orientation for case in cases if case.orientation is not None})
        ),
        has_roi=masked == len(cases),
        missing_channels=tuple(network.channels[index] for index in sorted(missing)),
        foreground_share=None if shares is None else sum(list(shares.values())[1:]),
        roi_share=masked / len(cases),
        class_shares=shares,
        intensity=_intensity_ranges(cases, network.channels),
        images=tuple(sorted({image_digest(case) for case in cases if case.images is not None})),
    )


def known_images(cohort: TrainingCohort, before: TrainingCohort | None) -> tuple[str, ...]:
    """Digests of the cases of a session and of all that its model has learnt from before.

    >>> known_images(TrainingCohort(images=("a", "c")), TrainingCohort(images=("b", "c")))
    ('a', 'b', 'c')
    """
    earlier = () if before is None else before.images or ()
    return tuple(sorted({*(cohort.images or ()), *earlier}))


def image_digest(case: CaseSummary) -> str:
    """Sixteen hex digits that are the same for cases with the same images."""
    return hashlib.blake2b((case.images or "").encode(), digest_size=8).hexdigest()


def learnt_cases(cases: Sequence[CaseSummary], model: Checkpoint) -> list[str]:
    """Names of the cases that ``model`` was trained on, whatever they were called there."""
    digests = () if model.cohort is None else model.cohort.images or ()
    return [case.name for case in cases if case.images and image_digest(case) in digests]


def learnt_columns(cohorts: Sequence[TrainingCohort | None]) -> tuple[str, ...]:
    """Names of the columns of a model's training cases; none where its channels have names.

    Args:
        cohorts: Of all models that see the same cases.
    """
    columns = [cohort.columns for cohort in cohorts if cohort is not None and cohort.columns]
    return columns[0] if columns else ()


def _class_shares(cases: Sequence[CaseSummary], classes: Sequence[str]) -> dict[str, float] | None:
    counts = [case.class_voxels for case in cases if case.class_voxels is not None]
    whole = sum(map(sum, counts))
    if not whole:
        return None
    sums = [sum(voxels) for voxels in zip(*counts, strict=True)]
    return {name: voxels / whole for name, voxels in zip(classes, sums, strict=True)}


def _intensity_ranges(
    cases: Sequence[CaseSummary], channels: Sequence[str]
) -> dict[str, IntensityRange]:
    ranges = {}
    for index, name in enumerate(channels):
        values = [case.intensity[index] for case in cases]
        present = [intensity for intensity in values if intensity is not None]
        if present:
            ranges[name] = _intensity_range(present)
    return ranges


def _intensity_range(cases: Sequence[Intensity]) -> IntensityRange:
    return IntensityRange(
        minimum=min(case.minimum for case in cases),
        low=min(case.low for case in cases),
        high=max(case.high for case in cases),
        mean=sum(case.mean for case in cases) / len(cases),
        deviation=sum(case.deviation for case in cases) / len(cases),
    )
