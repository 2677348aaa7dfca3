"""DICOM-SEG: labels as a DICOM object that refers to the series that was segmented.

The package highdicom writes it, which is the extra ``dicom``. Each class becomes a segment with its
name and colour. Its kind is "tissue", as 3D Slicer has it where nothing is known, because a name is
no code of SNOMED.

Source: DICOM PS3.3, "Information Object Definitions", C.8.20 (Segmentation),
https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.data.images.dicom.series import dicom_stack
from deepseg.data.images.dicom.stack import Stack
from deepseg.data.images.grid import Geometry
from deepseg.errors import DeepsegError, Problem
from deepseg.storage.atomic import replacing
from deepseg.version import VERSION

_ON_GRID = 1e-2  # voxels by which labels may lie beside the voxels of the series
_ABSENT = {  # elements that a series must have, though they may be empty
    **dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex"), ""),
    **dict.fromkeys(("StudyDate", "StudyTime", "StudyID", "AccessionNumber"), ""),
    **dict.fromkeys(("ReferringPhysicianName", "PositionReferenceIndicator"), ""),
}


@dataclass(frozen=True)
class SegmentName:
    """Name and colour of a class above the background.

    Attributes:
        name: Of the class.
        colour: Red, green and blue, 0 to 255.
    """

    name: str
    colour: tuple[int, int, int]


def missing_extra(key: str) -> Iterator[Problem]:
    """The problem of a request for DICOM-SEG without the package that writes it.

    Args:
        key: The setting or option that asks for it.
    """
    if importlib.util.find_spec("highdicom") is None:
        yield Problem(
            code="dicom-extra-missing",
            got=f"{key} without the package highdicom",
            expected="the package, which writes DICOM-SEG",
            fix="pip install 'deepseg-pathways[dicom]'",
        )


def write_dicom_seg(
    path: Path,
    labels: NDArray[np.integer[Any]],
    geometry: Geometry,
    series: Path,
    segments: Sequence[SegmentName],
) -> None:
    """Write the labels of a case as a DICOM-SEG.

    Args:
        path: Ends in ``.dcm``.
        labels: ``(X, Y, Z)``; 0 is the background.
        geometry: Where their voxels lie.
        series: Folder or enhanced file of the series that was segmented.
        segments: Of the labels 1, 2, …

    Raises:
        DeepsegError: ``dicom-extra-missing``; ``dicom-grid`` for labels on another grid than that
            of the series; or what is wrong with the series.
        OutputNotWritable: The disk or the system refuses.
    """
    for problem in missing_extra("DICOM-SEG"):
        raise DeepsegError(problem)
    stack = dicom_stack(series)
    volume = _on_stack(labels, geometry, stack, series)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of oddities of the series
        _segmentation_object(volume, stack, segments).save_as(temporary)


def _on_stack(
    labels: NDArray[np.integer[Any]], geometry: Geometry, stack: Stack, series: Path
) -> NDArray[np.uint8]:
    """Labels ``(slices, rows, columns)`` with the axes of the stack, which may be other ones."""
    step = np.linalg.inv(stack.affine) @ geometry.affine
    turn = np.round(step[:3, :3]).astype(int)
    origin = np.round(step[:3, 3]).astype(int)
    sizes = np.abs(turn) @ labels.shape
    is_turned = np.array_equal(np.abs(turn).sum(0), (1, 1, 1)) and np.array_equal(
        np.abs(turn).sum(1), (1, 1, 1)
    )
    corners = np.array([[0, 0, 0], np.subtract(labels.shape, 1)]).T
    exact = step[:3, :3] @ corners + step[:3, 3:]
    away = np.abs(exact - (turn @ corners + origin[:, None])).max()
    if not is_turned or away > _ON_GRID or tuple(sizes) != stack.sizes:
        raise DeepsegError(
            Problem(
                code="dicom-grid",
                got=f"labels on another grid than that of the DICOM series {series}",
                expected="labels on the voxels of the series",
                fix="segment the series itself, as the first channel",
            )
        )
    axes = [int(np.abs(row).argmax()) for row in turn]
    turned = labels.transpose(axes)
    signs = [turn[axis, source] for axis, source in enumerate(axes)]
    turned = turned[tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)]
    return np.ascontiguousarray(turned.transpose(2, 1, 0), dtype=np.uint8)


def _segmentation_object(
    volume: NDArray[np.uint8], stack: Stack, segments: Sequence[SegmentName]
) -> Any:
    import highdicom
    import pydicom
    from pydicom.sr.codedict import codes

    sources = [_complete(pydicom.dcmread(path)) for path in dict.fromkeys(_files(stack))]
    if len(sources) == 1 and len(stack.slices) > 1:
        volume = volume[np.argsort([item.index for item in stack.slices])]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="deepseg", version=VERSION, family=codes.DCM.ArtificialIntelligence
    )
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name[:64],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
        )
        for number, segment in enumerate(segments, start=1)
    ]
    entropy = [sources[0].SeriesInstanceUID, VERSION, volume.tobytes().hex()]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=volume,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=pydicom.uid.generate_uid(entropy_srcs=["series", *entropy]),
        series_number=1000,
        sop_instance_uid=pydicom.uid.generate_uid(entropy_srcs=["object", *entropy]),
        instance_number=1,
        manufacturer="deepseg",
        manufacturer_model_name="deepseg",
        software_versions=VERSION,
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Segmentation by deepseg",
        omit_empty_frames=bool(volume.any()),
    )


def _files(stack: Stack) -> Iterator[Path]:
    yield from (item.path for item in stack.slices)


def _complete(data_set: Any) -> Any:
    """A source with the elements that every series should have, empty where it lacks them."""
    for keyword, value in _ABSENT.items():
        if keyword not in data_set:
            setattr(data_set, keyword, value)
    if "FrameOfReferenceUID" not in data_set:
        data_set.FrameOfReferenceUID = f"{data_set.SeriesInstanceUID}.1"
    return data_set
