"""NIfTI files, read and written with nibabel.

nibabel repairs broken headers without a word and does not notice bit rot; so headers are parsed
with its checks off and judged here, and sizes and checksums are compared before voxels are trusted.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file

from deepseg.data.images.grid import (
    Affine,
    Array,
    Geometry,
    Grid,
    invertible,
    three_dimensional,
    volumes_in,
)
from deepseg.data.images.integrity import (
    damage_named,
    damaged,
    format_of,
    has_suffix,
    partner,
    read_to_end,
    unpacked_size,
)
from deepseg.data.images.raw_voxels import RawVoxels, dtype_problem
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import text
from deepseg.geometry.boxes import volume as voxels_in
from deepseg.storage.atomic import replacing

nib: Any = nibabel  # annotated in parts only

_LONGEST_QUATERNION = 1.001  # of its parts b, c, d; what is longer by rounding is normalised
_DISAGREEMENT = 0.1  # in voxels, between qform and sform

# NIfTI-1 standard, field xyzt_units, lowest three bits; 0 is "unknown", read as millimetres.
_MM_PER_UNIT = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}

_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")

# Header fields that a result takes over from its image, bit by bit.
_RESULT_FIELDS = (
    *("sizeof_hdr", "xyzt_units", "qform_code", "sform_code"),
    *_QUATERNION,
    *("qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


def nifti_voxels(path: Path, index: int | None) -> RawVoxels:
    """The stored values of a NIfTI file, or of volume ``index`` of a 4D one."""
    data_file = _pair(path)[1]
    present = unpacked_size(data_file) if data_file.is_file() else 0
    header = nifti_header(path)
    grid = nifti_grid(path, header, index)
    shape, dtype, begin = (
        grid.geometry.shape,
        _nifti_dtype(path, header),
        _nifti_begin(path, header),
    )
    count, size = volumes_in(path, dimensions(header)), voxels_in(shape) * dtype.itemsize
    needed = begin + count * size
    if present < needed:  # found before memory is taken for what the header promises
        volumes = f"{count} volumes of " if count > 1 else ""
        voxels = f"{volumes}{text(shape)} voxels of {dtype.name} from byte {begin} on"
        expected = f"{needed} bytes: {voxels}"
        raise DeepsegError(damaged(data_file, f"{present} bytes", expected, code="image-truncated"))
    with damage_named(data_file), _opened(data_file) as stream:
        array = array_from_file(shape, dtype, stream, begin + (index or 0) * size, mmap=False)
    try:
        slope, offset = header.get_slope_inter()
    except HeaderDataError as error:
        raise DeepsegError(damaged(path, "an intercept that is not finite")) from error
    return RawVoxels(
        array, 1.0 if slope is None else slope, 0.0 if offset is None else offset, grid
    )


def _pair(path: Path) -> tuple[Path, Path]:
    """The file of the header and the file of the voxels: an .hdr and an .img, or twice ``path``."""
    if has_suffix(path, ".hdr", ".hdr.gz"):
        return path, partner(path)
    if has_suffix(path, ".img", ".img.gz"):
        return partner(path), path
    return path, path


def _opened(path: Path) -> Any:
    return gzip.open(path) if has_suffix(path, ".gz") else path.open("rb")


def nifti_header(path: Path) -> Any:
    """The header as it is in the file, with its size, dimensions and voxel sides checked.

    nibabel would repair zero and negative sides silently, so its own checks are off.
    """
    for file in _pair(path):
        if file != path:
            format_of(file)
    header_file = _pair(path)[0]
    with damage_named(header_file), _opened(header_file) as stream:
        beginning = stream.read(nib.Nifti2Header.sizeof_hdr)
    header = _parsed_header(path, beginning)
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise DeepsegError(damaged(path, f"a header with {dimensions} dimensions"))
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # NIfTI-1 standard: "if qfac is 0, 1 is used"
    if dimensions == 2 and not header["pixdim"][3] > 0:
        header["pixdim"][3] = 1
    sides = [float(side) for side in header["pixdim"][1:4]]
    if not all(0 < side < float("inf") for side in sides):
        raise DeepsegError(_spacing_problem(path, sides))
    return header


def _parsed_header(path: Path, beginning: bytes) -> Any:
    for header_class, order in product((nib.Nifti1Header, nib.Nifti2Header), "<>"):
        size = header_class.sizeof_hdr
        if beginning[:4] != struct.pack(f"{order}i", size) or len(beginning) < size:
            continue
        header = header_class(beginning[:size], order, check=False)
        if bytes(header["magic"]).startswith((b"n+", b"ni")):
            return header
        fix = "convert it to NIfTI with the program that wrote it"
        got = "an Analyze header, which does not say where left and right are"
        raise DeepsegError(damaged(path, got, "a NIfTI header", code="file-format", fix=fix))
    got = f"a file that begins with {beginning[:8]!r}"
    raise DeepsegError(damaged(path, got, "a NIfTI header"))


def _spacing_problem(path: Path, sides: Sequence[float]) -> Problem:
    return Problem(
        code="spacing-invalid",
        got=f"voxels with sides of {' x '.join(f'{side:g}' for side in sides)}",
        expected="sides above 0",
        fix="write the image again with the voxel sides (pixdim) of its source",
        where=str(path),
    )


def _nifti_dtype(path: Path, header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (KeyError, HeaderDataError):
        raise DeepsegError(dtype_problem(path, f"number {header['datatype']}")) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DeepsegError(dtype_problem(path, header.get_value_label("datatype")))
    return dtype


def _nifti_begin(path: Path, header: Any) -> int:
    """Byte at which the voxels begin."""
    is_pair = has_suffix(path, ".hdr", ".hdr.gz", ".img", ".img.gz")
    begin = float(header["vox_offset"])
    if not (0 if is_pair else header.sizeof_hdr) <= begin < 2.0**62:
        raise DeepsegError(damaged(path, f"voxels that begin at byte {begin:g}, in the header"))
    return int(begin)


def dimensions(header: Any) -> tuple[int, ...]:
    """Sizes of all axes that the header speaks of."""
    return tuple(int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1])


def nifti_grid(path: Path, header: Any, index: int | None) -> Grid:
    """The grid that a header gives; sform goes before qform."""
    shape = three_dimensional(path, dimensions(header), index)
    unit, mm = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    to_mm = np.diag([mm, mm, mm, 1])
    qform = to_mm @ _qform(header)
    has_qform, has_sform = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    warnings = [f"the header counts in {unit}; read as mm"] if unit else []
    if has_sform:
        geometry = invertible(path, shape, to_mm @ header.get_sform())
        warnings += _disagreement(geometry, qform) if has_qform else []
    elif has_qform:
        _refuse_long_quaternion(path, header)
        geometry = invertible(path, shape, qform)
    else:
        geometry = invertible(path, shape, to_mm @ header.get_base_affine())
        warnings.append("qform and sform codes are both 0, so left and right are unknown")
    plain = path.with_name(path.name[: -len(".gz")])
    if has_suffix(path, ".gz") and plain.exists():
        warnings.append(f"{plain.name} lies in the same folder; {path.name} is read")
    return Grid(geometry, _result_fields(header), tuple(warnings))


def _quaternion(header: Any) -> Affine:
    """The three stored parts of the quaternion."""
    return np.array([float(header[part]) for part in _QUATERNION])


def _qform(header: Any) -> Affine:
    """The matrix of the quaternion; NaN if it is none.

    A quaternion that is longer than 1 by rounding is normalised, as by the reference code of
    NIfTI-1 (nifti1_io.c, nifti_quatern_to_mat44).
    """
    length = float(np.linalg.norm(_quaternion(header)))
    if 1.0 < length <= _LONGEST_QUATERNION:
        header = header.copy()
        for part in _QUATERNION:
            header[part] = header[part] / length
    try:
        matrix: Affine = header.get_qform()
    except (ValueError, HeaderDataError):
        return np.full((4, 4), np.nan)
    return matrix


def _refuse_long_quaternion(path: Path, header: Any) -> None:
    length = float(np.linalg.norm(_quaternion(header)))
    if length > _LONGEST_QUATERNION:
        raise DeepsegError(
            Problem(
                code="affine-singular",
                got=f"a qform whose quaternion has the length {length:.6g}, which is no rotation",
                expected="b, c and d of a length of at most 1",
                fix="write the image again with the affine matrix of its source",
                where=str(path),
            )
        )


def _disagreement(sform: Geometry, qform: Affine) -> list[str]:
    if not np.isfinite(qform).all():
        return ["qform is not a rotation; sform is used"]
    other = Geometry(sform.shape, qform)
    if sform.distance_voxels(other) <= _DISAGREEMENT:
        return []
    return [f"qform and sform disagree by {sform.distance_mm(other):.3g} mm; sform is used"]


def _result_fields(header: Any) -> Mapping[str, Any]:
    fields = {field: np.array(header[field]) for field in _RESULT_FIELDS}
    return {**fields, "pixdim": np.array(header["pixdim"][:4])}


def header_from_affine(affine: Affine) -> Mapping[str, Any]:
    """The header fields of a result whose geometry comes from no NIfTI file."""
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    if not np.allclose(header.get_qform(), affine, atol=1e-3):
        header["qform_code"] = 0  # a quaternion has no room for shears
    return _result_fields(header)


def write_nifti(path: Path, values: Array, fields: Mapping[str, Any]) -> None:
    """Write ``values`` whole or not at all, with the header ``fields`` of `header_from_affine`."""
    second = fields["sizeof_hdr"] == nib.Nifti2Header.sizeof_hdr
    header = nib.Nifti2Header() if second or max(values.shape) > 32767 else nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    for field in _RESULT_FIELDS[1:]:
        header[field] = fields[field]
    header["pixdim"][:4] = fields["pixdim"]
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with replacing(path) as temporary:
        nib.save(image_class(values, None, header), temporary)
        if has_suffix(path, ".gz"):
            read_to_end(temporary)
