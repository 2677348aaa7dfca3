"""DICOM files as slices: their tags, their place in the patient, their voxels.

SimpleITK reads every slice by itself, so that each is scaled as its own header says: read together,
all would have the integer type of the first, which cuts fractions off and wraps large values
around. The frames of an enhanced file are slices too. Other slices are not known here.

Source: DICOM PS3.3, "Information Object Definitions", C.7.6.2 (Image Plane Module) and C.11.1
(Modality LUT Module), https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import SimpleITK

from deepseg.data.images.dicom.data_set import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    read_data_set,
)
from deepseg.data.images.dicom.frames import Frames, frames_of
from deepseg.data.images.integrity import damage_named, damaged, has_suffix
from deepseg.data.images.raw_voxels import dtype_problem
from deepseg.errors import DeepsegError, Problem

sitk: Any = SimpleITK  # not annotated

Vector: TypeAlias = npt.NDArray[np.float64]

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
ROWS, COLUMNS, FRAMES = "0028|0010", "0028|0011", "0028|0008"
THICKNESS, SLICE_SPACING = "0018|0050", "0018|0088"

_META_BYTES = 1 << 14  # of a file, in which its SOP class and transfer syntax are named
_LONG_TYPES = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_SOP_CLASS, _TRANSFER_SYNTAX = 0x0002, 0x0010

_STORAGE = "1.2.840.10008.5.1.4.1.1"
_WITHOUT_IMAGE = (  # SOP classes that go with a series: waves, displays, reports, contours, plans
    "1.2.840.10008.1.3.10",
    *(f"{_STORAGE}.{n}" for n in ("4.2", "9", "11", "66.1", "66.2", "66.3", "66.5", "67", "88")),
    *(f"{_STORAGE}.{n}" for n in ("104", "481.3", "481.4", "481.5", "481.8", "481.9")),
)
_READABLE_SYNTAXES = (
    *(f"1.2.840.10008.1.2{ending}" for ending in ("", ".1", ".1.99", ".2", ".5")),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)),
)


@dataclass(frozen=True)
class DicomSlice:
    """A DICOM file that holds an image, or a frame of one.

    Attributes:
        path: The file.
        tags: Text of every tag outside sequences, as ``0020|0032``, without padding; of a frame
            also those of its functional groups.
        source: The frames of the file, if this is one of them.
        index: Of the frame, counted from 0.

    >>> tags = {"0028|0030": r"2\\3", "0020|0037": r"1\\0\\0\\0\\1\\0", "0020|0032": r"4\\5\\6"}
    >>> plane = DicomSlice(Path("s001.dcm"), tags)
    >>> plane.position_mm.tolist(), plane.in_plane_mm.tolist(), plane.normal.tolist()
    ([4.0, 5.0, 6.0], [[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [0.0, 0.0, 1.0])
    """

    path: Path
    tags: Mapping[str, str]
    source: Frames | None = field(default=None, repr=False)
    index: int = 0

    @property
    def name(self) -> str:
        """The file, and of several frames in it which one, counted from 1."""
        return self.path.name + (f" frame {self.index + 1}" if self.source else "")

    def values(self, tag: str, count: int) -> Vector | None:
        """The ``count`` finite numbers of a tag; None if it has other content."""
        try:
            values = np.array([float(word) for word in self.tags.get(tag, "").split("\\")])
        except ValueError:
            return None
        return values if values.size == count and np.isfinite(values).all() else None

    @property
    def frames(self) -> int:
        """Images in the file that nothing tells apart: 1 for a frame with a place of its own."""
        frames = None if self.source else self.values(FRAMES, 1)
        return 1 if frames is None else int(frames[0])

    @property
    def position_mm(self) -> Vector:
        """Centre of the first voxel; the slice must say it."""
        return self._numbers(POSITION, 3)

    @cached_property
    def in_plane_mm(self) -> Vector:
        """Steps to the next column and to the next row, ``(3, 2)``; the slice must say them."""
        directions = self._numbers(ORIENTATION, 6).reshape(2, 3).T
        return np.asarray(directions * self._numbers(PIXEL_SPACING, 2)[::-1])  # it has rows first

    @cached_property
    def normal(self) -> Vector:
        """Direction at right angles to the slice, of length 1."""
        normal = np.cross(*self._numbers(ORIENTATION, 6).reshape(2, 3))
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def thickness_mm(self) -> float | None:
        """Thickness of a slice without neighbours, or None if no tag says it."""
        for tag in (THICKNESS, SLICE_SPACING):
            value = self.values(tag, 1)
            if value is not None and value[0] > 0:
                return float(value[0])
        return None

    def voxels(self) -> npt.NDArray[Any]:
        """The values ``(X, Y)``, scaled as the header says.

        Raises:
            DeepsegError: ``image-damaged``, or ``image-dtype`` for colours.
        """
        if self.source is not None:
            return self.source.voxels(self.index)
        try:
            image = sitk.ReadImage(str(self.path))
        except RuntimeError:
            raise DeepsegError(_unread(self.path)) from None
        if image.GetNumberOfComponentsPerPixel() > 1:
            raise DeepsegError(dtype_problem(self.path, image.GetPixelIDTypeAsString()))
        return np.asarray(sitk.GetArrayFromImage(image).T[:, :, 0])

    def _numbers(self, tag: str, count: int) -> Vector:
        values = self.values(tag, count)
        if values is None:
            raise ValueError(f"{self.path} has no tag {tag} with {count} numbers")
        return values


def is_dicom(path: Path) -> bool:
    """True for a file with the first bytes of DICOM, or one that is called so."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with damage_named(path), path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" or has_suffix(path, ".dcm", ".ima")


def dicom_slices(path: Path) -> list[DicomSlice]:
    """A DICOM file, or its frames; none without an image, such as contours or a report.

    Raises:
        DeepsegError: ``image-damaged``, or ``file-format`` for a compression that is not read.
    """
    meta = _meta(path)
    sop_class = meta.texts.get(_SOP_CLASS, "")
    if any(f"{sop_class}.".startswith(f"{prefix}.") for prefix in _WITHOUT_IMAGE):
        return []
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what it warns of is refused here
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        if not _holds_image(path, meta):
            return []
        raise DeepsegError(_unread(path)) from None
    tags = {key: reader.GetMetaData(key).strip("\0 ") for key in reader.GetMetaDataKeys()}
    whole = DicomSlice(path, tags)
    if whole.frames == 1 and POSITION in tags:
        return [whole]
    syntax = meta.texts.get(_TRANSFER_SYNTAX, EXPLICIT)
    frames = None if syntax == DEFLATED else frames_of(path, syntax, meta.end)
    if frames is None:
        return [whole]
    return [DicomSlice(path, frame, frames, index) for index, frame in enumerate(frames.tags)]


def _holds_image(path: Path, meta: _Meta) -> bool:
    """False for a whole file of a kind that has no rows of voxels."""
    syntax = meta.texts.get(_TRANSFER_SYNTAX, "")
    if syntax not in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        return True
    try:
        content = read_data_set(path, syntax, begin=meta.end)
    except DeepsegError:
        return True
    return ROWS in content.texts or not content.texts


def _unread(path: Path) -> Problem:
    """The problem of a file that SimpleITK cannot read."""
    syntax = _meta(path).texts.get(_TRANSFER_SYNTAX)
    if syntax is None or syntax in _READABLE_SYNTAXES:
        return damaged(path, "a DICOM file that is damaged")
    return Problem(
        code="file-format",
        got=f"a DICOM file in the transfer syntax {syntax}",
        expected="one that is not compressed, or as JPEG, JPEG-LS, JPEG 2000 or RLE",
        fix="export it again without compression",
        where=str(path),
    )


@dataclass(frozen=True)
class _Meta:
    """The elements of group 2, which describe the file.

    Attributes:
        texts: By number.
        end: The byte after them.
    """

    texts: Mapping[int, str]
    end: int


def _meta(path: Path) -> _Meta:
    with damage_named(path), path.open("rb") as stream:
        content = stream.read(_META_BYTES)
    elements: dict[int, str] = {}
    is_marked = content[128:132] == b"DICM"
    place = 132 if is_marked else 0
    while is_marked and len(content) >= place + 12:
        group, number, value_type = struct.unpack_from("<HH2s", content, place)
        if group != 2:
            break
        is_long = value_type in _LONG_TYPES
        (size,) = struct.unpack_from("<I" if is_long else "<H", content, place + 6 + 2 * is_long)
        place += 8 + 4 * is_long
        elements[number] = content[place : place + size].decode("ascii", "replace").strip("\0 ")
        place += size
    return _Meta(elements, place)
