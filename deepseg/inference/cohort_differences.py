"""The one comparison of cases with those that a model has learnt from.

A model is right about cases like its training cases. A difference that would make it wrong without
a word is a problem, which a key accepts; one that may make it worse is a warning. A model that does
not remember its training cases, such as an imported one, is compared with nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deepseg.config.cases import AcceptedDifference, Preparation, ZScore
from deepseg.counts import counted
from deepseg.data.cases.case import Case
from deepseg.data.cases.summary import CaseSummary, Intensity
from deepseg.data.images.orientation import Reorientation
from deepseg.errors import Problem
from deepseg.model.checkpoint import IntensityRange, Spacing, TrainingCohort

SAME_SPACING = 1.05  # ratio up to which voxel sizes count as the same
SAME_SCALE = 5.0  # ratio up to which ranges of intensities may be of one kind
OUTLYING = 20.0  # standard deviations, in ranges of nearly all voxels, that few voxels must cause
PADDING_SHARE = 0.001  # of the voxels, from which a value below all others counts as padding
PADDING_GAP = 0.5  # from it to the next value, in ranges of nearly all other voxels
LISTED = 5  # names in a message


@dataclass(frozen=True)
class CaseTraits:
    """Properties of a case that are compared.

    Attributes:
        name: Of the case.
        where: File and line that list it; "" from Python.
        has_mask: A mask of the region of interest is given.
        missing_channels: By name.
        spacing_mm: Sides of its voxels along X, Y, Z.
        orientation: Where X, Y, Z grow to; None if that is unknown.
        intensity: By name of the channel.
    """

    name: str
    where: str = ""
    has_mask: bool = False
    missing_channels: tuple[str, ...] = ()
    spacing_mm: Spacing | None = None
    orientation: str | None = None
    intensity: Mapping[str, Intensity] = field(default_factory=dict)


def case_traits(case: Case, summary: CaseSummary, channels: Sequence[str]) -> CaseTraits:
    """The properties of a case of a list.

    Args:
        case: Its files.
        summary: Of their content.
        channels: Names of the model's channels.
    """
    return replace(
        listed_traits(case, channels),
        spacing_mm=summary.spacing_mm,
        orientation=summary.orientation,
        intensity={
            name: intensity
            for name, intensity in zip(channels, summary.intensity, strict=False)  # () if unread
            if intensity is not None
        },
    )


def listed_traits(case: Case, channels: Sequence[str]) -> CaseTraits:
    """The properties of a case of a list that are known before its files are read.

    Args:
        case: Its files.
        channels: Names of the model's channels.
    """
    files = zip(channels, case.channels, strict=True)
    return CaseTraits(
        name=case.name,
        where=case.where,
        has_mask=case.roi is not None,
        missing_channels=tuple(name for name, path in files if path is None),
    )


@dataclass(frozen=True)
class Comparison:
    """Compares cases with those that a model has learnt from.

    Attributes:
        model: The model, in words.
        cohort: Its training cases; None if it does not remember them.
        preparation: Of the cases that are compared.
        accepted: Differences that the user accepts.
        key: That accepts them.
    """

    model: str
    cohort: TrainingCohort | None
    preparation: Preparation
    accepted: Sequence[AcceptedDifference] = ()
    key: str = "inference.accept"

    def problems(self, cases: Sequence[CaseTraits]) -> Iterator[Problem]:
        """Differences that make a model wrong without a word, a problem for each kind."""
        if self.cohort is not None:
            yield from self._missing_rois(cases)
            yield from self._missing_channels(cases)

    def warnings(self, cases: Sequence[CaseTraits]) -> Iterator[str]:
        """Differences that may make a model worse, a line for each kind."""
        yield from self._spacings(cases)
        yield from self._unknown_rois(cases)
        learnt = {} if self.cohort is None else self.cohort.intensity or {}
        for name in dict.fromkeys(name for case in cases for name in case.intensity):
            present = {case.name: case.intensity[name] for case in cases if name in case.intensity}
            yield from self._outliers(name, present)
            yield from self._padding(name, present, learnt.get(name))
            if name in learnt and not self.preparation.normalises(name):
                yield from self._scales(name, present, learnt[name])

    def _missing_rois(self, cases: Sequence[CaseTraits]) -> Iterator[Problem]:
        assert self.cohort is not None
        lacking = [case for case in cases if not case.has_mask]
        is_replaced = self.preparation.roi is not None or "roi" in self.accepted
        if self.cohort.has_roi and lacking and not is_replaced:
            yield Problem(
                code="roi-missing",
                got=f"no ROI for {_names(lacking, cases)}",
                expected=f"a ROI for every case, as all training cases of {self.model} have one",
                fix="give the masks (a dataset.json has none: use a table); or write "
                "'preparation: {roi: nonzero}' for masks of the voxels that are not 0; or accept "
                f"whole images with '{self.key}: [roi]'",
                where=lacking[0].where,
            )

    def _missing_channels(self, cases: Sequence[CaseTraits]) -> Iterator[Problem]:
        assert self.cohort is not None
        if self.cohort.missing_channels is None or "channels" in self.accepted:
            return
        for name in dict.fromkeys(name for case in cases for name in case.missing_channels):
            if name in self.cohort.missing_channels:
                continue
            lacking = [case for case in cases if name in case.missing_channels]
            yield Problem(
                code="channel-lacking",
                got=f"no image of channel {name} for {_names(lacking, cases)}",
                expected=f"{name} for every case: no training case of {self.model} lacks it",
                fix=f"give the images; or accept 0 in their place with '{self.key}: [channels]'",
                where=lacking[0].where,
            )

    def _unknown_rois(self, cases: Sequence[CaseTraits]) -> Iterator[str]:
        masked = [case for case in cases if case.has_mask]
        is_normalised = self.preparation.z_score != "none"
        if self.cohort is not None and self.cohort.roi_share == 0 and masked and is_normalised:
            yield (
                f"a ROI for {_names(masked, cases)}, where z-scores are taken; the training cases "
                f"of {self.model} have none: expect a worse segmentation"
            )

    def _spacings(self, cases: Sequence[CaseTraits]) -> Iterator[str]:
        """Cases of another voxel size than the model learnt with, where nothing is resampled."""
        learnt = None if self.cohort is None else self.cohort.spacing_mm
        if learnt is None or self.preparation.resample is not None:
            return
        other = {}
        for case in cases:
            sides = turned_spacing(case.spacing_mm, case.orientation, self.preparation)
            if sides is not None and _ratio(sides, learnt) > SAME_SPACING:
                other[case.name] = sides
        if other:
            name, sides = next(iter(other.items()))
            count = len(other) - 1
            more = f" and {counted(count, 'more case has others', 'more cases have others')}"
            more = more if count else ""
            yield (
                f"{name} has voxels of {_mm(sides)}{more}, the model learnt with {_mm(learnt)}: "
                "expect a worse segmentation, or train with the key 'resample'"
            )

    def _outliers(self, channel: str, cases: Mapping[str, Intensity]) -> Iterator[str]:
        """Few voxels so far away that the z-score makes all others equal."""
        z_score = self.preparation.z_score
        if not isinstance(z_score, ZScore) or not self.preparation.normalises(channel):
            return
        if z_score.cutoff_percentiles is not None or z_score.cutoff_deviations is not None:
            return
        far = {name: values for name, values in cases.items() if _has_outliers(values)}
        if far:
            name, values = next(iter(far.items()))
            spread = values.high - values.low
            farthest = max(values.minimum, values.maximum, key=lambda v: abs(v - values.low))
            yield (
                f"{channel} of {_listed(far)}: a voxel of {name} is {farthest:.6g}, nearly all "
                f"others lie from {values.low:.6g} to {values.high:.6g} and differ by at most "
                f"{spread / values.deviation:.2g} after the z-score; correct the image, or leave "
                "such voxels out by z_score.cutoff_percentiles"
            )

    def _padding(
        self, channel: str, cases: Mapping[str, Intensity], learnt: IntensityRange | None
    ) -> Iterator[str]:
        """Many voxels of one value far below all others, such as -3024 around a CT."""
        padded = {
            name: values
            for name, values in cases.items()
            if _is_padded(values) and (learnt is None or values.minimum < learnt.minimum)
        }
        if padded:
            name, values = next(iter(padded.items()))
            before = (
                "" if learnt is None else f"; in training, {channel} began at {learnt.minimum:.6g}"
            )
            yield (
                f"{channel} of {_listed(padded)}: {values.minimum_share:.2%} of the voxels of "
                f"{name} are {values.minimum:.6g}, all others lie from {values.second:.6g}: they "
                f"look like padding and change what all voxels become{before}; set them to the "
                "value of air, or leave them out by a ROI"
            )

    def _scales(
        self, channel: str, cases: Mapping[str, Intensity], learnt: IntensityRange
    ) -> Iterator[str]:
        """Intensities of another scale than those of training, where nothing is normalised."""
        other = {name: values for name, values in cases.items() if _is_other_scale(values, learnt)}
        if other:
            name, values = next(iter(other.items()))
            yield (
                f"{channel} of {_listed(other)}: intensities of {name} lie from {values.low:.6g} "
                f"to {values.high:.6g}, those of the training cases of {self.model} from "
                f"{learnt.low:.6g} to {learnt.high:.6g}, and {channel} is not normalised: expect a "
                "worse segmentation"
            )


def turned_note(title: str, cases: Sequence[CaseTraits], preparation: Preparation) -> Iterator[str]:
    """A line about cases whose axes are turned for the model.

    >>> case = CaseTraits("anna", orientation="LPS")
    >>> list(turned_note("cases", [case], Preparation(orientation="RAS")))
    ["1 of 1 cases have other axes than the model's RAS (1 LPS): turned for it, and results back"]
    """
    target = preparation.orientation
    counts = Counter(case.orientation for case in cases if case.orientation not in (None, target))
    if target is not None and counts:
        listed = ", ".join(f"{count} {letters}" for letters, count in counts.most_common())
        yield (
            f"{sum(counts.values())} of {len(cases)} {title} have other axes than the model's "
            f"{target} ({listed}): turned for it, and results back"
        )


def turned_spacing(
    spacing_mm: Spacing | None, orientation: str | None, preparation: Preparation
) -> Spacing | None:
    """Sides of voxels along the axes of the prepared case.

    >>> turned_spacing((1.0, 2.0, 3.0), "RAS", Preparation(orientation="SAL"))
    (3.0, 2.0, 1.0)
    """
    if spacing_mm is None or orientation is None or preparation.orientation is None:
        return spacing_mm
    return Reorientation.between(orientation, preparation.orientation).triple(spacing_mm)


def applied_preparation(
    configured: Preparation | None,
    learnt: Preparation | None,
    accepted: Sequence[AcceptedDifference],
) -> Preparation | None:
    """Preparation of cases for a model: as its training cases, with a ROI if one is requested.

    Args:
        configured: By the user; other keys of it count only where the model does not tell, or
            where a difference is accepted.
        learnt: That of the model's training cases; None if it does not tell.
        accepted: By the user.

    >>> applied_preparation(Preparation(roi="nonzero"), Preparation(resample=2), ()).summary
    'z_score, resample 2 x 2 x 2 mm, roi nonzero'
    """
    if configured is None or learnt is None:
        return configured if learnt is None else learnt
    if "preparation" in accepted:
        keys = configured.model_fields_set
        return learnt.model_copy(update={key: getattr(configured, key) for key in keys})
    return learnt if configured.roi is None else learnt.model_copy(update={"roi": configured.roi})


def preparation_problems(
    configured: Preparation | None,
    learnt: Preparation | None,
    accepted: Sequence[AcceptedDifference],
    *,
    model: str,
    fix: str,
) -> Iterator[Problem]:
    """The problem of keys that differ from the preparation of a model's training cases.

    Args:
        configured: By the user; keys that are left out are the model's.
        learnt: That of the model's training cases; None if it does not tell.
        accepted: By the user.
        model: In words.
        fix: What to do.
    """
    if configured is None or learnt is None or "preparation" in accepted:
        return
    different = {
        key
        for key in configured.model_fields_set
        if getattr(configured, key) != getattr(learnt, key)
    }
    if different - ({"roi"} if learnt.roi is None else set()):
        yield preparation_differs(configured, learnt, model=model, fix=fix)


def preparation_differs(
    configured: Preparation, learnt: Preparation, *, model: str, fix: str
) -> Problem:
    """The problem of a preparation that is not the one that a model has learnt with."""
    return Problem(
        code="preparation-differs",
        got=f"cases prepared with {configured.summary}",
        expected=f"what {model} has learnt with, {learnt.summary}",
        fix=fix,
    )


def _has_outliers(values: Intensity) -> bool:
    return 0 < OUTLYING * (values.high - values.low) < values.deviation


def _is_padded(values: Intensity) -> bool:
    gap, spread = values.second - values.minimum, values.high - values.low
    return (
        values.minimum < 0 and values.minimum_share >= PADDING_SHARE and gap > PADDING_GAP * spread
    )


def _is_other_scale(values: Intensity, learnt: IntensityRange) -> bool:
    spread, learnt_spread = values.high - values.low, learnt.high - learnt.low
    if spread <= 0 or learnt_spread <= 0:
        return False
    is_elsewhere = (
        values.low > learnt.high + learnt_spread or values.high < learnt.low - learnt_spread
    )
    return is_elsewhere or not 1 / SAME_SCALE <= spread / learnt_spread <= SAME_SCALE


def _names(cases: Sequence[CaseTraits], among: Sequence[CaseTraits]) -> str:
    """``2 of 5 cases (anna, bert)``."""
    return f"{len(cases)} of {len(among)} cases ({_listed([case.name for case in cases])})"


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _ratio(sides: Spacing, other: Spacing) -> float:
    return max(max(a / b, b / a) for a, b in zip(sides, other, strict=True))


def _mm(spacing: Spacing) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"
