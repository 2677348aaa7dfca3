"""Slices in their order at equal distances, or the reason why they are no such stack.

The place of every slice is worked out from its own header, since the slices of a series need not be
a stack: they may be a film of one place, three localizers, or lack one in the middle.

DICOM counts millimetres to the left, the back and the head; the affine of a stack counts them to
the right, the front and the head.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepseg.counts import counted
from deepseg.data.images.dicom.slices import (
    COLUMNS,
    ORIENTATION,
    PIXEL_SPACING,
    POSITION,
    ROWS,
    SLICE_SPACING,
    DicomSlice,
    Vector,
)
from deepseg.errors import DeepsegError, Problem, raise_if_any

_ONE_PLACE_MM = 1e-3  # slices closer together show one place
_SILENT, _TOLERATED = 0.02, 0.1  # voxels by which slices may lie beside equal distances
_SHEARED = 0.1  # voxels by which the last slice may lie beside the first without a word
_ROUNDING = 1e-3  # of directions and sizes in headers
_SPACING_DIFFERS = 0.1  # of the distance in a header

_SHARED = {  # tags by which the slices of one stack must agree
    ROWS: "numbers of rows",
    COLUMNS: "numbers of columns",
    PIXEL_SPACING: "pixel sizes (PixelSpacing)",
    ORIENTATION: "orientations, as localizers have",
    "0010|0020": "patients (PatientID)",
    "0020|0052": "coordinate systems (FrameOfReferenceUID)",
    "0008|0060": "modalities",
    "0028|0004": "kinds of intensities (PhotometricInterpretation)",
    "0028|1054": "units (RescaleType)",
    "0054|1001": "units (Units)",
}
_REPEATED = {  # tags that tell slices at one place apart, the most telling first
    "0018|0086": "EchoNumbers",
    "0018|0081": "EchoTime",
    "0018|9082": "EffectiveEchoTime",
    "0018|9087": "DiffusionBValue",
    "0020|0100": "TemporalPositionIdentifier",
    "0020|9128": "TemporalPositionIndex",
    "0018|1060": "TriggerTime",
    "0020|9153": "NominalCardiacTriggerDelayTime",
    "0062|000b": "ReferencedSegmentNumber",
    "0008|9007": "FrameType",
    "0008|0008": "ImageType",
    "0020|9056": "StackID",
    "0020|0012": "AcquisitionNumber",
    "0018|9074": "FrameAcquisitionDateTime",
    "0008|0032": "AcquisitionTime",
    "0008|0033": "ContentTime",
    "0020|0013": "InstanceNumber",
    "0020|9157": "DimensionIndexValues",
}
_SPLIT = "give each phase, echo or repetition a folder of its own, as a series of its own"


@dataclass(frozen=True)
class Stack:
    """Slices in their order.

    Attributes:
        slices: At equal distances, in the direction of their normal.
        affine: Voxel index to RAS millimetres, ``(4, 4)``.
        warnings: One sentence each.
    """

    slices: Sequence[DicomSlice]
    affine: Vector
    warnings: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Voxels along X, Y, Z."""
        tags = self.slices[0].tags
        return int(tags[COLUMNS]), int(tags[ROWS]), len(self.slices)


def series_name(slices: Sequence[DicomSlice]) -> str:
    """Number, modality, description and UID of a series, as far as it has them.

    >>> from pathlib import Path
    >>> tags = {"0020|0011": "4", "0008|0060": "MR", "0008|103e": "T2 ax", "0020|000e": "1.2.3"}
    >>> series_name([DicomSlice(Path("s001.dcm"), tags)])
    "series 4 (MR, 'T2 ax', UID 1.2.3, 1 file)"
    """
    tags = slices[0].tags
    number, modality = tags.get("0020|0011", ""), tags.get("0008|0060", "")
    description, uid = tags.get("0008|103e", ""), tags.get("0020|000e", "")
    parts = [
        modality,
        repr(description) if description else "",
        f"UID {uid}" if uid else "",
        _count(slices),
    ]
    return f"series {number or 'without number'} ({', '.join(part for part in parts if part)})"


def _count(slices: Sequence[DicomSlice]) -> str:
    """Files, and frames in them."""
    files = len({item.path for item in slices})
    frames = f"{len(slices)} frames in " if len(slices) > files else ""
    return f"{frames}{files} file{'s' * (files != 1)}"


def stack_of(slices: Sequence[DicomSlice], where: str) -> Stack:
    """The stack that the slices of one series make; a file that is there twice is read once.

    Args:
        where: The folder, for messages.

    Raises:
        DeepsegError: ``dicom-series``, or ``image-damaged`` for missing slices.
    """
    raise_if_any(_unplaced(slices, where))
    raise_if_any(_differing(slices, where))
    ordered = sorted(slices, key=lambda item: float(item.position_mm @ item.normal))
    places = _places(ordered)
    places, copies = _without_copies(places)
    if max(len(place) for place in places) > 1:
        raise DeepsegError(_repeated(places, slices, where))
    ordered = [place[0] for place in places]
    affine, warnings = _affine(ordered, where)
    return Stack(ordered, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, copies + warnings)


def _unplaced(slices: Sequence[DicomSlice], where: str) -> Iterator[Problem]:
    """Problems of slices whose headers do not say where their voxels lie."""
    several = [item for item in slices if item.frames > 1]
    if several:
        yield _problem(
            slices,
            where,
            f"{several[0].frames} frames in the one file {several[0].path.name}, and no "
            "functional groups that say where each lies",
            "one slice per file, or an enhanced file",
            "convert it to NIfTI (dcm2niix does), or to one file per slice",
        )
        return
    needed = {POSITION: (3, "ImagePositionPatient"), ORIENTATION: (6, "ImageOrientationPatient")}
    for tag, (count, name) in {**needed, PIXEL_SPACING: (2, "PixelSpacing")}.items():
        without = [item for item in slices if not _is_usable(item, tag, count)]
        if without:
            yield _problem(
                slices,
                where,
                f"no usable {name} in {_some(without, slices)}",
                "the place and size of every slice in its header",
                "export the series again, or convert it to NIfTI with the right geometry",
            )


def _is_usable(item: DicomSlice, tag: str, count: int) -> bool:
    values = item.values(tag, count)
    if values is None:
        return False
    if tag == PIXEL_SPACING:
        return bool((values > 0).all())
    if tag == ORIENTATION:  # two directions of length 1 at right angles
        directions = values.reshape(2, 3)
        return np.allclose(directions @ directions.T, np.eye(2), atol=_ROUNDING)
    return True


def _differing(slices: Sequence[DicomSlice], where: str) -> Iterator[Problem]:
    """Problems of slices that cannot be of one stack."""
    for tag, noun in _SHARED.items():
        groups: dict[str, list[DicomSlice]] = {}
        for item in slices:
            text = item.tags.get(tag, "")
            equal_text = next((other for other in groups if _is_equal(text, other)), text)
            groups.setdefault(equal_text, []).append(item)
        if len(groups) > 1:
            listed = "; ".join(
                f"{text or 'none'} in {_some(group, slices)}" for text, group in groups.items()
            )
            yield _problem(
                slices,
                where,
                f"slices with {len(groups)} {noun}: {listed}",
                "one stack of slices in one folder",
                "give each stack a folder of its own",
            )


def _is_equal(text: str, other: str) -> bool:
    """True if two texts of a tag differ by the rounding of numbers at most."""
    if text == other:
        return True
    try:
        first, second = (np.array([float(n) for n in t.split("\\")]) for t in (text, other))
    except ValueError:
        return False
    return first.shape == second.shape and np.allclose(
        first, second, rtol=_ROUNDING, atol=_ROUNDING
    )


def _places(ordered: Sequence[DicomSlice]) -> list[list[DicomSlice]]:
    """Slices that lie at one place along their normal, place by place."""
    places = [[ordered[0]]]
    for item in ordered[1:]:
        step = (item.position_mm - places[-1][0].position_mm) @ item.normal
        if step < _ONE_PLACE_MM:
            places[-1].append(item)
        else:
            places.append([item])
    return places


def _without_copies(
    places: Sequence[Sequence[DicomSlice]],
) -> tuple[list[list[DicomSlice]], tuple[str, ...]]:
    """Places without files that have the same bytes as another one, and their names in warnings."""
    single: list[list[DicomSlice]] = []
    warnings = []
    digests: dict[Path, bytes] = {}
    for place in places:
        first_with: dict[tuple[bytes, int], DicomSlice] = {}
        for item in sorted(place, key=lambda item: (len(item.path.name), item.path.name)):
            if len(place) > 1 and item.path not in digests:
                digests[item.path] = hashlib.sha256(item.path.read_bytes()).digest()
            content = digests.get(item.path, b"")
            original = first_with.setdefault((content, item.index), item)
            if original is not item:
                warnings.append(f"{item.path.name} is a copy of {original.path.name}; read once")
        single.append(list(first_with.values()))
    return single, tuple(dict.fromkeys(warnings))


def _repeated(
    places: Sequence[Sequence[DicomSlice]], slices: Sequence[DicomSlice], where: str
) -> Problem:
    """The problem of several slices at one place: phases, echoes, a film."""
    together = max(places, key=len)
    shown = {tag: [item.tags.get(tag, "") for item in together] for tag in _REPEATED}
    telling = next((tag for tag, texts in shown.items() if len(set(texts)) > 1), None)
    if telling is None:
        difference = f"such as {together[0].name} and {together[1].name}"
    else:
        texts = list(dict.fromkeys(shown[telling]))
        listed = ", ".join(texts[:4]) + ", …" * (len(texts) > 4)
        difference = f"which differ in {_REPEATED[telling]}: {listed}"
    return _problem(
        slices,
        where,
        f"{sum(map(len, places))} slices at {counted(len(places), 'place')}, up to "
        f"{len(together)} at one, {difference}",
        "one slice at every place",
        _SPLIT,
    )


def _affine(ordered: Sequence[DicomSlice], where: str) -> tuple[Vector, tuple[str, ...]]:
    """Voxel index to LPS millimetres, ``(4, 4)``, and what is odd about it."""
    first, count = ordered[0], len(ordered)
    affine = np.eye(4)
    affine[:3, :2] = first.in_plane_mm
    affine[:3, 3] = first.position_mm
    if count == 1:
        thickness = first.thickness_mm
        affine[:3, 2] = first.normal * (1.0 if thickness is None else thickness)
        return affine, ("the one slice does not say how thick it is; read as 1 mm",) * (
            thickness is None
        )
    positions = np.stack([item.position_mm for item in ordered])
    affine[:3, 2] = (positions[-1] - positions[0]) / (count - 1)
    away = _voxels_beside(positions, affine)
    warnings = []
    if away > _TOLERATED:
        raise DeepsegError(_uneven(ordered, where))
    if away > _SILENT:
        warnings.append(f"slices lie up to {away:.2g} voxels beside equal distances")
    return affine, (*warnings, *_shear(affine, count), *_other_spacing(first, affine))


def _voxels_beside(positions: Vector, affine: Vector) -> float:
    """Largest distance along an axis, in voxels, between a slice and its place in the stack."""
    index = np.arange(len(positions))
    indices = (positions - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    indices[:, 2] -= index
    return float(np.abs(indices).max())


def _uneven(ordered: Sequence[DicomSlice], where: str) -> Problem:
    """The problem of slices at unequal distances, or beside each other."""
    positions = np.stack([item.position_mm for item in ordered])
    steps = np.diff(positions @ ordered[0].normal)
    usual = Counter(np.round(steps, 2).tolist()).most_common(1)[0][0]
    odd = int(np.abs(steps - usual).argmax())
    name = series_name(ordered)
    if np.abs(steps - usual).max() <= _TOLERATED * usual:
        got = f"slices that do not lie on one straight line in {name}"
        fix = "resample the series to slices that lie in a row"
        return _damaged(where, got, "slices on a straight line", fix)
    before, after = ordered[odd].name, ordered[odd + 1].name
    got = (
        f"{len(ordered)} slices at unequal distances in {name}: {usual:g} mm, but "
        f"{steps[odd]:g} mm between {before} and {after}"
    )
    fix = "add the missing slices or resample the series to equal distances"
    return _damaged(where, got, "slices at equal distances", fix)


def _damaged(where: str, got: str, expected: str, fix: str) -> Problem:
    """The problem of a series that lacks slices."""
    return Problem("image-damaged", got, expected, fix, where)


def _shear(affine: Vector, count: int) -> Iterator[str]:
    """A warning if slices are shifted against each other, as by a tilted gantry."""
    step, in_plane = affine[:3, 2], affine[:3, :2]
    shift = np.linalg.lstsq(in_plane, step, rcond=None)[0]
    if np.abs(shift).max() * (count - 1) > _SHEARED:
        aside = in_plane @ shift
        angle = np.degrees(np.arcsin(np.linalg.norm(aside) / np.linalg.norm(step)))
        yield (
            f"every slice is shifted against the one before, by {angle:.3g} degrees (gantry tilt); "
            "read as a sheared grid"
        )


def _other_spacing(first: DicomSlice, affine: Vector) -> Iterator[str]:
    """A warning if the header speaks of another distance, as when every other slice is missing."""
    distance, stated = abs(float(affine[:3, 2] @ first.normal)), first.values(SLICE_SPACING, 1)
    if stated is not None and abs(distance - stated[0]) > _SPACING_DIFFERS * abs(stated[0]):
        yield (
            f"slices lie {distance:.4g} mm apart, but SpacingBetweenSlices is {stated[0]:.4g} mm; "
            "are slices missing?"
        )


def _some(group: Sequence[DicomSlice], slices: Sequence[DicomSlice]) -> str:
    """Files of a group, by number and the first of them."""
    if len(group) == len(slices):
        return "any slice" if len(slices) > 1 else "the slice"
    return f"{len(group)} of {len(slices)} slices ({group[0].name})"


def _problem(
    slices: Sequence[DicomSlice], where: str, got: str, expected: str, fix: str
) -> Problem:
    return Problem("dicom-series", f"{series_name(slices)}: {got}", expected, fix, where)
