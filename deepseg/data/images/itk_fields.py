"""Fields in the headers of MetaImage and NRRD that SimpleITK does not heed.

SimpleITK takes millimetres for granted, leaves a scale of intensities aside, and does not tell
whether a header names its axes.

Sources: https://teem.sourceforge.net/nrrd/format.html,
https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from deepseg.data.images.grid import invertible
from deepseg.data.images.integrity import damage_named, damaged, has_suffix
from deepseg.data.images.raw_voxels import dtype_problem
from deepseg.errors import DeepsegError, Problem

_MM_PER_UNIT = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3}
_HEADER_LINES = 10_000  # more are no header
_LONGEST_LINE = 1 << 16

_READ_ENCODINGS = ("raw", "gzip", "gz", "hex", "txt", "text", "ascii")
_NAMED_SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior")
_SHORT_SPACES = ("ras", "las", "lps")
_UNKNOWN_SIDES = "so left and right are unknown"


@dataclass(frozen=True)
class ItkFields:
    """Meaning of a header beyond what SimpleITK reads.

    Attributes:
        mm: Millimetres of the unit of length.
        slope: By which stored values are multiplied.
        offset: Added after that.
        warnings: What the user should know, one sentence each.
    """

    mm: float = 1.0
    slope: float = 1.0
    offset: float = 0.0
    warnings: tuple[str, ...] = ()


def itk_fields(path: Path) -> ItkFields:
    """The meaning of the header of a MetaImage or NRRD file.

    Raises:
        DeepsegError: ``file-format`` for an encoding that is not read, ``image-damaged`` for units
            or scales that make no sense.
    """
    if has_suffix(path, ".mha", ".mhd"):
        return _metaimage(path, dict(_fields(path, "=", last="ElementDataFile")))
    return _nrrd(path, {key.lower(): value for key, value in _fields(path, ":", last="")})


def _fields(path: Path, separator: str, *, last: str) -> Iterator[tuple[str, str]]:
    """Key and text of every line of a header, to the key ``last``."""
    with damage_named(path), path.open("rb") as stream:
        for _ in range(_HEADER_LINES):
            line = stream.readline(_LONGEST_LINE).decode("utf-8", "replace").strip()
            key, mark, value = (part.strip() for part in line.partition(separator))
            if mark and not line.startswith("#") and not value.startswith("="):
                yield key, value
            if key == last:
                return


def _metaimage(path: Path, fields: Mapping[str, str]) -> ItkFields:
    slope = _number(path, fields, "ElementToIntensityFunctionSlope", 1.0)
    if slope == 0:
        raise DeepsegError(damaged(path, "ElementToIntensityFunctionSlope = 0", "a slope above 0"))
    unit = fields.get("DistanceUnits", "mm").lower().strip("?")
    mm, warnings = _unit(path, (unit,))
    if not any(key in fields for key in ("TransformMatrix", "Rotation", "Orientation")):
        warnings += (f"the header has no TransformMatrix, {_UNKNOWN_SIDES}",)
    if not any(key in fields for key in ("ElementSpacing", "ElementSize")):
        warnings += ("the header has no ElementSpacing; voxels are read as 1 mm wide",)
    offset = _number(path, fields, "ElementToIntensityFunctionOffset", 0.0)
    return ItkFields(mm, slope, offset, warnings)


def _number(path: Path, fields: Mapping[str, str], key: str, default: float) -> float:
    try:
        value = float(fields.get(key, default))
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DeepsegError(damaged(path, f"{key} = {fields[key]}", "a finite number"))
    return value


def _nrrd(path: Path, fields: Mapping[str, str]) -> ItkFields:
    encoding = fields.get("encoding", "")
    _refuse_nrrd_type(path, fields.get("type", ""))
    _refuse_flat_directions(path, fields.get("space directions", ""))
    if encoding.lower() not in _READ_ENCODINGS:
        raise DeepsegError(
            Problem(
                code="file-format",
                got=f"NRRD with the encoding {encoding}",
                expected="the encoding raw, gzip, hex or text",
                fix="write it again with the encoding gzip, or convert it to .nii.gz",
                where=str(path),
            )
        )
    units = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    mm, warnings = _unit(path, tuple(units[:3]))
    space = fields.get("space", "").lower()
    is_named = space in _SHORT_SPACES or space.startswith(_NAMED_SPACES)
    if not is_named or "space directions" not in fields:
        missing = "space directions" if is_named else "space of the patient"
        warnings += (f"the header has no {missing}, {_UNKNOWN_SIDES}",)
    if "space directions" not in fields and "spacings" not in fields:
        warnings += ("the header has no spacings; voxels are read as 1 mm wide",)
    return ItkFields(mm, warnings=warnings)


def _refuse_nrrd_type(path: Path, name: str) -> None:
    words = r"(unsigned |signed )?(char|short|int|long long)|u?int(8|16|32|64)(_t)?|float|double"
    more = r"uchar|ushort|uint|longlong|ulonglong|short int|unsigned short int|long long int"
    if not re.fullmatch(f"{words}|{more}|unsigned long long int|signed short int", name.lower()):
        raise DeepsegError(dtype_problem(path, name or "unknown"))


def _refuse_flat_directions(path: Path, directions: str) -> None:
    """Refuse axes that lie in one plane, which SimpleITK would call damage."""
    vectors = [part.split(",") for part in re.findall(r"\(([^)]*)\)", directions)]
    try:
        axes = np.array([[float(number) for number in vector] for vector in vectors])
    except ValueError:
        return  # SimpleITK refuses it
    if axes.shape == (3, 3):
        sizes = np.eye(4)
        sizes[:3, :3] = axes.T
        invertible(path, (1, 1, 1), sizes)


def voxel_place(path: Path) -> tuple[Path, int] | None:
    """The one file of voxels that are stored as they are, and their first byte; None for others."""
    if has_suffix(path, ".mha", ".mhd"):
        fields = dict(_fields(path, "=", last="ElementDataFile"))
        is_plain = fields.get("CompressedData", "False").lower() == "false"
        is_plain = is_plain and fields.get("BinaryData", "True").lower() == "true"
        name, end = fields.get("ElementDataFile", ""), b"ElementDataFile"
        is_local = name.upper() == "LOCAL"
    else:
        fields = {key.lower(): value for key, value in _fields(path, ":", last="")}
        is_plain = fields.get("encoding", "").lower() == "raw"
        name, end = fields.get("data file", fields.get("datafile", "")), b"\n"
        is_local = not name
    if not is_plain or (not is_local and not (path.parent / name).is_file()):
        return None
    return (path, _end_of_header(path, end)) if is_local else (path.parent / name, 0)


def _end_of_header(path: Path, last: bytes) -> int:
    """The byte after the line that begins with ``last``."""
    with damage_named(path), path.open("rb") as stream:
        for _ in range(_HEADER_LINES):
            line = stream.readline(_LONGEST_LINE)
            if not line or line.replace(b"\r\n", b"\n").startswith(last):
                break
        return stream.tell()


def _unit(path: Path, units: tuple[str, ...]) -> tuple[float, tuple[str, ...]]:
    """Millimetres of the unit of all axes, and a warning if it is another one."""
    named = {unit.strip().lower() for unit in units} - {"", "???", "pixel", "none"}
    if not named:
        return 1.0, ()
    if len(named) > 1 or not named <= _MM_PER_UNIT.keys():
        got = f"lengths in {', '.join(sorted(named))}"
        raise DeepsegError(
            damaged(path, got, "one unit for all axes: mm, cm, m or um", fix="write it in mm")
        )
    (unit,) = named
    return _MM_PER_UNIT[unit], (f"the header counts in {unit}; read as mm",) * (unit != "mm")
