"""Segmentations as DICOM-SEG, of cases that come from DICOM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from deepseg.data.images.dicom.segmentation_object import SegmentName, write_dicom_seg
from deepseg.data.images.integrity import format_of
from deepseg.inference.segmentation import Segmentation
from deepseg.report.overlay import colour

NOT_FROM_DICOM = "a DICOM-SEG is written of cases whose images are DICOM series, not of others"


def dicom_series(images: Iterable[Path | None]) -> Path | None:
    """The first of the images that is a DICOM series; None if none is."""
    return next((path for path in images if path is not None and format_of(path) == "dicom"), None)


def write_dicom_result(
    path: Path, segmentation: Segmentation, series: Path, classes: Sequence[str]
) -> Path:
    """Write the labels of a case as a DICOM-SEG of its series.

    Args:
        path: Ends in ``.dcm``.
        segmentation: On the grid of the series.
        series: Its folder or enhanced file.
        classes: Name of every label, the background (label 0) first.

    Raises:
        DeepsegError: ``dicom-extra-missing`` or ``dicom-grid``.
    """
    segments = [SegmentName(name, colour(label)) for label, name in enumerate(classes) if label > 0]
    write_dicom_seg(path, segmentation.labels, segmentation.geometry, series, segments)
    return path
