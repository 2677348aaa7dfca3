"""Volumes on disk: images, labels and masks in, results out.

NIfTI goes through nibabel only, because SimpleITK reads damaged NIfTI without an error. nibabel in
its turn does not notice bit rot, so every gzip stream is read to its end once and its checksum
compared before its voxels are trusted. MetaImage, NRRD and DICOM series go through SimpleITK.

Convention: arrays are ``(X, Y, Z)`` in the order of the file, never reoriented. The affine maps a
voxel index, counted at the centre of the voxel, to millimetres in RAS space: the first coordinate
grows to the patient's right, the second to the front, the third to the head.

Classes, channels and cases are not known here, and nothing imports torch.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file

from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.geometry.boxes import Int3, text, volume
from deepseg.storage.atomic import replacing

Array: TypeAlias = npt.NDArray[Any]
Affine: TypeAlias = npt.NDArray[np.float64]

nib: Any = nibabel  # both libraries are annotated in parts only
sitk: Any = SimpleITK

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".hdr.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")

_COPY_AGAIN = "copy or download the file again from its source"
_FLAT = 1e-4  # volume of a voxel over the product of its sides, below which it counts as flat
_ROUNDING = 1e-3  # largest distance from a whole number that storing a label as a float can cause
_DISAGREEMENT = 0.1  # in voxels, between qform and sform

# NIfTI-1 standard, field xyzt_units, lowest three bits; 0 is "unknown", read as millimetres.
_MM_PER_UNIT = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}

# What a result takes over from its source, field by field and bit by bit.
_KEPT_FIELDS = (
    *("sizeof_hdr", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a volume lie in the patient.

    Attributes:
        shape: Voxels along X, Y, Z.
        affine: Voxel index to RAS millimetres, ``(4, 4)`` float64; copied and read-only.
    """

    shape: Int3
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, *self.affine.flat))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def corners_mm(self) -> Affine:
        """The eight outer corners of the volume, ``(8, 3)`` in RAS millimetres."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return np.array(list(product(*ends))) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def distance_mm(self, other: Geometry) -> float:
        """How far the corner that lies worst is from the same corner of ``other``.

        Two grids over one field of view have distance 0 whatever their shapes; compare those too.
        """
        return float(np.linalg.norm(self.corners_mm - other.corners_mm, axis=1).max())


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the patient.

    Attributes:
        array: ``(X, Y, Z)``.
        geometry: Where the voxels lie.
        header: NIfTI header fields that `write_volume` gives to results on this grid; opaque.
        warnings: What the user should know about the file, one sentence each.
    """

    array: Array
    geometry: Geometry
    header: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Grid:
    """What the header of a file says, for any format."""

    geometry: Geometry
    header: Mapping[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Stored:
    """The numbers of a file before they are given a meaning; a voxel is array * slope + offset."""

    array: Array
    slope: float
    offset: float
    grid: _Grid


# ---- What the other modules call ----


def new_volume(array: Array, geometry: Geometry) -> Volume:
    """A volume that comes from no NIfTI file; written with qform and sform from its geometry."""
    return Volume(array, geometry, _header_from_affine(geometry.affine))


def read_geometry(path: Path) -> Geometry:
    """Shape and affine from the header of ``path`` alone; a DICOM series is read in whole.

    Raises:
        DeepsegError: for a file that is missing, no image, or damaged in its header.
    """
    match _kind(path):
        case "nifti":
            return _nifti_grid(path, _nifti_header(path)).geometry
        case "itk":
            return _itk_grid(path, _itk_header(path)).geometry
        case "dicom":
            return _itk_grid(path, _dicom_series(path)).geometry


def read_image(path: Path, *, nan: Literal["refuse", "replace"] = "refuse") -> Volume:
    """An image as float32, ``(X, Y, Z)``, slope and intercept applied.

    Args:
        nan: Whether voxels that are NaN or infinite are refused, or set to 0 with a warning.

    Raises:
        DeepsegError: ``image-not-finite``, ``image-dtype``, or what is wrong with the file.
    """
    stored = _stored(path)
    if stored.array.dtype.kind == "u" and stored.array.dtype.itemsize == 8:
        raise DeepsegError(_dtype_problem(path, "uint64"))
    array = _as_float32(stored)
    bad = ~np.isfinite(array)
    if not bad.any():
        return Volume(array, stored.grid.geometry, stored.grid.header, stored.grid.warnings)
    found = f"{_count(bad)} NaN or infinite, the first at {_first(bad)}"
    if nan == "refuse":
        raise DeepsegError(
            Problem(
                code="image-not-finite",
                got=found,
                expected="a finite number in every voxel",
                fix="repair the image, or set 'nan: replace' to read these voxels as 0",
                where=str(path),
            )
        )
    array[bad] = 0
    warnings = (*stored.grid.warnings, f"{found}; read as 0")
    return Volume(array, stored.grid.geometry, stored.grid.header, warnings)


def read_labels(path: Path, label_map: Mapping[int, int] | None = None) -> Volume:
    """Labels in the smallest integer type that holds them, ``(X, Y, Z)``.

    Labels stored as floats come back up to 1e-3 beside the whole number that was meant; they are
    rounded, never truncated.

    Args:
        label_map: Label in the file to label wanted, all at once; others stay as they are.

    Raises:
        DeepsegError: ``labels-not-integers``, or what is wrong with the file.
    """
    stored = _stored(path)
    labels, fractional = _whole_numbers(stored)
    if fractional.any():
        first = _value(stored, fractional)
        raise DeepsegError(
            Problem(
                code="labels-not-integers",
                got=f"{_count(fractional)} not a whole number, the first {first} at "
                f"{_first(fractional)}",
                expected="whole numbers (at most 0.001 beside one)",
                fix="give the label file, not an image or a probability map, and resample labels "
                "with nearest neighbours",
                where=str(path),
            )
        )
    labels = _smallest_integers(_renamed(labels, label_map or {}))
    return Volume(labels, stored.grid.geometry, stored.grid.header, stored.grid.warnings)


def read_mask(path: Path) -> Volume:
    """A region of interest as bool, ``(X, Y, Z)``: 0 is outside, any other number inside.

    Raises:
        DeepsegError: ``mask-not-binary`` for fractions or negative numbers, or what is wrong with
            the file.
    """
    stored = _stored(path)
    numbers, fractional = _whole_numbers(stored)
    bad = fractional | (numbers < 0)
    if bad.any():
        raise DeepsegError(
            Problem(
                code="mask-not-binary",
                got=f"{_count(bad)} neither 0 nor a positive whole number, the first "
                f"{_value(stored, bad)} at {_first(bad)}",
                expected="0 outside and 1 inside",
                fix="threshold the probability map or give the mask that belongs to the image",
                where=str(path),
            )
        )
    kinds = np.unique(numbers[numbers > 0]).size
    several = (f"the mask holds {kinds} numbers above 0; all count as inside",)
    warnings = stored.grid.warnings + (several if kinds > 1 else ())
    return Volume(numbers > 0, stored.grid.geometry, stored.grid.header, warnings)


def write_volume(path: Path, array: Array, like: Volume) -> None:
    """Write ``array`` as NIfTI (``.nii.gz`` or ``.nii``) on the grid of ``like``, whole or not.

    Whole numbers and bool get the smallest integer type, unsigned where possible; floats become
    float32. Both transforms of the source, their codes, its zooms and its units are kept.

    Raises:
        OutputNotWritable: ``output-not-writable``, if the disk or the system refuses.
    """
    if array.shape != like.geometry.shape:
        raise ValueError(f"array of shape {array.shape} for a grid of {like.geometry.shape}")
    values = array.astype(np.float32) if array.dtype.kind == "f" else _smallest_integers(array)
    second = like.header["sizeof_hdr"] == nib.Nifti2Header.sizeof_hdr
    header = nib.Nifti2Header() if second or max(array.shape) > 32767 else nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    for field in _KEPT_FIELDS[1:]:
        header[field] = like.header[field]
    header["pixdim"][:4] = like.header["pixdim"]
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with replacing(path) as temporary:
        nib.save(image_class(values, None, header), temporary)
        if _has_suffix(path, ".gz"):
            _drain(temporary)


# ---- Numbers and what they mean ----


def _as_float32(stored: _Stored) -> npt.NDArray[np.float32]:
    """The voxels of an image; scaled in float64, one sagittal slice at a time to save memory."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found as infinite
        if (stored.slope, stored.offset) == (1, 0):
            return np.array(stored.array, dtype=np.float32, order="C")
        array = np.empty(stored.array.shape, dtype=np.float32)
        for x, plane in enumerate(stored.array):
            array[x] = plane.astype(np.float64) * stored.slope + stored.offset
    return array


def _scaled(stored: _Stored) -> Array:
    if (stored.slope, stored.offset) == (1, 0):
        return stored.array
    return stored.array.astype(np.float64) * stored.slope + stored.offset


def _whole_numbers(stored: _Stored) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Every voxel as the nearest integer, and where that is further than rounding explains."""
    values = _scaled(stored)
    if values.dtype.kind in "iub":
        return values, np.zeros(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        fits = (np.abs(values - nearest) <= _ROUNDING) & (np.abs(values) < 2.0**53)
    return np.where(fits, nearest, 0).astype(np.int64), ~fits


def _smallest_integers(array: Array) -> Array:
    """``array`` in the smallest integer type that holds it, unsigned if nothing is negative."""
    low, high = int(array.min()), int(array.max())
    signs = "iu"[low >= 0]
    sizes = (np.dtype(f"{signs}{n}") for n in (1, 2, 4, 8))
    smallest = next(t for t in sizes if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.ascontiguousarray(array, dtype=smallest)


def _renamed(labels: Array, label_map: Mapping[int, int]) -> Array:
    if not label_map:
        return labels
    renamed = labels.astype(np.int64)
    for old, new in label_map.items():
        renamed[labels == old] = new
    return renamed


def _count(found: npt.NDArray[np.bool_]) -> str:
    number = int(found.sum())
    return "1 voxel that is" if number == 1 else f"{number} voxels that are"


def _first_index(found: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(found)), found.shape))


def _first(found: npt.NDArray[np.bool_]) -> str:
    return f"voxel {_first_index(found)}"


def _value(stored: _Stored, found: npt.NDArray[np.bool_]) -> str:
    number = float(stored.array[_first_index(found)]) * stored.slope + stored.offset
    return f"{number:.6g}"


# ---- Any file ----


def _stored(path: Path) -> _Stored:
    """The numbers of ``path``, read by the library that knows its format."""
    match _kind(path):
        case "nifti":
            return _nifti_stored(path)
        case "itk":
            return _itk_stored(path, _itk_image(path))
        case "dicom":
            return _itk_stored(path, _dicom_series(path))


def _has_suffix(path: Path, *suffixes: str) -> bool:
    return path.name.lower().endswith(suffixes)


def _kind(path: Path) -> Literal["nifti", "itk", "dicom"]:
    """Which reader ``path`` is for; refuses what has not the name and first bytes of an image."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DeepsegError(_missing(path)) from None
    except (OSError, ValueError) as error:
        raise DeepsegError(_unreadable(path, _reason(path, error))) from error
    if stat.S_ISDIR(mode):
        return "dicom"
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise DeepsegError(_unreadable(path, "a pipe, socket or device"))
    if not _has_suffix(path, *NIFTI_SUFFIXES, *ITK_SUFFIXES):
        raise DeepsegError(_unknown_format(path))
    with _damage_named(path), path.open("rb") as stream:
        beginning = stream.read(512)
    _refuse_stand_in(path, beginning)
    if not _has_suffix(path, *NIFTI_SUFFIXES):
        return "itk"
    _refuse_wrong_compression(path, beginning)
    return "nifti"


def _refuse_stand_in(path: Path, beginning: bytes) -> None:
    """Refuse what downloads and version control leave in place of an image."""
    word = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not beginning:
        problem = _damaged(path, "an empty file", code="image-truncated")
    elif word.startswith(b"version https://git-lfs"):
        problem = _damaged(path, "a Git LFS pointer", fix="fetch the file itself: git lfs pull")
    elif word.startswith(b"/annex/objects"):
        problem = _damaged(path, "a git-annex pointer", fix="fetch the file itself: git annex get")
    elif word.startswith((b"<!doctype", b"<html", b"<?xml")):
        fix = "download it again; the server sent a page, often one that asks to log in"
        problem = _damaged(path, "a web page", fix=fix)
    else:
        return
    raise DeepsegError(problem)


def _refuse_wrong_compression(path: Path, beginning: bytes) -> None:
    is_gzip, named_gzip = beginning.startswith(b"\x1f\x8b"), _has_suffix(path, ".gz")
    if is_gzip and not named_gzip:
        fix = "add .gz to its name"
        raise DeepsegError(
            _damaged(path, "a gzip stream", "a file that is not compressed", fix=fix)
        )
    if named_gzip and not is_gzip:
        fix = f"take .gz from its name if it is a plain image, else {_COPY_AGAIN}"
        raise DeepsegError(
            _damaged(path, "a file that is not compressed", "a gzip stream", fix=fix)
        )


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what the system and the unpacker say about ``path`` into a problem of that file."""
    try:
        yield
    except EOFError as error:
        got = f"a gzip stream that ends early ({error})"
        raise DeepsegError(_damaged(path, got, code="image-truncated")) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DeepsegError(_damaged(path, f"a damaged gzip stream ({error})")) from error
    except OSError as error:
        raise DeepsegError(_unreadable(path, _reason(path, error))) from error


def _size(path: Path) -> int:
    """Bytes in ``path`` once it is unpacked; a gzip stream is verified on the way."""
    with _damage_named(path):
        found = path.stat()
        if not _has_suffix(path, ".gz"):
            return found.st_size
        return _verified_size(path.absolute(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _verified_size(path: Path, _size: int, _modified_ns: int) -> int:
    """The verdict on a gzip file, kept for as long as its size and time stay the same."""
    return _drain(path)


def _drain(path: Path) -> int:
    """Read a gzip file to its end, where its checksum is compared; the bytes it holds."""
    total = 0
    with gzip.open(path) as stream:
        try:
            while chunk := stream.read1(1 << 20):
                total += len(chunk)
        except EOFError:
            raise EOFError(f"{total} bytes unpacked") from None
    return total


def _missing(path: Path) -> Problem:
    got, fix = "no such file", "correct the path"
    if path.is_symlink():
        target = str(path.readlink())
        got = f"a link to {target}, which does not exist"
        fix = "fetch the file itself: git annex get" if "annex" in target else "repair the link"
    elif path.parent.is_dir():
        fix += did_you_mean(path.name, (entry.name for entry in path.parent.iterdir()))
    else:
        parent = next(p for p in path.parents if p.is_dir() or p == p.parent)
        got = f"no folder {path.relative_to(parent).parts[0]} in {parent}"
    return Problem("file-missing", got, "an image file", fix, str(path))


def _reason(path: Path, error: Exception) -> str:
    if not isinstance(error, PermissionError):
        return getattr(error, "strerror", None) or str(error)
    try:
        return f"no permission for user {os.getuid()} (mode {path.stat().st_mode & 0o7777:04o})"
    except OSError:
        return f"no permission for user {os.getuid()} in its folder"


def _unreadable(path: Path, got: str) -> Problem:
    fix = "give a file that this user may read"
    return Problem("file-unreadable", got, "a readable image file", fix, str(path))


def _unknown_format(path: Path) -> Problem:
    return Problem(
        code="file-format",
        got=f"the suffix {''.join(path.suffixes[-2:]) or 'of no format'}",
        expected=f"one of {', '.join(NIFTI_SUFFIXES + ITK_SUFFIXES)}, or a folder with one "
        "DICOM series",
        fix="convert the file to .nii.gz",
        where=str(path),
    )


def _damaged(
    path: Path,
    got: str,
    expected: str = "an image",
    *,
    code: str = "image-damaged",
    fix: str = _COPY_AGAIN,
) -> Problem:
    return Problem(code, got, expected, fix, str(path))


def _dtype_problem(path: Path, dtype: str) -> Problem:
    return Problem(
        code="image-dtype",
        got=f"voxels of type {dtype}",
        expected="one integer of at most 32 bits (64 if signed, or in labels) or one float of at "
        "most 64 bits per voxel",
        fix="convert the image, with one file per channel",
        where=str(path),
    )


def _three_dimensional(path: Path, sizes: Sequence[int]) -> Int3:
    """``sizes`` without trailing ones, or with one more for a flat image."""
    shape = tuple(int(n) for n in sizes)
    if len(shape) < 2 or min(shape) < 1:
        raise DeepsegError(_damaged(path, f"a header with the dimensions {shape}"))
    extra = shape[3:]
    if any(n != 1 for n in extra):
        values = " x ".join(str(n) for n in extra if n != 1)
        kind = "volumes" if len(extra) == 1 else "values per voxel"
        raise DeepsegError(
            Problem(
                code="image-not-3d",
                got=f"{len(shape)}D with {values} {kind}",
                expected="3D, one volume per file",
                fix="save them as one file each; list them as channels",
                where=str(path),
            )
        )
    x, y, z = (*shape, 1)[:3]
    return x, y, z


def _geometry(path: Path, shape: Int3, affine: Array) -> Geometry:
    """The geometry, if its affine can be inverted."""
    matrix = np.asarray(affine, dtype=np.float64)
    sides = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all():
        got = "an affine matrix that holds NaN or infinity"
    elif abs(np.linalg.det(matrix[:3, :3])) <= _FLAT * sides.prod():
        got = "a singular affine matrix"
    else:
        return Geometry(shape, matrix)
    raise DeepsegError(
        Problem(
            code="affine-singular",
            got=got,
            expected="an affine matrix that gives every voxel its own place",
            fix="write the image again with the affine matrix of its source",
            where=str(path),
        )
    )


# ---- NIfTI ----


def _nifti_stored(path: Path) -> _Stored:
    data_file = _renamed_suffix(path, ".hdr", ".img")
    present = _size(data_file) if data_file.is_file() else 0
    header = _nifti_header(path)
    grid = _nifti_grid(path, header)
    shape, dtype, begin = (
        grid.geometry.shape,
        _nifti_dtype(path, header),
        _nifti_begin(path, header),
    )
    needed = begin + volume(shape) * dtype.itemsize
    if present < needed:  # found before memory is taken for what the header promises
        expected = f"{needed} bytes: {text(shape)} voxels of {dtype.name} from byte {begin} on"
        raise DeepsegError(
            _damaged(data_file, f"{present} bytes", expected, code="image-truncated")
        )
    with _damage_named(data_file), _opened(data_file) as stream:
        array = array_from_file(shape, dtype, stream, begin, mmap=False)
    try:
        slope, offset = header.get_slope_inter()
    except HeaderDataError as error:
        raise DeepsegError(_damaged(path, "an intercept that is not finite")) from error
    return _Stored(array, 1.0 if slope is None else slope, 0.0 if offset is None else offset, grid)


def _renamed_suffix(path: Path, suffix: str, other: str) -> Path:
    """The .img of an .hdr, or the other way round; ``path`` itself if it is no such file."""
    for ending in (suffix, f"{suffix}.gz"):
        if _has_suffix(path, ending):
            stem = path.name[: -len(ending)]
            return path.with_name(stem + ending.replace(suffix, other))
    return path


def _opened(path: Path) -> Any:
    return gzip.open(path) if _has_suffix(path, ".gz") else path.open("rb")


def _nifti_header(path: Path) -> Any:
    """The header as it is in the file, with its size, dimensions and voxel sides checked.

    nibabel would repair zero and negative sides silently, so its own checks are off.
    """
    for part in (_renamed_suffix(path, ".img", ".hdr"), _renamed_suffix(path, ".hdr", ".img")):
        if part != path:
            _kind(part)
    header_file = _renamed_suffix(path, ".img", ".hdr")
    with _damage_named(header_file), _opened(header_file) as stream:
        beginning = stream.read(nib.Nifti2Header.sizeof_hdr)
    header = _parsed_header(path, beginning)
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise DeepsegError(_damaged(path, f"a header with {dimensions} dimensions"))
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # NIfTI-1 standard: "if qfac is 0, 1 is used"
    if dimensions == 2 and not header["pixdim"][3] > 0:
        header["pixdim"][3] = 1
    sides = [float(side) for side in header["pixdim"][1:4]]
    if not all(0 < side < float("inf") for side in sides):
        raise DeepsegError(_spacing_problem(path, sides))
    return header


def _parsed_header(path: Path, beginning: bytes) -> Any:
    for kind, order in product((nib.Nifti1Header, nib.Nifti2Header), "<>"):
        size = kind.sizeof_hdr
        if beginning[:4] != struct.pack(f"{order}i", size) or len(beginning) < size:
            continue
        header = kind(beginning[:size], order, check=False)
        if bytes(header["magic"]).startswith((b"n+", b"ni")):
            return header
        fix = "convert it to NIfTI with the program that wrote it"
        got = "an Analyze header, which does not say where left and right are"
        raise DeepsegError(_damaged(path, got, "a NIfTI header", code="file-format", fix=fix))
    got = f"a file that begins with {beginning[:8]!r}"
    raise DeepsegError(_damaged(path, got, "a NIfTI header"))


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
        raise DeepsegError(_dtype_problem(path, f"number {header['datatype']}")) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DeepsegError(_dtype_problem(path, header.get_value_label("datatype")))
    return dtype


def _nifti_begin(path: Path, header: Any) -> int:
    """Byte at which the voxels begin."""
    is_pair = _has_suffix(path, ".hdr", ".hdr.gz", ".img", ".img.gz")
    begin = float(header["vox_offset"])
    if not (0 if is_pair else header.sizeof_hdr) <= begin < 2.0**62:
        raise DeepsegError(_damaged(path, f"voxels that begin at byte {begin:g}, in the header"))
    return int(begin)


def _nifti_grid(path: Path, header: Any) -> _Grid:
    shape = _three_dimensional(path, header["dim"][1 : int(header["dim"][0]) + 1])
    unit, mm = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    to_mm = np.diag([mm, mm, mm, 1])
    qform = to_mm @ _qform(header)
    has_qform, has_sform = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    warnings = [f"the header counts in {unit}; read as mm"] if unit else []
    if has_sform:
        geometry = _geometry(path, shape, to_mm @ header.get_sform())
        warnings += _disagreement(geometry, qform) if has_qform else []
    elif has_qform:
        geometry = _geometry(path, shape, qform)
    else:
        geometry = _geometry(path, shape, to_mm @ header.get_base_affine())
        warnings.append("qform and sform codes are both 0, so left and right are unknown")
    plain = path.with_name(path.name[: -len(".gz")])
    if _has_suffix(path, ".gz") and plain.exists():
        warnings.append(f"{plain.name} lies in the same folder; {path.name} is read")
    return _Grid(geometry, _kept_fields(header), tuple(warnings))


def _qform(header: Any) -> Affine:
    """The matrix of the quaternion; NaN if it is none."""
    try:
        matrix: Affine = header.get_qform()
    except (ValueError, HeaderDataError):
        return np.full((4, 4), np.nan)
    return matrix


def _disagreement(sform: Geometry, qform: Affine) -> list[str]:
    if not np.isfinite(qform).all():
        return ["qform is not a rotation; sform is used"]
    distance = sform.distance_mm(Geometry(sform.shape, qform))
    if distance <= _DISAGREEMENT * min(sform.spacing_mm):
        return []
    return [f"qform and sform disagree by {distance:.3g} mm; sform is used"]


def _kept_fields(header: Any) -> Mapping[str, Any]:
    kept = {field: np.array(header[field]) for field in _KEPT_FIELDS}
    return {**kept, "pixdim": np.array(header["pixdim"][:4])}


def _header_from_affine(affine: Affine) -> Mapping[str, Any]:
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    if not np.allclose(header.get_qform(), affine, atol=1e-3):
        header["qform_code"] = 0  # a quaternion has no room for shears
    return _kept_fields(header)


# ---- MetaImage, NRRD, DICOM ----


@contextlib.contextmanager
def _itk_damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        expected = "a whole image"
        raise DeepsegError(_damaged(path, "a damaged or incomplete image", expected)) from error


def _itk_header(path: Path) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _itk_damage_named(path):
        reader.ReadImageInformation()
    return reader


def _itk_image(path: Path) -> Any:
    reader = _itk_header(path)
    _three_dimensional(path, reader.GetSize())
    if _has_suffix(path, ".mha", ".mhd"):
        _refuse_damaged_metaimage(path)
    with _itk_damage_named(path):
        return reader.Execute()


def _refuse_damaged_metaimage(path: Path) -> None:
    """Unpack a compressed MetaImage once: SimpleITK ignores a wrong checksum in it."""
    fields: dict[str, str] = {}
    with _damage_named(path), path.open("rb") as stream:
        while "ElementDataFile" not in fields and (line := stream.readline()):
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
        begin = stream.tell()
    if fields.get("CompressedData", "").lower() != "true":
        return
    name = fields["ElementDataFile"]
    data_file, begin = (path, begin) if name == "LOCAL" else (path.with_name(name), 0)
    with _damage_named(data_file), data_file.open("rb") as stream:
        stream.seek(begin)
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, as the data says
        while chunk := stream.read(1 << 20):
            unpacker.decompress(chunk)
        if not unpacker.eof:
            raise EOFError(f"{stream.tell() - begin} bytes packed")


def _dicom_series(folder: Path) -> Any:
    """The one DICOM series in ``folder``, slices ordered by their place in the patient."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what it warns of is refused here
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise DeepsegError(_series_problem(folder, len(series)))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    lost = sorted(
        {p.name for p in folder.iterdir() if _is_dicom(p)} - {Path(n).name for n in names}
    )
    if lost:
        raise DeepsegError(_damaged(folder / lost[0], "a DICOM file that is damaged"))
    with _itk_damage_named(folder):
        if len(names) == 1:
            return sitk.ReadImage(names[0])
        image = sitk.ReadImage(names)
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
        got = f"{len(names)} slices at unequal distances"
        fix = "add the missing slices or resample the series to equal distances"
        raise DeepsegError(_damaged(folder, got, "slices at equal distances", fix=fix))
    return image


def _is_dicom(path: Path) -> bool:
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return False
    with _damage_named(path), path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" or _has_suffix(path, ".dcm", ".ima")


def _series_problem(folder: Path, number: int) -> Problem:
    return Problem(
        code="dicom-series",
        got=f"a folder with {number or 'no'} DICOM series",
        expected="an image file, or a folder with one DICOM series",
        fix="give each series its own folder" if number else "give the image file itself",
        where=str(folder),
    )


def _itk_stored(path: Path, image: Any) -> _Stored:
    if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in image.GetPixelIDTypeAsString():
        raise DeepsegError(_dtype_problem(path, image.GetPixelIDTypeAsString()))
    grid = _itk_grid(path, image)
    return _Stored(sitk.GetArrayFromImage(image).T.reshape(grid.geometry.shape), 1.0, 0.0, grid)


def _itk_grid(path: Path, source: Any) -> _Grid:
    """The grid of an image or of a reader; SimpleITK counts to the left, the back and the head."""
    shape = _three_dimensional(path, source.GetSize())
    axes = min(len(source.GetSize()), 3)
    direction = np.reshape(source.GetDirection(), (len(source.GetSize()),) * 2)
    affine = np.eye(4)
    affine[:axes, :axes] = (direction * source.GetSpacing())[:axes, :axes]
    affine[:axes, 3] = source.GetOrigin()[:axes]
    geometry = _geometry(path, shape, np.diag([-1, -1, 1, 1]) @ affine)
    return _Grid(geometry, _header_from_affine(geometry.affine), ())
